"""Environments that fail, and processes that receive signals."""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import failing_envs  # noqa: F401  (registers)
import gymnasium as gym
import numpy as np
import pytest
from conftest import assert_trees_equal, rows_of
from gymnasium import spaces
from probe_envs import Scripted

import pgjax
from pgjax.cli.signals import Signals, Stopped
from pgjax.config.agent import make_agent
from pgjax.config.env import make_env, open_env
from pgjax.config.probe import why_not_reproducible
from pgjax.gym.results import StepArrays
from pgjax.gym.serial import SerialEnvs
from pgjax.runs import folder, store
from pgjax.training import train as training

HERE = str(Path(__file__).parents[1])


def collect(how, where, vectorization, num_envs=2):
    """Collect episodes of five steps; the third episode of an environment fails."""
    config = pgjax.TrainConfig(
        "failing_envs:Fails-v0", num_envs=num_envs, vectorization=vectorization, hidden_sizes=(4,)
    )
    with open_env(config, how=how, where=where, resets=2) as env:
        agent = make_agent(config, env)
        pgjax.collect_episodes(env.env, agent.algorithm, agent.init(0), 6, step_timeout=0.5)


WORDS = {
    "raises": "the environment raised ZeroDivisionError: in the environment",
    "hangs": "the environment has not returned for .*0.5 s",
    "dies": "the environment died: its process has exited",
}


@pytest.mark.parametrize(
    ("how", "where", "vectorization"),
    [
        ("raises", "step", "sync"),
        pytest.param("raises", "reset", "sync", marks=pytest.mark.slow),
        ("hangs", "step", "sync"),
        ("raises", "step", "async"),
        ("hangs", "step", "async"),
        ("dies", "step", "async"),
        pytest.param("dies", "reset", "async", marks=pytest.mark.slow),
    ],
)
def test_the_error_names_the_environment_and_its_replay(how, where, vectorization):
    # The first two episodes end together, so the next two fail together.
    which = "environment [01], episode [23]" if how == "dies" else "environment 0, episode 2"
    when = "step 1" if where == "step" else "reset"
    message = rf"{which} \(reset seed \d+\), {when}: {WORDS[how]}"
    with pytest.raises(pgjax.RolloutError, match=message) as caught:
        collect(how, where, vectorization)
    replay = caught.value.replay
    assert f"reset seed {replay['reset_seed']}" in str(caught.value)
    assert len(replay["actions"]) == (2 if where == "step" else 0)
    if how == "raises" and vectorization == "sync":
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        # By hand: an environment that has been reset once before fails there, and not sooner.
        env = gym.make("Fails-v0", where=where, resets=1).unwrapped
        if where == "step":
            env.reset(seed=replay["reset_seed"])
            env.step(np.int64(replay["actions"][0]))
            with pytest.raises(ZeroDivisionError):
                env.step(np.int64(replay["actions"][1]))


OBS = np.zeros(3, np.float32)
BYTES = spaces.Box(0, 255, (3,), np.uint8)


@pytest.mark.parametrize(
    ("where", "result", "seen", "words"),
    [
        ("reset", OBS, None, r"reset: the environment returned array.*, not \(observation, info\)"),
        ("reset", None, None, "reset: the environment returned None, not"),
        ("reset", SystemExit(0), None, "reset: the environment raised SystemExit: 0"),
        ("reset", ([[1], [2, 3]], {}), None, r"step 0: the observation is \[\[1\], \[2, 3\]\]"),
        ("reset", (OBS, {}), BYTES, "step 0: the observation .*float32.* needs dtype uint8"),
        (
            "reset",
            (1.5, {}),
            spaces.Discrete(3),
            "step 0: the observation is 1.5 .float., but .* an integer",
        ),
        (
            "reset",
            (None, {}),
            spaces.Discrete(3),
            "step 0: the observation is None .NoneType., but",
        ),
        ("step", (OBS, 1.0, True, {}), None, "step 0: step returned 4 values, not"),
        ("step", None, None, "step 0: step returned None, not"),
        ("step", (OBS, None, True, False, {}), None, "step 0: the reward is None"),
        (
            "step",
            (OBS, 1.0, OBS == 0, False, {}),
            None,
            "step 0: terminated is array.* not True or False",
        ),
    ],
)
def test_malformed_results_are_rejected(where, result, seen, words):
    config = pgjax.TrainConfig("failing_envs:Returns-v0", num_envs=1)
    with open_env(config, where=where, result=result, obs_space=seen) as env:
        agent = make_agent(config, env)
        with pytest.raises(pgjax.RolloutError, match=words):
            pgjax.collect_episodes(env.env, agent.algorithm, agent.init(0), 1)


@pytest.mark.parametrize("result", [(OBS, 1.0, True, {}), None])
def test_a_result_that_a_wrapper_cannot_unpack_is_explained(result):
    """With a time limit, Gymnasium's wrapper reads the result before pgjax does."""
    config = pgjax.TrainConfig("failing_envs:Returns-v0", num_envs=1, max_episode_steps=9)
    words = r"unpack.*: step must return \(observation, reward, terminated, truncated, info\)"
    with open_env(config, where="step", result=result) as env:
        agent = make_agent(config, env)
        with pytest.raises(pgjax.RolloutError, match=words):
            pgjax.collect_episodes(env.env, agent.algorithm, agent.init(0), 1)


def no_spaces():
    return type("Bare", (gym.Env,), {})()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: {}["level"], "cannot make the environment .*: it raised KeyError: 'level'"),
        (lambda: sys.exit(0), "cannot make the environment .*: it raised SystemExit"),
        (no_spaces, "observation space None is not one of gymnasium.spaces"),
        (lambda: Scripted((3,)), r"observation space \(3,\) is not one of gymnasium.spaces"),
        (lambda: Scripted(spaces.Discrete(10**9)), "has 1,000,000,000 numbers, not 1 to"),
        (lambda: Scripted(spaces.Box(0, 1, (0,))), "observation space .* has 0 numbers"),
        (lambda: Scripted(None, spaces.Box(0, 1, (2, 0))), "action space .* has 0 numbers"),
        (lambda: Scripted(None, spaces.Discrete(2**40)), "action space .* numbers, not 1 to"),
        (lambda: Scripted(spaces.Sequence(BYTES)), "Sequence is not supported"),
    ],
)
@pytest.mark.parametrize("num_envs", [1, 2])
def test_an_environment_that_cannot_be_made(make, words, num_envs, monkeypatch):
    monkeypatch.delitem(gym.registry, "Unmade-v0", raising=False)
    gym.register("Unmade-v0", entry_point=make)
    with pytest.raises(pgjax.ConfigError, match=words):
        make_env(pgjax.TrainConfig("Unmade-v0", num_envs=num_envs))


def test_an_environment_that_hangs_immediately_is_reported_and_not_probed_first(tmp_path):
    gym.register(
        "HangsAtOnce-v0",
        entry_point="failing_envs:Fails",
        max_episode_steps=100,
        kwargs={"how": "hangs", "resets": 1},
    )
    config = pgjax.TrainConfig("HangsAtOnce-v0", step_timeout=0.2, run_dir=tmp_path / "run")
    with pytest.raises(pgjax.RolloutError, match="0.2 s: correct it, or raise --step-timeout"):
        training.train(config)
    assert why_not_reproducible(config) is None
    assert list(tmp_path.iterdir()) == []


def test_slow_is_not_hanging():
    class Slow(gym.Wrapper):
        def step(self, action):
            time.sleep(0.05)
            return self.env.step(action)

    obs = np.zeros((1, 4))
    envs = SerialEnvs([Slow(gym.make("CartPole-v1"))])
    before = signal.getsignal(signal.SIGALRM)
    with envs.step_timeout(0.2):
        envs.reset({0: 1}, obs)
        for _ in range(10):
            envs.step([0], [0], StepArrays(obs, np.zeros(1), *np.zeros((2, 1), bool), np.zeros(1)))
        time.sleep(0.5)  # outside of any environment
    assert signal.getsignal(signal.SIGALRM) is before


@pytest.mark.parametrize(
    ("env_id", "why"),
    [
        ("CartPole-v1", None),
        ("Pendulum-v1", None),
        ("FrozenLake-v1", None),
        ("failing_envs:Drifts-v0", "different episodes for the same reset seed"),
        ("failing_envs:SaysSo-v0", "declares itself nondeterministic"),
    ],
)
def test_the_probe_finds_environments_that_cannot_repeat_an_episode(env_id, why):
    reason = why_not_reproducible(pgjax.TrainConfig(env_id))
    assert reason is None if why is None else why in reason


def test_an_unreproducible_environment_is_reported_once_and_in_the_manifest(tmp_path):
    config = pgjax.TrainConfig(
        "failing_envs:Drifts-v0", updates=2, episodes_per_update=2, run_dir=tmp_path / "run"
    )
    with pytest.warns(pgjax.RunWarning, match="resumable, not bit-exact") as warned:
        training.train(config)
    assert len(warned) == 1
    manifest = store.read_sealed(tmp_path / "run" / "manifest.json")
    assert manifest["bit_exact"] is False
    assert "different episodes" in manifest["not_bit_exact_because"]


def start(*argv):
    """Run the command line in its own process group, as a terminal does."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([HERE, *sys.path])}
    # A shell makes its background jobs ignore SIGINT, and the child would inherit that.
    command = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    command += "os.execv(sys.executable, [sys.executable, '-m', 'pgjax', *sys.argv[1:]])"
    return subprocess.Popen(
        [sys.executable, "-c", command, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True, env=env,
    )  # fmt: skip


def wait_for_updates(path, count):
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if (path / "metrics.jsonl").exists() and len(folder.read_lines(path / LOG)) >= count:
            return
        time.sleep(0.02)
    raise AssertionError("too few updates in two minutes")


LOG = "metrics.jsonl"


def group_is_gone(process):
    for _ in range(30):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("training", [True, False])
def test_a_signal_waits_for_the_end_of_an_update_while_training(training):
    before = signal.getsignal(signal.SIGTERM)
    with Signals() as signals:
        signals.check()  # no signal yet
        if training:
            signals.start(None)
        waits = contextlib.nullcontext() if training else pytest.raises(Stopped)
        with waits:
            os.kill(os.getpid(), signal.SIGTERM)
        if training:
            with pytest.raises(KeyboardInterrupt):
                signals.update([], {})
        signals.check()  # raised only once
        assert signals.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "options"),
    [
        (signal.SIGINT, 130, ["--vectorization", "async", "--num-envs", "2"]),
        (signal.SIGTERM, 143, ["--on-device"]),
    ],
)
def test_a_signal_ends_a_run_that_can_be_resumed(number, code, options, tmp_path):
    path = tmp_path / "run"
    common = ["train", "CartPole-v1", "--episodes-per-update", "2", "--updates", "100000"]
    process = start(*common, *options, "--run-dir", str(path))
    wait_for_updates(path, 3)
    begun = time.monotonic()
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - begun < 5.5
    assert process.returncode == code
    assert len(err.strip().splitlines()) == 1, err
    assert "interrupted (after" in err
    assert err.endswith(f"; to continue: pgjax resume {path})\n")
    assert group_is_gone(process)
    run = pgjax.load(path)
    assert (
        int(run.state.step) == len(rows_of(run)) == len(folder.read_lines(path / "digests.jsonl"))
    )


@pytest.mark.slow
def test_workers_end_with_a_process_that_is_killed(tmp_path):
    path = tmp_path / "run"
    process = start(
        "train", "CartPole-v1", "--episodes-per-update", "2", "--updates", "100000",
        "--vectorization", "async", "--num-envs", "2", "--run-dir", str(path),
    )  # fmt: skip
    wait_for_updates(path, 2)
    process.kill()
    process.communicate(timeout=20)
    assert group_is_gone(process)
    assert multiprocessing.active_children() == []
    assert json.loads((path / "config.json").read_text())["updates"] == 100000


class Informs(Scripted):
    """Returns infos that do not fit together, and has a default for options of None."""

    def reset(self, *, seed=None, options=None):
        obs, _ = super().reset(seed=seed)
        self._length += options is not None
        return obs, None

    def step(self, action):
        *result, _ = super().step(action)
        return *result, {"ragged": [[1], [2, 3]] if self._t % 2 else 5, 7: None}


gym.register("Informs-v0", entry_point="test_failures:Informs")


def test_infos_and_options_do_not_matter_in_processes():
    rollouts = []
    for vectorization in ("sync", "async"):
        config = pgjax.TrainConfig(
            "test_failures:Informs-v0", num_envs=2, vectorization=vectorization, hidden_sizes=(4,)
        )
        with open_env(config) as env:
            agent = make_agent(config, env)
            rollouts.append(pgjax.collect_episodes(env.env, agent.algorithm, agent.init(0), 3))
    assert_trees_equal(*rollouts)


def test_a_malformed_result_in_a_process_is_named_as_in_this_one():
    config = pgjax.TrainConfig("failing_envs:Returns-v0", num_envs=2, vectorization="async")
    result = (OBS, "1.5", True, False, {})
    with open_env(config, where="step", result=result) as env:
        agent = make_agent(config, env)
        with pytest.raises(pgjax.RolloutError, match=r"step 0: the reward is '1.5' \(str\), not a"):
            pgjax.collect_episodes(env.env, agent.algorithm, agent.init(0), 2)


class Single(Scripted):
    """Only one may be open at a time."""

    open = 0

    def __init__(self, **options):
        super().__init__(**options)
        Single.open += 1
        assert Single.open == 1, "another one is open"

    def close(self):
        Single.open -= 1


gym.register("Single-v0", entry_point=Single, max_episode_steps=20)


def test_an_environment_of_which_only_one_may_be_open(tmp_path):
    config = pgjax.TrainConfig(
        "Single-v0", updates=2, episodes_per_update=2, hidden_sizes=(4,), num_envs=1,
        run_dir=tmp_path / "run",
    )  # fmt: skip
    run = training.train(config)
    assert store.read_sealed(run.path / "manifest.json")["bit_exact"] is True
    assert pgjax.evaluate(pgjax.load(run.path), 5)["episodes"] == 5
    assert Single.open == 0


class Rarely(Scripted):
    """An episode depends on the one before, but not if that is the same."""

    before = 0

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        changed, self.before = self.before not in (0, self._id), self._id
        self._length += changed
        self._buffer[2] += changed
        return obs, info


gym.register("Rarely-v0", entry_point=Rarely)


def test_the_probe_plays_another_episode_in_between():
    assert "different episodes" in why_not_reproducible(pgjax.TrainConfig("Rarely-v0"))
