"""An environment that shows what an agent sends, and, by hand, what an agent should send to it."""

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

import pgjax
from pgjax import envs
from pgjax.config.agent import make_agent
from pgjax.config.env import open_env
from pgjax.runs.run import RunData

SEEN = np.array([[0.5, -1.0], [2.0, 0.3], [-1.5, 1.0], [0.1, 0.2], [1.0, 1.0]], np.float32)
LOW, HIGH, STEPS = -1.0, 2.0, 4


class Echo(gym.Env):
    """The reward is the action that arrives, and the picture's colour shows it; it never ends."""

    observation_space = spaces.Box(-5.0, 5.0, (2,))
    action_space = spaces.Box(LOW, HIGH, (1,))
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode=None, sign=1.0):
        self.render_mode, self._sign = render_mode, sign

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._t, self._sent = 0, 0.0
        return SEEN[0], {}

    def step(self, action):
        self._t, self._sent = self._t + 1, float(action[0])
        return SEEN[self._t], self._sign * self._sent, False, False, {}

    def render(self):
        return np.full((16, 16, 3), colour(self._sent), np.uint8)


def colour(action):
    """From 0 at the lower bound to 255 at the upper."""
    return np.round(255 * (action - LOW) / (HIGH - LOW))


def echo_on_device():
    """Echo as a functional environment."""

    def reset(key):
        return jnp.int32(0), jnp.asarray(SEEN[0])

    def step(key, state, action):
        seen = jnp.asarray(SEEN)[state + 1]
        return state + 1, seen, action[0], jnp.bool_(False), jnp.bool_(False)

    return envs.Env(reset, step, envs.Box(-5.0, 5.0, (2,)), envs.Box(LOW, HIGH, (1,)))


gym.register("Echo-v0", entry_point=Echo, max_episode_steps=STEPS)
gym.register("Mirror-v0", entry_point=Echo, max_episode_steps=STEPS, kwargs={"sign": -1.0})


def echo_run(path, env_id="Echo-v0", **settings):
    """A run with parameters and moments so far from zero that actions pass the bounds."""
    config = pgjax.TrainConfig(env_id, run_dir=path, **{"hidden_sizes": (4,), **settings})
    with open_env(config, 1) as env:
        agent = make_agent(config, env)
    state = agent.init(config.seed)
    params = jax.tree.map(lambda x: 2.0 * x + 0.3, state.params)
    return RunData(path, config, agent, state._replace(params=params))


def modes_by_hand(
    params, hidden=(4,), activation="relu", normalize=False, squash=False, stack=1, steps=STEPS
):
    """The actions, in NumPy, that the mode of a Gaussian policy sends in an episode of Echo."""
    params, moments = params["params"], params.get("obs_moments")
    params = params["module"] if normalize else params
    layers = [params[f"Dense_{i}"] for i in range(len(hidden) + 1)]
    assert [layer["kernel"].shape[1] for layer in layers] == [*hidden, 1]
    assert layers[0]["kernel"].shape[0] == 2 * stack
    sent = []
    for t in range(steps):
        x = np.concatenate([SEEN[max(s, 0)] for s in range(t - stack + 1, t + 1)])
        if normalize:
            x = np.clip((x - moments["mean"]) / np.sqrt(moments["var"] + 1e-8), -10, 10)
        for layer in layers[:-1]:
            x = x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
            x = np.tanh(x) if activation == "tanh" else np.maximum(x, 0)
        [mean] = x @ np.asarray(layers[-1]["kernel"]) + np.asarray(layers[-1]["bias"])
        if squash:
            sent.append(LOW + (HIGH - LOW) * (np.tanh(mean) + 1) / 2)
        else:
            sent.append(np.clip(mean, LOW, HIGH))
    return np.array(sent)


# Every field that acting depends on: settings, and what they mean by hand.
ACTING = {
    "nothing": ({}, {}),
    "env_id": ({"env_id": "Mirror-v0"}, {}),  # minus the actions are its rewards
    "hidden_sizes": ({"hidden_sizes": (5, 3)}, {"hidden": (5, 3)}),
    "activation": ({"activation": "tanh"}, {"activation": "tanh"}),
    "normalize_obs": ({"normalize_obs": True}, {"normalize": True}),
    "squash": ({"squash": True}, {"squash": True}),
    "frame_stack": ({"frame_stack": 2}, {"stack": 2}),
    "max_episode_steps": ({"max_episode_steps": 3}, {"steps": 3}),
}
ALL_BUT_STACKING = (
    {"hidden_sizes": (5, 3), "activation": "tanh", "normalize_obs": True, "squash": True},
    {"hidden": (5, 3), "activation": "tanh", "normalize": True, "squash": True},
)
