"""Which code the settings of a run folder make pgjax import."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym

from pgjax.config.settings import TrainConfig

_GYMNASIUM = "gymnasium.wrappers"
_PLAIN_TEXT = re.compile(r"[\w -]*")


def foreign_names(config: TrainConfig) -> list[str]:
    """Return the names in the settings of a run that may make an environment run other code.

    These are an environment id module:Name, wrappers that are not Gymnasium's, and texts among the
    arguments of the environment that may name a file or a module, such as "evil:Env" for
    Gymnasium's GymV21Environment-v0, which imports it.
    """
    found = [config.env_id] if ":" in config.env_id else []
    found += [name for name in config.wrappers if not _is_gymnasiums(name)]
    texts = _texts(config.env_kwargs)
    return found + [text for text in texts if not _PLAIN_TEXT.fullmatch(text)]


def _is_gymnasiums(wrapper: str) -> bool:
    module, _, name = wrapper.partition(":")
    return module == _GYMNASIUM and name in gym.wrappers.__all__


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, x in value.items():
            yield name
            yield from _texts(x)
    elif isinstance(value, list):
        for x in value:
            yield from _texts(x)
