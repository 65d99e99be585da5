"""Check what Gymnasium environments return; every fault is an `EnvError`."""

import contextlib
import functools
import math
import os
import sysconfig
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from pgjax.errors import counted, short_repr

_OURS = tuple(os.path.dirname(path) + os.sep for path in (os.path.dirname(__file__), gym.__file__))
_INSTALLED = tuple(
    {*map(sysconfig.get_path, ("stdlib", "purelib", "platlib")), "<frozen", "<string>"}
)
_RESULT = "(observation, reward, terminated, truncated, info)"
LARGEST = float(np.finfo(np.float32).max)

FLAGS = frozenset({bool, np.bool_})
SUCCESS = ("is_success", "success")  # names in the info of an episode's last step

Encode = Callable[[Any], np.ndarray]  # (observation) -> row [d]; ValueError if it does not fit


class EnvError(Exception):
    """An environment raised, hung, died, or returned an invalid result.

    Internal: `pgjax.collect` turns it into a RolloutError, which says where it happened.

    Args:
      reason: what is wrong, as a clause: "the reward is None, not a number".
      slot: the environment at fault; -1 if unknown.
      delay: 1 for an observation or action, which belongs to the step after the last one made.
      advice: what the user should do.
    """

    def __init__(
        self, reason: str, slot: int = -1, delay: int = 0, advice: str = "correct the environment"
    ):
        super().__init__(reason)
        self.reason, self.slot, self.delay, self.advice = reason, slot, delay, advice

    @property
    def env(self) -> str:
        """Name of the environment at fault."""
        return f"environment {self.slot}" if self.slot >= 0 else "one of the environments"

    def after(self, num_steps: int) -> str:
        """Return the message of the error, given the number of steps made before it.

        Steps are counted from the reset of an episode, or from the start of a stream's rollout.
        """
        step = num_steps - 1 + self.delay
        when = f"step {step}" if step >= 0 else "reset"
        return f"{when}: {self.reason}: {self.advice}"


class StepArrays(NamedTuple):
    """Where a step of all slots is written."""

    successors: np.ndarray  # [slots, d]
    reward: np.ndarray  # [slots]
    terminated: np.ndarray  # [slots] bool, all False before the step
    truncated: np.ndarray  # [slots] bool, all False before the step
    success: np.ndarray  # [slots], all NaN before the step; written where an episode ends


def failure_text(error: BaseException) -> str:
    """Describe an exception of an environment: "raised TYPE: MESSAGE (in FILE, line N)"."""
    what = " ".join(f"raised {type(error).__name__}: {error}".split()).rstrip(": ")
    place = failure_place(error)
    return f"{what} (in {place})" if place else what


def failure_place(error: BaseException) -> str:
    """Return "FILE, line N" of the innermost frame of the user's own code; "" if there is none.

    Code of installed packages counts only if there is no other.
    """
    frames = [
        (frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    outside = [(name, line) for name, line in frames if not name.startswith(_OURS)]
    own = [(name, line) for name, line in outside if not name.startswith(_INSTALLED)]
    name, line = (own or outside or [("", 0)])[-1]
    return f"{os.path.basename(name)}, line {line}" if name else ""


def failure_advice(error: BaseException) -> str:
    """Return what the user should do about an exception that an environment raised."""
    if isinstance(error, ImportError | gym.error.DependencyNotInstalled):
        return "install what is missing"
    if "unpack" in str(error) and not failure_place(error):  # in a wrapper of Gymnasium's
        return f"step must return {_RESULT}, and reset (observation, info)"
    return "correct the environment"


def write_obs(rows: np.ndarray, slot: int, encode: Encode, obs: Any) -> None:
    """Write an observation to rows[slot] of rows [slots, d]; EnvError if it does not fit."""
    try:
        rows[slot] = encode(obs)
    except ValueError as e:
        raise EnvError(str(e), slot, delay=1) from None


def write_step(
    result: Any, slot: int, successors: np.ndarray, rewards: np.ndarray, encode: Encode
) -> tuple[bool, bool, Any]:
    """Write the result of `env.step` to successors [slots, d] and rewards [slots].

    Returns:
      (terminated, truncated, info)

    Raises:
      EnvError: the result is malformed.
    """
    try:
        obs, reward, terminated, truncated, info = result
    except (TypeError, ValueError):
        given = counted(len(result), "value") if isinstance(result, tuple) else short_repr(result)
        raise EnvError(f"step returned {given}, not {_RESULT}", slot) from None
    write_obs(successors, slot, encode, obs)
    return *write_rest(reward, terminated, truncated, slot, rewards), info


def success_in(info: Any) -> float:
    """Return whether an episode succeeded, by the info of its last step; NaN if it does not say."""
    if isinstance(info, dict):
        for array in (_array(info.get(name)) for name in SUCCESS):
            if array.size == 1 and array.dtype.kind in "biuf" and np.isfinite(array).all():
                return float(array.reshape(()))
    return math.nan


def write_rest(
    reward: Any, terminated: Any, truncated: Any, slot: int, rewards: np.ndarray
) -> tuple[bool, bool]:
    """Write a reward to rewards[slot]; return (terminated, truncated), or raise EnvError."""
    number = reward if isinstance(reward, float) else _number(reward, slot)
    if not -LARGEST <= number <= LARGEST and math.isfinite(number):
        raise EnvError(f"the reward is {number}, more than float32 can hold", slot)
    rewards[slot] = number
    return _flag("terminated", terminated, slot), _flag("truncated", truncated, slot)


def _number(reward: Any, slot: int) -> float:
    """Return a reward as a float; EnvError unless it is one real number."""
    array = _array(reward)
    if array.size == 1 and array.dtype.kind in "biuf":
        return float(array.reshape(()))
    advice = "correct the environment"
    if array.size > 1 and array.dtype.kind in "biuf":
        advice = (
            "make it one number with a wrapper, such as mo_gymnasium.wrappers.LinearReward or "
            "gymnasium.wrappers.TransformReward"
        )
    given = _shown(reward)
    raise EnvError(f"the reward is {given}, not a number", slot, advice=advice)


def _flag(name: str, value: Any, slot: int) -> bool:
    """Return a flag as a bool; EnvError unless it is True, False, 1 or 0."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    array = _array(value)
    if array.size == 1 and array.dtype.kind in "biu" and array.reshape(()) in (0, 1):
        return bool(array.reshape(()))
    raise EnvError(f"{name} is {_shown(value)}, not True or False", slot)


def _array(value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except (TypeError, ValueError):  # such as a list of lists of unequal lengths
        return np.asarray(None)


def _shown(value: Any) -> str:
    """Show a value with its type."""
    return f"{short_repr(value)} ({type(value).__name__})"


def first_obs(result: Any) -> Any:
    """Return the observation of what `env.reset` returned; EnvError if it is malformed."""
    if not isinstance(result, tuple) or len(result) != 2:
        given = short_repr(result)
        raise EnvError(f"the environment returned {given}, not (observation, info)")
    return result[0]


def raised_by_env(error: BaseException, slot: int = -1) -> EnvError:
    """Return the EnvError for an exception that an environment raised."""
    what = f"the environment {failure_text(error)}"
    return EnvError(what, slot, advice=failure_advice(error))


def hung(seconds: str, slot: int = -1) -> EnvError:
    """Return the EnvError for an environment that has not returned within `seconds`."""
    reason = f"the environment has not returned for {seconds} s"
    return EnvError(reason, slot, advice="correct it, or raise --step-timeout")


class CheckedEnv(gym.Wrapper):
    """An environment in a process of its own: it checks results there.

    Gymnasium converts what a process returns to arrays, in which malformed results can no longer be
    told from good ones, and gathers the infos, which may not fit together: of them, only the
    success of an episode is sent.
    """

    def __init__(self, env: gym.Env, encode: Encode, row: np.ndarray):
        super().__init__(env)
        self._encode, self._rows, self._rewards = encode, row[None], np.zeros(1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        # As in this process: without options.
        obs = first_obs(self._call(functools.partial(self.env.reset, seed=seed)))
        write_obs(self._rows, 0, self._encode, obs)
        return obs, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        result = self._call(self.env.step, action)
        over, cut, info = write_step(result, 0, self._rows, self._rewards, self._encode)
        success = success_in(info) if over or cut else math.nan
        kept = {} if math.isnan(success) else {SUCCESS[0]: success}
        return result[0], float(self._rewards[0]), over, cut, kept

    def _call(self, method: Callable[..., Any], *args: Any) -> Any:
        try:
            return method(*args)
        except (Exception, SystemExit) as e:  # here, where its traceback is
            raise raised_by_env(e) from e

    def close(self) -> None:
        with contextlib.suppress(Exception):  # as everywhere: nothing is lost
            super().close()
