"""What the command prints: in one line, on any terminal, and where an error came from."""

import os
import subprocess
import sys
import warnings

import gymnasium as gym
import pytest
from probe_envs import Scripted

import pgjax
from pgjax.cli import app
from pgjax.training import train as training

ENVIRONMENT = """
import gymnasium as gym
import numpy as np
import warnings

class Local(gym.Env):
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, fails=False):
        self._fails = fails

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        assert not self._fails
        return np.zeros(2, np.float32), 1.0, False, False, {}

gym.register("Größe-v0", entry_point=Local, max_episode_steps=5)
gym.register("Fails-v1", entry_point=Local, max_episode_steps=5, kwargs={"fails": True})
"""
SMALL = ("--updates", "1", "--episodes-per-update", "2", "--eval-episodes", "2")


def pgjax_command(*words, cwd, **env):
    """Run the console script, whose sys.path lacks the current folder."""
    script = "import sys; sys.path.remove(''); from pgjax.__main__ import main; main()"
    command = [sys.executable, "-c", script, *words]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, check=False, env={**os.environ, **env}
    )


def test_an_environment_of_the_current_folder_on_an_ascii_terminal(tmp_path):
    (tmp_path / "my_envs.py").write_text(ENVIRONMENT)
    done = pgjax_command(
        "train", "my_envs:Größe-v0", *SMALL, "--num-envs", "1", cwd=tmp_path,
        PYTHONIOENCODING="ascii", PYTHONUTF8="0", TERM="dumb",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode("ascii")
    assert "my_envs:Gr\\xf6\\xdfe-v0, seed 0" in text
    assert "?" not in text


def test_an_error_without_a_message_names_the_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "failing_local.py").write_text(ENVIRONMENT)
    monkeypatch.syspath_prepend(tmp_path)
    line = 1 + ENVIRONMENT.splitlines().index("        assert not self._fails")
    where = f"raised AssertionError (in failing_local.py, line {line})"
    for vectorization in ("sync", "async"):
        config = pgjax.TrainConfig(
            "failing_local:Fails-v1", updates=1, vectorization=vectorization, num_envs=2,
            run_dir=tmp_path / vectorization,
        )  # fmt: skip
        with pytest.raises(pgjax.RolloutError) as caught:
            training.train(config)
        assert where in str(caught.value)
    words = ["train", "failing_local:Fails-v1", *SMALL, "--run-dir", str(tmp_path / "run")]
    for more, traces in (([], 0), (["--traceback"], 1)):
        with pytest.raises(SystemExit) as code:
            app.main([*words, *more])
        assert code.value.code == 2
        lines = capsys.readouterr().err.splitlines()
        assert where in lines[-1]
        assert (len(lines) > 1) == bool(traces)
        assert any("assert not self._fails" in x for x in lines) == bool(traces)


def test_an_unknown_environment_may_come_from_a_package():
    with pytest.raises(pgjax.ConfigError, match="[iI]f a package registers it.*module:Id"):
        training.train(pgjax.TrainConfig("NoSuchThing-v0"))


MAIN = """
import sys
import gymnasium as gym
import pgjax
import my_envs

class Mine(my_envs.Local):
    pass

gym.register("Mine-v0", entry_point=Mine, max_episode_steps=5)

def run():
    config = pgjax.TrainConfig("Mine-v0", updates=1, episodes_per_update=2, eval_episodes=2,
                               num_envs=2, vectorization="async", run_dir=sys.argv[1])
    pgjax.train(config)
"""


@pytest.mark.parametrize("guarded", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_processes_know_what_a_script_registers(guarded, tmp_path):
    (tmp_path / "my_envs.py").write_text(ENVIRONMENT)
    end = "if __name__ == '__main__':\n    run()" if guarded else "run()"
    (tmp_path / "script.py").write_text(MAIN + end)
    done = subprocess.run(
        [sys.executable, "script.py", "run"], cwd=tmp_path, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    if guarded:
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "run" / "manifest.json").exists()
    else:
        assert done.returncode != 0
        assert 'if __name__ == "__main__":' in done.stderr.splitlines()[-1]


class Strict(Scripted):
    """Turns all warnings into errors, wherever it can."""

    def reset(self, *, seed=None, options=None):
        warnings.filterwarnings("error")
        return super().reset(seed=seed)

    def step(self, action):
        warnings.filterwarnings("error")
        return super().step(action)


def make_strict():
    warnings.filterwarnings("error")
    return Strict()


gym.register("Strict-v0", entry_point=make_strict, nondeterministic=True)


def test_filters_of_an_environment_do_not_reach_the_warnings_of_pgjax(tmp_path, capsys):
    before = list(warnings.filters)
    app.main(["train", "Strict-v0", *SMALL, "--num-envs", "1", "--run-dir", str(tmp_path / "run")])
    assert "not bit-exact: Strict-v0 declares itself nondeterministic" in capsys.readouterr().err
    assert warnings.filters == before


def test_the_version(capsys):
    app.main(["--version"])
    assert capsys.readouterr().out.startswith("pgjax 0.")


def test_a_closed_pipe_ends_quietly():
    script = "from pgjax.__main__ import main; main()"
    command = [sys.executable, "-c", script, "train", "CartPole-v1", "--help"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait() in (0, 141)
