"""Imports run one way between folders, and nothing heavy loads with `import pgjax`."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pgjax

PACKAGE = Path(pgjax.__file__).parent
# Modules at the top, and folders. A row imports only from the rows above it and from itself; the
# folders of one row do not know each other.
ROWS = [
    {"errors", "types", "requirements"},
    {"numerics"},
    {"returns", "distributions", "losses", "advantages", "diagnostics"}
    | {"policies", "nnx", "torsos"},
    {"envs"},
    {"algorithms", "gym"},
    {"collect", "gradcheck", "config"},
    {"runs"},
    {"training", "evaluation"},
    {"commands"},
    {"cli"},
]
ROW = {name: i for i, row in enumerate(ROWS) for name in row}
SHELL_ONLY = {
    "gymnasium",
    "orbax",
    "matplotlib",
    "plotly",
    "jinja2",
    "tyro",
    "rich",
    "tensorboardX",
    "wandb",
    "envpool",
}
WITHOUT_SHELL = [
    *(f"{name}.py" for row in ROWS[:3] for name in row),
    *("numerics", "algorithms", "gradcheck", "envs"),
    *(f"collect/{name}.py" for name in ("on_device", "noise", "policy_fit", "dispatch")),
]
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or "__" not in p.name)


def place_of(path):
    """The module at the top, or the folder, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """Packages of others, and modules or folders of pgjax, that a file imports anywhere."""
    outside, inside = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "pgjax":
            names = [f"pgjax.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == "pgjax":
                inside.add(rest.partition(".")[0])
            else:
                outside.add(top)
    return outside, inside


def test_ten_rows_hold_every_module_and_folder():
    places = {place_of(p) for p in FILES}
    assert len(ROWS) == 10
    assert places == set(ROW)
    modules = [name for name in places if (PACKAGE / f"{name}.py").exists()]
    assert (len(modules), len(places) - len(modules)) == (11, 12)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    outside, inside = imported(path)
    place = place_of(path)
    # The modules of a row at the top may import each other; the folders of a row may not.
    alone = {place} if (PACKAGE / place).is_dir() else ROWS[ROW[place]]
    assert all(ROW[name] < ROW[place] or name in alone for name in inside), inside
    relative = str(path.relative_to(PACKAGE))
    if relative.startswith(tuple(WITHOUT_SHELL)) and relative != "envs/adapters.py":
        assert not outside & SHELL_ONLY
    assert not outside & {"pickle", "cloudpickle", "torch"}


def printed(script):
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_import_loads_nothing_heavy_and_sets_nothing():
    script = """
import sys, warnings, numpy, jax
import flax, optax, chex, gymnasium
before = dict(jax.config.values), numpy.geterr(), list(warnings.filters)
import pgjax
shown_or_written = {"compare", "evaluate", "export", "plot", "render", "report", "verify", "video"}
for name in set(pgjax.__all__) - shown_or_written:
    getattr(pgjax, name)
assert (dict(jax.config.values), numpy.geterr(), list(warnings.filters)) == before
heavy = {"torch", "matplotlib", "tyro", "pygame", "PIL", "moviepy", "orbax", "plotly", "jinja2"}
print(sorted(heavy & set(sys.modules)))
"""
    assert printed(script) == "[]"


def test_the_store_needs_no_jax():
    script = "import sys, pgjax.runs.store; print({'jax', 'flax', 'numpy'} & set(sys.modules))"
    assert printed(script) == "set()"


def test_each_name_is_itself_whatever_was_imported_before():
    script = """
import pgjax.cli.app, pgjax.evaluation.video, pgjax.runs.export
import pgjax, types
print(sorted(n for n in pgjax.__all__ if isinstance(getattr(pgjax, n), types.ModuleType)))
"""
    modules = """actions advantages diagnostics distributions envs gradcheck losses
        policies returns runs video"""
    assert printed(script) == str(modules.split())


def test_names_of_the_contract():
    for name in """Rollout TrainState Algorithm SoftmaxPolicy GaussianPolicy LessonGaussianPolicy
        ValueNetwork reinforce collect_episodes train TrainConfig collect_episodes_on_device
        training_step""".split():
        assert callable(getattr(pgjax, name))
    for name in "Categorical DiagonalGaussian SquashedGaussian MultiCategorical Bernoulli".split():
        assert callable(getattr(pgjax.distributions, name))
    for name in ("discounted_returns", "lambda_returns", "gae"):
        assert callable(getattr(pgjax.returns, name))
    for name in ("reward_to_go", "gae", "normalized", "leave_one_out"):
        assert callable(getattr(pgjax.advantages, name))
    assert callable(pgjax.envs.make)
    assert (PACKAGE / "py.typed").exists()
