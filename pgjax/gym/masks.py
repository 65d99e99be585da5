"""Action masks of environments, as the first numbers of an observation."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from pgjax.errors import SpaceError, counted

_KEY = "action_mask"


def mask_size(action_space: gym.Space) -> int:
    """Return the length of the mask of an action space: the number of its choices.

    Raises:
      SpaceError: if it is neither Discrete nor MultiDiscrete.
    """
    if isinstance(action_space, spaces.Discrete):
        return int(action_space.n)
    if isinstance(action_space, spaces.MultiDiscrete):
        return int(action_space.nvec.sum())
    raise SpaceError(
        f"an action mask rules out choices of a Discrete or MultiDiscrete space, not of "
        f"{action_space}: leave out --action-mask"
    )


class ActionMask(gym.Wrapper[Any, Any, Any, Any]):
    """A Gymnasium wrapper that puts the action mask of an environment first in its observations.

    Use it with `pgjax.MaskedPolicy`. The mask is `info["action_mask"]`, as in Taxi, or, if
    observations are a Dict with a key "action_mask", that part of them. Its numbers are 1 for the
    choices that are allowed and 0 for the others; those of a MultiDiscrete space follow each other.

    Args:
      env: the environment.

    Raises:
      SpaceError: the action space is neither Discrete nor MultiDiscrete. `reset` and `step` raise
        ValueError if there is no mask, if it has another size, or if it allows nothing.

    Example:
      >>> import gymnasium, pgjax
      >>> env = pgjax.ActionMask(gymnasium.make("Taxi-v4"))
      >>> obs, info = env.reset(seed=0)
      >>> obs["action_mask"].tolist() == info["action_mask"].tolist()
      True
    """

    def __init__(self, env: gym.Env[Any, Any]):
        super().__init__(env)
        self._size = mask_size(env.action_space)
        self._nvec = getattr(env.action_space, "nvec", np.array([self._size])).ravel()
        seen = env.observation_space
        self._in_obs = isinstance(seen, spaces.Dict) and _KEY in seen.spaces
        if isinstance(seen, spaces.Dict) and self._in_obs:
            seen = spaces.Dict({key: x for key, x in seen.spaces.items() if key != _KEY})
        self.observation_space = spaces.Dict(
            [(_KEY, spaces.MultiBinary(self._size)), ("observation", seen)]
        )

    def reset(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reset the environment."""
        obs, info = self.env.reset(**kwargs)
        return self._with_mask(obs, info), info

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        """Step the environment."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        over = bool(terminated or truncated)  # no action follows
        return self._with_mask(obs, info, over), reward, terminated, truncated, info

    def _with_mask(self, obs: Any, info: Any, over: bool = False) -> dict[str, Any]:
        mask = obs.get(_KEY) if self._in_obs else info.get(_KEY)
        if mask is None and over:
            mask = np.zeros(self._size)
        if mask is None:
            raise ValueError(
                "info has no 'action_mask', and the observations have none: leave out --action-mask"
            )
        allowed = (np.asarray(mask).ravel() != 0).astype(np.int8)
        if len(allowed) != self._size:
            raise ValueError(
                f"the action mask has {counted(len(allowed), 'number')}, but the action space "
                f"{counted(self._size, 'choice')}"
            )
        parts = np.split(allowed, np.cumsum(self._nvec)[:-1])
        if not over and not all(part.any() for part in parts):
            raise ValueError("the action mask allows no action")
        if self._in_obs:
            obs = {key: x for key, x in obs.items() if key != _KEY}
        return {_KEY: allowed, "observation": obs}
