"""Which code the settings of a run folder make pgjax import, and which folders may do so.

Trust is not a part of a run folder, so that no copy of one has it: for each folder that may import
code, this machine keeps an empty file in the user's state folder, whose name is a digest of the
folder's path and of what its environment is made from.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import platformdirs

from pgjax.config.settings import TrainConfig

ALLOW = "PGJAX_ALLOW_ENV_IMPORT"  # an environment variable; 1 trusts every folder
_GYMNASIUM = "gymnasium.wrappers"
_PLAIN_TEXT = re.compile(r"[\w -]*")


def foreign_names(config: TrainConfig) -> list[str]:
    """Return the names in the settings of a run that may make an environment run other code.

    These are an environment id module:Name, wrappers that are not Gymnasium's, and texts among the
    arguments of the environment that may name a file or a module, such as "evil:Env" for
    Gymnasium's GymV21Environment-v0, which imports it.
    """
    found = [config.env_id] if ":" in config.env_id and config.named else []
    found += [name for name in config.wrappers if not _is_gymnasiums(name)]
    texts = _texts(config.env_kwargs)
    return found + [text for text in texts if not _PLAIN_TEXT.fullmatch(text)]


def trusted(run_dir: Path, config: TrainConfig) -> bool:
    """Whether a run folder may import what its settings name."""
    return os.environ.get(ALLOW) == "1" or os.path.exists(_mark(run_dir, config))


def remember(run_dir: Path, config: TrainConfig) -> None:
    """Trust a run folder from now on, if its settings need trust; do nothing if that fails."""
    if foreign_names(config):
        with contextlib.suppress(OSError):
            mark = _mark(run_dir, config)
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()


def _mark(run_dir: Path, config: TrainConfig) -> Path:
    """Return the file whose existence says that a run folder is trusted."""
    made_from = [config.env_id, config.wrappers, str(config.env_kwargs)]
    text = json.dumps([os.path.realpath(run_dir), *made_from])
    name = hashlib.sha256(text.encode()).hexdigest()
    return platformdirs.user_state_path("pgjax") / "trusted" / name


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
