"""A trained run: its agent, its metrics, and how to look at it."""

import base64
import functools
import html
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import gymnasium as gym
import jax

from pgjax.config.env import make_env
from pgjax.config.settings import EnvSource
from pgjax.errors import ConfigError, counted
from pgjax.evaluation.evaluate import evaluation_sentence, greedy
from pgjax.evaluation.video import render
from pgjax.gym.acting import Act, act_in
from pgjax.runs import run as runs
from pgjax.runs.checkpoints import CheckpointName
from pgjax.runs.folder import read_lines
from pgjax.runs.metrics import Metrics

if TYPE_CHECKING:
    from IPython.display import Video


class Run(runs.RunData):
    """A trained run, as `pgjax.train` returns it and `pgjax.load` reads it back.

    Use `act` to apply the agent, `metrics` to analyse the training, and `show` to watch an episode
    in a notebook, which also shows the learning curve of a run. The fields are `path`, `config`,
    `agent` (policy and algorithm) and `state` (the TrainState, after the last update unless another
    checkpoint was loaded).

    Example:
      >>> import pgjax, pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "run"
      >>> config = pgjax.TrainConfig("CartPole-v1", updates=2, episodes_per_update=2, run_dir=path)
      >>> run = pgjax.train(config)
      >>> int(run.state.step), run.metrics["total_episodes"].tolist()
      (2, [2, 4])
    """

    @property
    def policy(self) -> nn.Module:
        """Flax module; policy.apply(run.state.params, obs) returns a distribution of actions."""
        return self.agent.policy

    @property
    def metrics(self) -> Metrics:
        """Metrics of all updates by column, from metrics.jsonl."""
        return Metrics(read_lines(self.path / "metrics.jsonl"))

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """What evaluation.json holds, or None if there is none."""
        path = self.path / "evaluation.json"
        return json.loads(path.read_text()) if path.exists() else None

    def act(self, obs: Any, *, deterministic: bool = True, key: jax.Array | None = None) -> Any:
        """Choose the action for an observation of the environment.

        Use it in a loop of your own: it takes what `reset` and `step` return, a Dict or Tuple too,
        and returns what `step` takes. For the batch of a VectorEnv it returns a batch of actions.

        Args:
          obs: an observation, or a batch of them.
          deterministic: take the mode of the policy; otherwise sample.
          key: the random key of a sample, a new one for each call.

        Returns:
          An action of the environment, or a batch of them.

        Raises:
          ConfigError: if the observation does not fit the space, or a sample has no key.

        Example:
          >>> import pgjax, pathlib, tempfile
          >>> path = pathlib.Path(tempfile.mkdtemp()) / "run"
          >>> config = pgjax.TrainConfig("CartPole-v1", updates=1, run_dir=path)
          >>> run = pgjax.train(config)
          >>> env = run.make_env()
          >>> obs, _ = env.reset(seed=0)
          >>> obs, reward, terminated, truncated, _ = env.step(run.act(obs))
          >>> float(reward)
          1.0
        """
        if deterministic:
            return self._greedy(self.state.params, self.state.key, obs)
        if key is None:
            raise ConfigError(
                "sampling an action needs a key, a new one for each: act(obs, deterministic=False, "
                "key=jax.random.key(0))"
            )
        return self._sample(self.state.params, key, obs)

    @functools.cached_property
    def _greedy(self) -> Act:
        return self._act_in_env(greedy(self.agent).act)

    @functools.cached_property
    def _sample(self) -> Act:
        return self._act_in_env(self.agent.algorithm.act)

    def _act_in_env(self, act: Act) -> Act:
        spaces = self.agent.observation_space, self.agent.action_space
        return act_in(act, *spaces, squash=self.config.squash)

    def make_env(self, **kwargs: Any) -> gym.Env:
        """Make the environment that the run was trained in, with its wrappers and time limit.

        Args:
          **kwargs: passed to gymnasium.make, such as render_mode="human".

        Raises:
          ConfigError: if Gymnasium cannot make it.
        """
        return make_env(self.config, 1, **kwargs)

    def show(self, episodes: int = 1, seed: int = 1000, *, stochastic: bool = False) -> "Video":
        """Return a video of the agent that a notebook plays where it is the last value of a cell.

        Args:
          episodes, seed, stochastic: as for `pgjax.render`.

        Returns:
          An IPython.display.Video that holds the video itself.

        Raises:
          ConfigError: if IPython is not installed.
          Otherwise as for `pgjax.render`.
        """
        try:
            from IPython.display import Video
        except ImportError:
            raise ConfigError(
                "show plays a video in a notebook, and IPython is missing: pgjax.render writes a "
                "file"
            ) from None
        with tempfile.TemporaryDirectory() as folder:
            out = render(self, Path(folder) / "v.mp4", episodes, seed, stochastic=stochastic)
            return Video(data=out.read_bytes(), embed=True, mimetype="video/mp4")

    def __repr__(self) -> str:
        return "\n  ".join(self._lines())

    def _lines(self) -> list[str]:
        """Describe the run in a few lines."""
        config, done = self.config, int(self.state.step)
        updates = counted(config.updates, "update")
        of_all = updates if done == config.updates else f"{done:,} of {updates}"
        lines = [f"Run {self.path}", f"{config.env_id}, {config.algorithm}, seed {config.seed}"]
        lines[-1] += f", {of_all}"
        metrics = self.metrics
        if done and len(metrics):
            lines[-1] += f", {counted(int(metrics['total_env_steps'][-1]), 'environment step')}"
        lines.append(f"policy {type(self.policy).__name__}")
        if self.evaluation:
            lines.append(f"evaluation {evaluation_sentence(self.evaluation)}")
        return lines

    def _repr_html_(self) -> str:
        shown = "<br>".join(map(html.escape, self._lines()))
        curve = self.path / "learning_curve.png"
        if curve.exists():
            png = base64.b64encode(curve.read_bytes()).decode()
            shown += f'<br><img alt="learning curve" width="560" src="data:image/png;base64,{png}">'
        return f"<div>{shown}</div>"


def load(
    path: Path | str,
    *,
    checkpoint: CheckpointName | str = "last",
    allow_env_import: bool = False,
    env: EnvSource | None = None,
) -> Run:
    """Read a run from its folder, with the state of its last valid checkpoint or another one.

    Use it to work with an agent that was trained earlier.

    Args:
      path: the run folder.
      checkpoint: "last"; "best", that with the highest mean return (of the evaluations, if there
        were any during training, else of an update's episodes); or the number of the update after
        which it was written. The last three and the best are kept.
      allow_env_import: allow an environment id module:Name, wrappers, and arguments that may name a
        module or a file to import code and run it. Use it only for folders that you trust. Those
        that this machine made need no permission, unless they were moved.
      env: the environment of the run, as in TrainConfig, if it was given in Python.

    Returns:
      The run.

    Raises:
      RunError: if it is not the folder of one run, or its settings or all its checkpoints are
        damaged, or no checkpoint was kept after the update `checkpoint`.
      ConfigError: if its environment cannot be made or needs `allow_env_import` or `env`, its
        settings are not valid in this version, or JAX finds no device.
      SpaceError: if the spaces of its environment are not supported.

    Example:
      >>> import pgjax, pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "run"
      >>> config = pgjax.TrainConfig("CartPole-v1", updates=1, episodes_per_update=2, run_dir=path)
      >>> trained = pgjax.train(config)
      >>> int(pgjax.load(path).state.step)
      1
    """
    options: Any = {"allow_env_import": allow_env_import, "env": env}
    return Run(*runs.load(path, checkpoint=checkpoint, **options))
