"""Types reach a user: mypy and pyright check scripts outside the checkout, as installed by pip."""

import re
import subprocess
import sys
import sysconfig

import pytest
from conftest import ROOT
from documents import blocks

SNIPPETS = [block.code for block in blocks("python") if not block.needs]
SCRIPT = '''
"""What a researcher writes: a loop, an estimator, a policy, an environment of their own."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import jax
import numpy as np
import optax
import pgjax
from pgjax import advantages, distributions, envs, gradcheck, returns
from pgjax.advantages import gae, normalized
from pgjax.config import TrainConfig

algorithm: pgjax.Algorithm = pgjax.reinforce(
    pgjax.SoftmaxPolicy(2),
    optax.adam(1e-3),
    critic=pgjax.ValueNetwork(),
    estimator=normalized(gae(0.99, 0.95)),
    mean_over="steps",
)
env = gym.make("CartPole-v1")
obs, _ = env.reset(seed=0)
state: pgjax.TrainState = algorithm.init(jax.random.key(0), np.zeros(4, np.float32))
action: jax.Array = algorithm.act(state.params, jax.random.key(1), obs)
log_prob: jax.Array = algorithm.log_prob(state.params, obs, np.int32(1))
rollout: pgjax.Rollout = pgjax.collect_episodes(env, algorithm, state, num_episodes=2)
state, info = algorithm.update(state, rollout)
mean_return: float = float(info["mean_return"])
to_go: jax.Array = returns.discounted_returns(np.ones(3), 0.9)
by_hand = rollout._replace(reward=np.ones(rollout.reward.shape, np.float32))
advantage: jax.Array = advantages.reward_to_go(gamma=0.9)(by_hand, np.zeros((8, 2)), None)
cart_pole: envs.Env = envs.make("CartPole-v1")
on_device: pgjax.Rollout = pgjax.collect_episodes_on_device(cart_pole, algorithm, state, 2)
step = pgjax.training_step(algorithm, cart_pole, 2)
state, info = step(state)
entropy: jax.Array = distributions.Categorical(np.zeros(3)).entropy()
rows: Sequence[gradcheck.Row] = gradcheck.check(gradcheck.CASES[:1])
config = TrainConfig("CartPole-v1", updates=2)
run = pgjax.train(config)
result: dict[str, Any] = pgjax.evaluate(run)
pgjax.plot(run.path)
'''
# What a user must not be able to write; each line is one error.
WRONG = """
import optax
import pgjax

pgjax.reinforce(pgjax.SoftmaxPolicy(2), optax.adam(1e-3), mean_over="minutes")
pgjax.TrainConfig("CartPole-v1", estimator="best")
pgjax.returns.discounted_returns("rewards", 0.9)
"""


@pytest.fixture(scope="module", params=["editable", pytest.param("wheel", marks=pytest.mark.slow)])
def user(request, tmp_path_factory):
    """A folder outside the checkout, with an environment in which pip has installed pgjax."""
    folder = tmp_path_factory.mktemp(request.param)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    # The other packages come from the environment of the tests, but not its own pgjax.
    (folder / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (folder / "others.pth").rename(f"{site}/others.pth")
    target = ["-e", str(ROOT)] if request.param == "editable" else [str(ROOT)]
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps"]
    subprocess.run([*pip, *target], check=True)
    # optax has no type information of its own.
    (folder / "mypy.ini").write_text("[mypy]\n[mypy-optax.*]\nignore_missing_imports = True\n")
    return folder, python


def check(checker, user, sources):
    """The report of a type checker on scripts in a user's folder."""
    folder, python = user
    for i, source in enumerate(sources):
        (folder / f"script_{i}.py").write_text(source)
    names = [f"script_{i}.py" for i in range(len(sources))]
    options = {
        "mypy": [
            "--python-executable", str(python), "--config-file", "mypy.ini",
            "--cache-dir", str(folder.parent / "mypy"),  # what is not pgjax is read once
        ],
        "pyright": ["--pythonpath", str(python)],
    }[checker]  # fmt: skip
    command = [sys.executable, "-m", checker, *options, *names]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("checker", [pytest.param("mypy", marks=pytest.mark.slow), "pyright"])
def test_scripts_of_a_user_type_check(user, checker):
    report = check(checker, user, [SCRIPT, *SNIPPETS])
    assert report.returncode == 0, report.stdout + report.stderr


@pytest.mark.parametrize("checker", [pytest.param("mypy", marks=pytest.mark.slow), "pyright"])
def test_mistakes_of_a_user_are_found(user, checker):
    report = check(checker, user, [WRONG])
    assert report.returncode == 1
    assert len(re.findall(r"error: ", report.stdout)) == 3, report.stdout
