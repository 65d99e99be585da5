"""What an environment returned, written down where it belongs, or told to be wrong."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pgjax.errors import shown

_STEP = "(observation, reward, terminated, truncated, info)"
Encode = Callable[[Any], np.ndarray]  # one observation -> [d]; ValueError for a wrong one


class ResultError(Exception):
    """What is wrong, in words that follow the name of the environment and the step."""

    def __init__(self, what: str, later: int = 0):
        super().__init__(f"{what}: correct the environment")
        self.later = later  # steps between the one that was made and the one that it is told of


def write_obs(rows: np.ndarray, slot: int, encode: Encode, obs: Any, later: int = 0) -> None:
    """Write an observation into rows [slots, d].

    Raises:
      ResultError: if it is none of its space.
    """
    try:
        rows[slot] = encode(obs)
    except (TypeError, ValueError) as e:
        raise ResultError(f"the observation {e}", later) from None


def write_step(
    result: Any, slot: int, successors: np.ndarray, rewards: np.ndarray, encode: Encode
) -> tuple[bool, bool]:
    """Write what a step returned into successors [slots, d] and rewards [slots].

    Returns:
      (terminated, truncated)

    Raises:
      ResultError: if any of it is not what it should be.
    """
    try:
        obs, reward, terminated, truncated, _ = result
    except (TypeError, ValueError):
        given = f"{len(result)} values" if isinstance(result, tuple) else shown(result)
        raise ResultError(f"step returned {given}, not {_STEP}") from None
    try:  # as write_obs, whose call would cost every step of every environment
        successors[slot] = encode(obs)
    except (TypeError, ValueError) as e:
        raise ResultError(f"the observation {e}", later=1) from None
    try:
        if reward is None:  # NumPy would make NaN of it
            raise TypeError
        rewards[slot] = reward
    except (TypeError, ValueError):
        raise ResultError(f"the reward is {shown(reward)}, not a number") from None
    try:
        return bool(terminated), bool(truncated)
    except (TypeError, ValueError):
        flags = shown((terminated, truncated))
        raise ResultError(f"(terminated, truncated) is {flags}, not two flags") from None
