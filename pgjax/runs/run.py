"""A trained run, and how to read one back from its folder."""

from pathlib import Path
from typing import NamedTuple

from pgjax.config.agent import Agent, make_agent
from pgjax.config.env import open_env
from pgjax.config.settings import EnvSource, TrainConfig
from pgjax.errors import RunError
from pgjax.runs import provenance, store
from pgjax.runs.checkpoints import (
    CheckpointName,
    choose,
    refuse_changed_logs,
    restore,
    valid_checkpoints,
    warn_of_damage,
)
from pgjax.runs.folder import absolute, read_config, with_env
from pgjax.runs.states import train_state, with_stream
from pgjax.types import TrainState


class RunData(NamedTuple):
    """What is known of a trained run; `pgjax.Run` adds what users do with it."""

    path: Path
    """The run folder."""
    config: TrainConfig
    """The settings."""
    agent: Agent
    """Policy and algorithm."""
    state: TrainState
    """The TrainState, after the last update unless another checkpoint was chosen."""


def unfinished(run: RunData) -> bool:
    """Whether a run ended before its last update: it diverged, failed or was stopped."""
    return int(run.state.step) < run.config.updates


RunLike = RunData | Path | str


def load(
    path: Path | str,
    *,
    checkpoint: CheckpointName | str = "last",
    allow_env_import: bool = False,
    env: EnvSource | None = None,
) -> RunData:
    """Read a run from its folder, with the state of a valid checkpoint.

    Raises:
      RunError, ConfigError, SpaceError: as for `pgjax.load`.
    """
    path = absolute(path)
    config = read_config(path, allow_env_import=allow_env_import, env=env)
    provenance.require_device()
    problems: list[str] = []
    found = choose(valid_checkpoints(path, config, problems.append), checkpoint)
    if found is None:
        refuse_changed_logs(path)
        why = f" ({problems[0]})" if problems else ""
        raise RunError(f"{path} holds no intact checkpoint{why}: resume it, or train again")
    for problem in problems:
        warn_of_damage(problem)
    with open_env(config, 1) as opened:
        agent = make_agent(config, opened)
    state = restore(found, lambda: with_stream(config, opened.env, agent.init(config.seed)))
    return RunData(path, config, agent, train_state(state))


def run_path(run: RunLike) -> Path:
    """Return the absolute path of a run's folder, given the run or its folder."""
    return run.path if isinstance(run, RunData) else absolute(run)


def given_env(run: RunLike, env: EnvSource | None) -> EnvSource | None:
    """Return the environment that was given in Python, now or when a Run was made."""
    return run.config.env if env is None and isinstance(run, RunData) else env


def as_run(
    run: RunLike,
    *,
    checkpoint: CheckpointName | str = "last",
    allow_env_import: bool = False,
    env: EnvSource | None = None,
) -> RunData:
    """Return a run, with `env` if it is given, or `load` it from its folder.

    "last" means the state that a run has.
    """
    if not isinstance(run, RunData) or checkpoint != "last":
        source = given_env(run, env)
        return load(
            run_path(run), checkpoint=checkpoint, allow_env_import=allow_env_import, env=source
        )
    return run if env is None else run._replace(config=with_env(run.config, env, run.path))


def is_complete(path: Path, config: TrainConfig) -> bool:
    """Whether a run has made all updates of its config, and its last checkpoint is intact."""
    newest = next(valid_checkpoints(path, config, lambda problem: None), None)
    try:
        recorded = store.read_sealed(path / "manifest.json").get("updates")
    except (store.DamagedError, AttributeError):
        return False
    return newest is not None and newest.update == recorded == config.updates
