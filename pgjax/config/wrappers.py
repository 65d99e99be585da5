"""Wrappers of environments that are named as module:function."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import gymnasium as gym

from pgjax.config.settings import TrainConfig
from pgjax.errors import ConfigError, PgjaxError, short_repr
from pgjax.gym.masks import ActionMask
from pgjax.gym.results import failure_text

Wrap = Callable[[gym.Env], gym.Env]


def wrappers(config: TrainConfig) -> list[Wrap]:
    """Return the wrappers of a config's environments, innermost first.

    Raises:
      ConfigError: if one cannot be imported. Those returned raise it if they cannot wrap.
    """
    found: list[Wrap] = [functools.partial(_wrap, *_imported(name)) for name in config.wrappers]
    if config.frame_stack > 1:
        stack: Any = gym.wrappers.FrameStackObservation
        found.append(functools.partial(stack, stack_size=config.frame_stack))
    if config.action_mask:
        found.append(ActionMask)
    return found


def _imported(name: str) -> tuple[str, Any]:
    module, _, path = name.partition(":")
    try:
        return name, functools.reduce(getattr, path.split("."), importlib.import_module(module))
    except (Exception, SystemExit) as e:  # user code may raise anything
        raise ConfigError(f"cannot import the wrapper {name}: it {failure_text(e)}") from e


def _wrap(name: str, wrapper: Any, env: gym.Env) -> gym.Env:
    advice = "it must take an environment and return one"
    try:
        wrapped = wrapper(env)
    except PgjaxError:
        raise
    except (Exception, SystemExit) as e:
        raise ConfigError(f"the wrapper {name} {failure_text(e)}: {advice}") from e
    if not isinstance(wrapped, gym.Env):
        raise ConfigError(f"the wrapper {name} returned {short_repr(wrapped)}: {advice}")
    return wrapped
