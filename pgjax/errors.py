"""What pgjax raises, so that a caller can catch one type. Every message says what to do."""

import numbers
from typing import Any


def short_repr(value: Any) -> str:
    """A value in one short line."""
    line = " ".join(repr(value).split())
    return line if len(line) <= 80 else f"{line[:77]}..."


class PgjaxError(Exception):
    """Base of all errors that pgjax raises on purpose."""


class ConfigError(PgjaxError, ValueError):
    """An argument or option that cannot work, alone or together with another."""


class SpaceError(ConfigError):
    """An observation or action space, or a vector mode, that pgjax does not support."""


class RolloutError(PgjaxError, RuntimeError):
    """An environment gave something unusable, raised, hung or died: the message names the
    sub-environment, the episode, its reset seed, the step and the field.
    """

    replay: dict[str, Any] | None = None
    """What leads there, where it is known: `reset_seed` and the `actions` that were sent."""


class DivergedError(PgjaxError, FloatingPointError):
    """A loss or gradient that is no longer finite."""


class RunError(PgjaxError, OSError):
    """A run folder that is missing, incomplete, or in the way."""


class RunWarning(UserWarning):
    """Something about a run that its owner should know, though it goes on."""


def check_count(name: str, value: Any) -> int:
    """Return a count as an int; raise ConfigError unless it is an integer of at least 1."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} must be an integer of at least 1, got {value!r}")
    return int(value)
