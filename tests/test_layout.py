"""Pure below, shell above, and nothing heavy behind `import pgjax`."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pgjax

PACKAGE = Path(pgjax.__file__).parent
# A file imports only from rows above its own.
ROWS = [
    ["errors", "presets", "store", "choices"],
    ["types", "envs.base", "compiling"],
    ["chunks", "returns", "losses", "distributions", "noise", "rows", "envs.classic", "moments"],
    ["diagnostics", "envs.tabular"],
    ["policies", "advantages", "metrics", "rollout", "digests"],
    ["batches", "expectations"],
    ["algorithms"],
    ["gradcheck"],
    # --- the shell ---
    ["spaces", "results"],
    ["actions", "config", "dispatch", "envs.adapters", "processes", "statistics", "machine"],
    ["stepping"],
    ["episode_log"],
    ["gym_rollout", "streams", "envs"],
    ["engines", "agents"],
    ["runs", "probe"],
    ["recorder", "loop"],
    ["training"],
    ["evaluate", "plot", "verify", "export", "trackers"],
    ["video", "progress", "signals"],
    ["running"],
    ["cli"],
]
FIRST_OF_SHELL = 8
ROW = {name: i for i, row in enumerate(ROWS) for name in row}
SHELL_ONLY = {
    "gymnasium",
    "orbax",
    "matplotlib",
    "tyro",
    "rich",
    "tensorboardX",
    "wandb",
    "envpool",
}


def name_of(path):
    """As it is imported: `envs.base`, and `envs` for the package's own file."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


FILES = sorted(p for p in PACKAGE.rglob("*.py") if name_of(p) not in ("__init__", "__main__"))


def imported(path):
    """Top-level names of other packages, and pgjax modules, that a file imports anywhere."""
    outside, inside = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module in ("pgjax", "pgjax.envs"):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            (inside if top == "pgjax" else outside).add(rest if top == "pgjax" else top)
    return outside, inside


def test_every_file_has_a_row():
    assert {name_of(p) for p in FILES} == set(ROW)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_arrow_points_up(path):
    outside, inside = imported(path)
    row = ROW[name_of(path)]
    assert all(ROW[name] < row for name in inside), inside
    if row < FIRST_OF_SHELL:
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
looked_at = {"evaluate", "export", "plot", "verify", "video"}
for name in set(pgjax.__all__) - looked_at:
    getattr(pgjax, name)
assert (dict(jax.config.values), numpy.geterr(), list(warnings.filters)) == before
heavy = {"torch", "matplotlib", "tyro", "pygame", "PIL", "moviepy", "orbax"}
print(sorted(heavy & set(sys.modules)))
"""
    assert printed(script) == "[]"


def test_the_store_needs_no_jax():
    script = "import sys, pgjax.store; print({'jax', 'flax', 'numpy'} & set(sys.modules))"
    assert printed(script) == "set()"


def test_each_name_is_itself_whatever_was_imported_before():
    script = """
import pgjax.cli, pgjax.video, pgjax.export
import pgjax, types
print(sorted(n for n in pgjax.__all__ if isinstance(getattr(pgjax, n), types.ModuleType)))
"""
    modules = """actions advantages diagnostics dispatch distributions envs evaluate export
        gradcheck losses plot policies returns runs verify video"""
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
    assert pgjax.load is pgjax.runs.load
    assert (PACKAGE / "py.typed").exists()
