"""What `check` refuses in an environment, and what importing environments loads."""

import subprocess
import sys

import gymnasium as gym
import jax
import jax.numpy as jnp
import pytest
from probe_envs import counter

import pgjax
from pgjax import envs


@jax.tree_util.register_pytree_node_class
class Opaque:
    """A pytree whose repr does not depend on what it holds."""

    def __init__(self, x):
        self.x = x

    def __repr__(self):
        return "Opaque"

    def tree_flatten(self):
        return (self.x,), None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(*leaves)


def stepping(**changes):
    """A step function of the counter with some of its results replaced."""
    names = ["state", "obs", "reward", "terminated", "truncated"]

    def step(key, state, action):
        results = dict(zip(names, counter().step(key, state, action), strict=True))
        return tuple((results | changes).values())

    return {"step": step}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (stepping(state=jnp.int32(0)), "state must keep"),
        (stepping(obs=jnp.zeros(3)), "observation must keep"),
        (stepping(reward=jnp.zeros(2)), "reward must be a scalar"),
        (stepping(truncated=jnp.zeros(())), "truncated must be a scalar bool"),
        ({"step": lambda k, s, a: counter().step(k, s, a)[:4]}, "step must return"),
        ({"reset": lambda k: jnp.int32(0)}, "reset must return"),
        ({"observation_space": envs.Discrete(3)}, "observation_space says"),
        ({"action_space": gym.spaces.Discrete(2)}, "spaces must be"),
        (
            {"reset": lambda k: (jnp.zeros(()), {"x": jnp.zeros(1)})}
            | stepping(obs={"x": jnp.zeros(1)}),
            "the observation is {'x'",
        ),
        (
            {"reset": lambda k: (Opaque(jnp.zeros(2)), counter().reset(k)[1])}
            | {"step": lambda k, s, a: (Opaque(jnp.zeros(3)), *counter().step(k, s.x[0], a)[1:])},
            "state must keep",
        ),
    ],
)
def test_check_names_what_does_not_fit(changes, message):
    envs.check(counter())
    with pytest.raises(pgjax.ConfigError, match=message):
        envs.check(counter()._replace(**changes))


def test_functional_environments_do_not_import_gymnasium():
    script = """
import sys
import pgjax.envs.base, pgjax.envs.classic, pgjax.envs.tabular
pgjax.envs.time_limit(pgjax.envs.make("CartPole-v1"), 10)
print("gymnasium" in sys.modules)
"""
    command = [sys.executable, "-c", script]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"
