"""The code in the README, in docs/ and in examples/ runs, with tiny budgets."""

import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, import_with_torch
from documents import blocks

from pgjax.cli import app

README = (ROOT / "README.md").read_text()
SMALLER = {
    "range(30)": "range(2)",
    "length=30": "length=2",
    "updates=30": "updates=2",
}
CODE = [
    pytest.param(
        block, id=block.name, marks=[pytest.mark.slow] if block.slow or block.needs else []
    )
    for block in blocks("python")
]
COMMANDS = sorted(
    {
        command.strip()
        for block in blocks("sh")
        for line in block.code.replace("\\\n", " ").splitlines()
        for command in line.split(" #")[0].split("&&")
        if command.strip().startswith("pgjax ") and "--help" not in command
    }
)


@pytest.mark.filterwarnings("ignore:resumable, not bit-exact")  # of streams over Gymnasium
@pytest.mark.parametrize("block", CODE)
def test_python_blocks_run(block, capsys, tmp_path, monkeypatch):
    if block.needs:
        pytest.importorskip(block.needs)
    monkeypatch.chdir(tmp_path)  # runs are written to the current folder
    code = block.code
    for budget, small in SMALLER.items():
        code = code.replace(budget, small)
    if "num_shards" not in code:
        code = code.replace("num_episodes=16", "num_episodes=4")
    names = {}
    exec(compile(code, "a block", "exec"), names)
    if "info['mean_return']:.1f" in code:
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 2
        assert all(re.fullmatch(r"return \d+\.\d  entropy 0\.\d{3}", line) for line in lines)
        # "A dozen lines", not counting comments and blank lines.
        assert len([x for x in code.splitlines() if x.strip() and not x.startswith("#")]) <= 14


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_of_commands_exist(command):
    words = shlex.split(command)[1:]
    assert callable(app._parse([{"N": "2", "I": "0"}.get(word, word) for word in words]))


def test_the_readme_is_a_front_page():
    assert len(README.splitlines()) <= 150


def test_numbers_of_the_readme_were_measured():
    """Each number of its promises stands in the benchmarks, or in the matrix of what is tested."""
    promises = README[README.index("- **Correct.**") : README.index("## Install")]
    pages = "benchmarks/README.md", "docs/reproducibility.md"
    measured = "\n".join((ROOT / page).read_text() for page in pages)
    number = r"(?<![\d.,\w-])\d[\d,]*(?:\.\d+)?(?![\w-]|[.,]\d)"
    found = {x.rstrip(",") for x in re.findall(number, promises)}
    assert len(found) > 5
    assert found <= {x.rstrip(",") for x in re.findall(number, measured)}


def test_ci_runs_the_test_command_of_the_readme():
    command = 'pip install -e ".[test]" && pytest'
    assert command in README
    assert command in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize(
    ("script", "options", "words"),
    [
        pytest.param(
            "lesson.py",
            ["--cartpole-episodes", "2", "--pendulum-episodes", "1"],
            ["Episode 2: ", "Pendulum-v1, GaussianPolicy", "lesson's Gaussian", "std from"],
            marks=pytest.mark.slow,
        ),
        ("torch_lesson.py", ["--episodes", "2"], ["Episode 2: "]),
        pytest.param(
            "own_environment.py",
            ["--updates", "2"],
            ["update 2: return -"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "sweep.py",
            ["--updates", "2", "--learning-rates", "3", "--seeds", "2", "--out", "{out}"],
            ["6 runs", "learning rate 0.3000", "sweep.png"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "optuna_sweep.py",
            ["--trials", "2", "--seeds", "1", "--updates", "2", "--out", "{out}.d"],
            ["trial  learning rate", "sweep.png"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "own_policy.py",
            [],
            [f"{name}  update 200  return -" for name in ("Gaussian", "Laplace", "Laplace in NNX")],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "short_corridor.py",
            ["--episodes", "3", "--runs", "4", "--out", "{out}"],
            ["step size 2^-14", "with baseline", "best possible", "J -11.657", "sweep.png"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_examples_run(script, options, words, tmp_path):
    if script.startswith("torch"):
        import_with_torch("torch")
    options = [option.format(out=tmp_path / "sweep.png") for option in options]
    command = [sys.executable, str(ROOT / "examples" / script), *options]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(word in out for word in words), out


@pytest.mark.slow
def test_short_corridor_reaches_the_optimum():
    """100 runs with a baseline reach the book's optimal p(right) and its value."""
    import short_corridor

    _, p = short_corridor.train(2**-10, 2**-9, episodes=1000, runs=100)
    assert np.mean(p) == pytest.approx(0.5858, abs=0.02)
    assert np.mean(short_corridor.value(p)) == pytest.approx(-11.657, abs=0.3)


@pytest.mark.slow
def test_torch_parity_prints_its_table(capsys):
    torch_parity = import_with_torch("torch_parity")

    assert torch_parity.main() == 0
    # One line per policy, dtype and quantity, a header and a verdict.
    assert len(capsys.readouterr().out.splitlines()) == 3 * 2 * 4 + 2
