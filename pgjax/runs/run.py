"""A trained run, and how to read one back from its folder."""

from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn

from pgjax.config.agent import Agent, make_agent
from pgjax.config.env import open_env
from pgjax.config.settings import TrainConfig
from pgjax.errors import RunError
from pgjax.runs import provenance
from pgjax.runs.checkpoints import refuse_changed_logs, restore, valid_checkpoints, warn_of_damage
from pgjax.runs.folder import absolute, read_config, read_lines
from pgjax.runs.states import train_state, with_stream
from pgjax.types import TrainState


class Run(NamedTuple):
    """A trained run, as `pgjax.train` returns it and `pgjax.load` reads it back.

    Use `policy` and `state` to act, `metrics` to analyse the training.

    Use it to apply the trained policy and to read the metrics, or pass it to `pgjax.evaluate`,
    `pgjax.render` and `pgjax.plot`.

    Example:
      >>> import pgjax, pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp())
      >>> config = pgjax.TrainConfig("CartPole-v1", updates=1, episodes_per_update=2, run_dir=path)
      >>> run = pgjax.train(config)
      >>> type(run.policy).__name__, int(run.state.step), run.metrics[0]["episodes"]
      ('SoftmaxPolicy', 1, 2)
    """

    path: Path
    """The run folder."""
    config: TrainConfig
    """The settings."""
    agent: Agent
    """Policy and algorithm."""
    state: TrainState
    """The TrainState after the last update."""

    @property
    def policy(self) -> nn.Module:
        """Flax module; policy.apply(run.state.params, obs) returns a distribution of actions."""
        return self.agent.policy

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Metrics of every update, from metrics.jsonl."""
        return read_lines(self.path / "metrics.jsonl")


RunLike = Run | Path | str


def load(path: Path | str, *, allow_env_import: bool = False) -> Run:
    """Read a run from its folder, with the state of its last valid checkpoint.

    Use it to work with an agent that was trained earlier.

    Args:
      path: the run folder.
      allow_env_import: allow an environment id of the form module:Name to import that module, which
        runs its code. Use it only for folders that you trust.

    Returns:
      The run: `config`, `state` (a TrainState), `policy` and `metrics`.

    Raises:
      RunError: if it is not the folder of one run, or its settings or all its checkpoints are
        damaged.
      ConfigError: if its environment cannot be made or needs `allow_env_import`, its settings are
        not valid in this version, or JAX finds no device.
      SpaceError: if the spaces of its environment are not supported.

    Example:
      >>> import pgjax, pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp())
      >>> config = pgjax.TrainConfig("CartPole-v1", updates=1, episodes_per_update=2, run_dir=path)
      >>> trained = pgjax.train(config)
      >>> int(pgjax.load(path).state.step)
      1
    """
    path = absolute(path)
    config = read_config(path, allow_env_import=allow_env_import)
    provenance.require_device()
    problems: list[str] = []
    checkpoint = next(valid_checkpoints(path, config, problems.append), None)
    if checkpoint is None:
        refuse_changed_logs(path)
        why = f" ({problems[0]})" if problems else ""
        raise RunError(f"{path} holds no intact checkpoint{why}: resume it, or train again")
    for problem in problems:
        warn_of_damage(problem)
    with open_env(config, 1) as env:
        agent = make_agent(config, env)
    state = restore(checkpoint, lambda: with_stream(config, env.env, agent.init(config.seed)))
    return Run(path, config, agent, train_state(state))


def run_path(run: RunLike) -> Path:
    """Return the absolute path of a run's folder, given the run or its folder."""
    return run.path if isinstance(run, Run) else absolute(run)


def as_run(run: RunLike, *, allow_env_import: bool = False) -> Run:
    """Return a Run unchanged, or `load` it from its folder."""
    return run if isinstance(run, Run) else load(run, allow_env_import=allow_env_import)
