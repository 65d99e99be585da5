"""Exceptions and warnings that pgjax raises on purpose. Every message says what to do."""

import numbers
from typing import Any


def short_repr(value: Any) -> str:
    """Return `repr(value)` on one line of at most 80 characters, for use in a message."""
    line = " ".join(repr(value).split())
    return line if len(line) <= 80 else f"{line[:77]}..."


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, in the plural unless the count is 1, for use in a message.

    >>> counted(1, "update"), counted(2500, "episode")
    ('1 update', '2,500 episodes')
    """
    return f"{count:,} {noun}" + "s" * (count != 1)


class PgjaxError(Exception):
    """Base class of all errors that pgjax raises on purpose.

    Catch it to handle any of them. A bug raises something else.

    Example:
      >>> import pgjax
      >>> try:
      ...     pgjax.advantages.reward_to_go(gamma=2.0)
      ... except pgjax.PgjaxError as error:
      ...     print(type(error).__name__)
      ConfigError
    """


class ConfigError(PgjaxError, ValueError):
    """An invalid argument or option, or a combination of them that cannot work.

    Example:
      >>> import optax
      >>> import pgjax
      >>> try:
      ...     pgjax.reinforce(pgjax.SoftmaxPolicy(2), optax.sgd(0.1), value_coef=-1.0)
      ... except ValueError as error:
      ...     print(type(error).__name__)
      ConfigError
    """


class SpaceError(ConfigError):
    """An observation space, action space or vector mode that pgjax does not support.

    Example:
      >>> import pgjax
      >>> def fail():
      ...     raise pgjax.SpaceError("action space Text(3) is not supported")
      >>> try:
      ...     fail()
      ... except pgjax.ConfigError as error:
      ...     print(error)
      action space Text(3) is not supported
    """


class RolloutError(PgjaxError, RuntimeError):
    """An environment returned something invalid, raised an exception, hung or died.

    The message names the sub-environment, the episode, its reset seed, the step and the field.

    Example:
      >>> import pgjax
      >>> def fail():
      ...     error = pgjax.RolloutError("episode 3 (reset seed 42), step 1: the reward is nan")
      ...     error.replay = {"reset_seed": 42, "actions": [0]}
      ...     raise error
      >>> try:
      ...     fail()
      ... except pgjax.RolloutError as error:
      ...     print(error.replay)
      {'reset_seed': 42, 'actions': [0]}
    """

    replay: dict[str, Any] | None = None
    """How to reproduce the failure: the `reset_seed` and the `actions` sent. None if unknown."""


class DivergedError(PgjaxError, FloatingPointError):
    """A loss, gradient or parameter is no longer finite.

    Catch it to try other settings, such as a lower learning rate.

    Example:
      >>> import pgjax
      >>> issubclass(pgjax.DivergedError, FloatingPointError)
      True
    """


class RunError(PgjaxError, OSError):
    """A run cannot be read, written or continued.

    Its folder is missing, incomplete or in use, memory ran out, or one of its processes was lost.

    Example:
      >>> import pgjax
      >>> try:
      ...     pgjax.load("no/such/run")
      ... except pgjax.RunError as error:
      ...     print(type(error).__name__)
      RunError
    """


class RunWarning(UserWarning):
    """A problem with a run that does not stop it.

    Turn it into an error where a run must be reproducible.

    Example:
      >>> import warnings
      >>> import pgjax
      >>> with warnings.catch_warnings():
      ...     warnings.simplefilter("error", pgjax.RunWarning)
      ...     try:
      ...         warnings.warn("resumable, not bit-exact", pgjax.RunWarning)
      ...     except pgjax.RunWarning as warning:
      ...         print(warning)
      resumable, not bit-exact
    """


def check_count(name: str, value: Any, most: int | None = None) -> int:
    """Return a count as an int; raise ConfigError unless it is an integer from 1 to `most`.

    NumPy's integers are accepted; a bool is not a count.
    """
    count = 0
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        count = int(value)
    if count < 1 or (most is not None and count > most):
        wanted = "of at least 1" if most is None else f"from 1 to {most}"
        raise ConfigError(f"{name} must be an integer {wanted}, got {short_repr(value)}")
    return count
