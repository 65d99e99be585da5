"""A run read back from its folder."""

from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn

from pgjax.config.agent import Agent, make_agent
from pgjax.config.env import open_env
from pgjax.config.settings import TrainConfig
from pgjax.errors import RunError
from pgjax.runs import provenance
from pgjax.runs.checkpoints import restore, valid_checkpoints, warn_of_damage
from pgjax.runs.folder import read_config, read_lines
from pgjax.types import TrainState


class Run(NamedTuple):
    """A run, finished or read back."""

    path: Path
    config: TrainConfig
    agent: Agent
    state: TrainState

    @property
    def policy(self) -> nn.Module:
        """The Flax module: policy.apply(state.params, obs) gives a distribution."""
        return self.agent.policy

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return read_lines(self.path / "metrics.jsonl")


def load(path: Path | str, *, allow_env_import: bool = False) -> Run:
    """Read a run back from its folder.

    Args:
      path: the folder.
      allow_env_import: let an env id of the form module:Name import that module, which runs its
        code: only for a folder whose writer you trust.

    Returns:
      The run: `config`, `state` (TrainState), `policy` and `metrics` are what a notebook wants.

    Raises:
      RunError, ConfigError: if it is not one, or not whole.
    """
    path = Path(path)
    config = read_config(path, allow_env_import=allow_env_import)
    provenance.require_device()
    wrong: list[str] = []
    checkpoint = next(valid_checkpoints(path, config, wrong.append), None)
    if checkpoint is None:
        why = f" ({wrong[0]})" if wrong else ""
        raise RunError(f"{path} holds no checkpoint that is whole{why}: resume it, or train again")
    for each in wrong:
        warn_of_damage(each)
    with open_env(config, 1) as env:
        agent = make_agent(config, env)
    return Run(path, config, agent, restore(checkpoint, lambda: agent.init(config.seed)))


RunLike = Run | Path | str


def run_path(run: RunLike) -> Path:
    """The folder of a run, given the run or its folder."""
    return run.path if isinstance(run, Run) else Path(run)


def as_run(run: RunLike, *, allow_env_import: bool = False) -> Run:
    """A run as it is, or read back from its folder; see `load`."""
    return run if isinstance(run, Run) else load(run, allow_env_import=allow_env_import)
