"""Group runs whose settings differ only in the seed, and name what differs between the groups."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from pgjax.config.presets import preset_values
from pgjax.config.settings import TrainConfig
from pgjax.errors import ConfigError
from pgjax.runs.folder import load_config, seed_folders
from pgjax.runs.run import RunData, RunLike, run_path

# Settings in which the runs of a group may differ: no update depends on them.
OF_A_RUN: dict[str, Any] = {"seed": 0, "eval_every": 0, "checkpoint_seconds": 30.0}


class Group(NamedTuple):
    """Runs of one task whose settings differ only in the seed."""

    name: str
    """What distinguishes it from the other groups; the folder's name, if there is only one."""
    settings: dict[str, Any]
    """All settings that are not the same in all groups, and their values in this one."""
    config: TrainConfig
    """The settings of its runs, with seed 0."""
    folders: dict[int, Path]
    """The run folder of each seed."""


def group_runs(runs: Sequence[RunLike]) -> list[Group]:
    """Group runs by their settings without the seed, in the order in which they are given.

    Args:
      runs: each is a run, its folder, or the folder of several seeds.

    Raises:
      ConfigError: if there are none, their environments differ, or two have the same settings and
        the same seed.
      RunError: if one is not a run folder, or its settings are damaged.
    """
    found: dict[TrainConfig, dict[int, Path]] = {}
    named = [run_path(run) for run in runs]
    for folder in (folder for path in named for folder in seed_folders(path) or [path]):
        config = load_config(folder)
        folders = found.setdefault(dataclasses.replace(config, **OF_A_RUN), {})
        if config.seed in folders:
            raise ConfigError(
                f"{folders[config.seed]} and {folder} have the same settings and the same seed: "
                "name one of them"
            )
        folders[config.seed] = folder
    configs = list(found)
    if not configs:
        raise ConfigError("name at least one run folder")
    for config in configs[1:]:
        if config.env_id != configs[0].env_id:
            raise ConfigError(
                f"the runs are of different tasks, {configs[0].env_id} and {config.env_id}: "
                "compare runs of one task"
            )
    names = _names(configs)
    if len(names) == 1:
        names = [named[0].name + f" and {len(named) - 1} more" * (len(named) > 1)]
    groups = zip(names, _differing(configs), configs, found.values(), strict=True)
    return [Group(*group) for group in groups]


def listed_runs(runs: RunLike | Sequence[RunLike]) -> list[RunLike]:
    """Return a list of runs, given one or several."""
    if isinstance(runs, RunData | Path | str):
        return [runs]
    return list(cast(Sequence[RunLike], runs))  # a Run is a tuple, too


def _differing(configs: Sequence[TrainConfig]) -> list[dict[str, Any]]:
    """For each config, its settings that are not the same in all of them."""
    values = [config.to_json() for config in configs]
    names = [name for name in values[0] if any(of[name] != values[0][name] for of in values)]
    return [{name: of[name] for name in names} for of in values]


def _names(configs: Sequence[TrainConfig]) -> list[str]:
    """Name each config by its settings that differ, without what its preset explains everywhere.

    Two configs have the same name only if they are equal: they would be of one algorithm, and equal
    its preset in all that is left out.
    """
    differing, presets = _differing(configs), [preset_of(config) for config in configs]
    pairs = list(zip(differing, presets, strict=True))
    names = [name for name in differing[0] if any(of[name] != preset[name] for of, preset in pairs)]
    return [", ".join(_text(name, of[name]) for name in names) for of in differing]


def preset_of(config: TrainConfig) -> dict[str, Any]:
    """The settings that a run's preset gives it; no preset explains the algorithm."""
    values = preset_values(config.env_id, config.algorithm)
    return TrainConfig(config.env_id, **values).to_json() | {"algorithm": None}


def _text(name: str, value: Any) -> str:
    """Format a setting.

    >>> _text("learning_rate", 0.01), _text("hidden_sizes", (64, 64)), _text("critic", False)
    ('learning_rate 0.01', 'hidden_sizes 64-64', 'no critic')
    """
    if value is None or value is False:
        return f"no {name}"
    if value is True:
        return name
    return f"{name} {'-'.join(map(str, value)) if isinstance(value, tuple) else value}"
