"""Render a trained agent to a video or to images."""

import math
import numbers
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from pgjax.collect.episodes import episode_returns
from pgjax.config.env import close_env, make_env, with_spaces
from pgjax.config.settings import EnvSource
from pgjax.errors import (
    ConfigError,
    PgjaxError,
    RolloutError,
    RunWarning,
    counted,
    short_repr,
)
from pgjax.evaluation.evaluate import check_episodes, evaluation_state, greedy
from pgjax.evaluation.seeds import seed_runs
from pgjax.evaluation.video_files import Show, gif, mp4
from pgjax.gym.results import EnvError, failure_text
from pgjax.runs.checkpoints import CheckpointName
from pgjax.runs.folder import output_file
from pgjax.runs.run import RunData, RunLike, run_path

__all__ = ["frames", "render"]

MAX_STEPS = 1_000  # of an episode in a video, where the environment has no time limit
_DEFAULT_FPS = 30.0  # as in Gymnasium


def render(
    run: RunLike,
    out: Path | str | None = None,
    episodes: int = 1,
    seed: int = 1000,
    *,
    stochastic: bool = False,
    checkpoint: CheckpointName | str = "last",
    allow_env_import: bool = False,
    env: EnvSource | None = None,
    drawn: Callable[[int], object] | None = None,
) -> Path:
    """Write a video of the agent, .mp4 or .gif, at the environment's frame rate.

    Use it to watch a trained agent. A .gif shows at most 50 frames per second: of a faster
    environment some frames are left out, and it still lasts as long. The runs in the folder of
    several seeds follow one after the other.

    Args:
      run, episodes, seed, stochastic: as for `frames`.
      out: the video file; by default video.mp4 in the run folder. Missing folders are created.
      checkpoint, allow_env_import, env: as for `frames`.
      drawn: called with 1 after each image, to show progress.

    Returns:
      The path of the video.

    Raises:
      ConfigError: if `out` has another file extension, or the environment cannot be rendered.
      RunError: if the video cannot be written. Nothing is left behind.
      Otherwise as for `pgjax.load`.

    Example:
      >>> import pgjax, pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp())
      >>> config = pgjax.TrainConfig("CartPole-v1", updates=1, episodes_per_update=2, run_dir=path)
      >>> pgjax.render(pgjax.train(config), path / "agent.gif").name
      'agent.gif'
    """
    runs = seed_runs(run, seed, checkpoint=checkpoint, allow_env_import=allow_env_import, env=env)
    out = output_file(
        run_path(run) / "video.mp4" if out is None else out, "a video", ".mp4", ".gif"
    )
    with (gif if out.suffix == ".gif" else mp4)(out) as write:

        def show(image: np.ndarray, fps: float) -> None:
            write(image, fps)
            if drawn is not None:
                drawn(1)

        for of_seed, own in runs:
            _film(of_seed, episodes, own, stochastic, show)
    return out


def frames(
    run: RunLike,
    episodes: int = 1,
    seed: int = 1000,
    *,
    stochastic: bool = False,
    checkpoint: CheckpointName | str = "last",
    allow_env_import: bool = False,
    env: EnvSource | None = None,
) -> list[np.ndarray]:
    """Render episodes of a trained agent as images.

    Use it to show the agent in a notebook, or to process the images; `render` writes a video file.
    If the environment has no time limit, an episode is cut off after 1,000 steps.

    Args:
      run: a run, its folder, or the folder of several seeds, which are shown one after the other.
      episodes: number of episodes of each run, one after the other.
      seed: random seed. The same seed shows the episodes of `pgjax.evaluate`, except for an
        on-device run: Gymnasium's environment is rendered.
      stochastic: sample actions instead of taking the mode of the policy.
      checkpoint, allow_env_import, env: as for `pgjax.load`; "last" for the state that a Run has.

    Returns:
      Frames [height, width, 3] uint8, one per reset and one per step.

    Raises:
      ConfigError: if the environment cannot be rendered.
      Otherwise as for `pgjax.load`.

    Example:
      >>> import pgjax, pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp())
      >>> config = pgjax.TrainConfig("CartPole-v1", updates=1, episodes_per_update=2, run_dir=path)
      >>> frames(pgjax.train(config))[0].shape
      (400, 600, 3)
    """
    images: list[np.ndarray] = []
    runs = seed_runs(run, seed, checkpoint=checkpoint, allow_env_import=allow_env_import, env=env)
    for of_seed, own in runs:
        _film(of_seed, episodes, own, stochastic, lambda image, _: images.append(image))
    return images


def _film(run: RunData, episodes: int, seed: int, stochastic: bool, show: Show) -> None:
    """Run episodes one after the other, and show each image."""
    episodes = check_episodes(episodes)
    config, state = run.config, evaluation_state(run, seed)
    algorithm = run.agent.algorithm if stochastic else greedy(run.agent)
    opened = with_spaces(_make_rendered(run))
    env = opened.env
    max_steps = MAX_STEPS if opened.time_limit is None else math.inf
    try:
        log = episode_returns(
            _Filmed(env, config.env_id, show),
            algorithm,
            state,
            episodes,
            max_steps=max_steps,
            squash=config.squash,
            step_timeout=config.step_timeout,
        )
    except RolloutError as e:
        if isinstance(e.__cause__, PgjaxError):  # from _Filmed, not from the environment
            raise e.__cause__ from None
        raise
    finally:
        close_env(env)
    if cut := int(log.cut.sum()):
        warnings.warn(
            f"{config.env_id} has no time limit: {counted(cut, 'episode')} cut off after "
            f"{MAX_STEPS:,} steps",
            RunWarning,
            stacklevel=3,
        )


def _make_rendered(run: RunData) -> gym.Env:
    """Make the environment of a run with render mode rgb_array."""
    env_id = run.config.env_id
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about the mode, which is checked below
            env = make_env(run.config, num_envs=1, render_mode="rgb_array")
    except ConfigError as e:
        if "unexpected keyword argument 'render_mode'" not in str(e.__cause__):
            raise
        if run.config.env is None:
            raise ConfigError(f"{env_id} cannot be rendered: it takes no render_mode") from None
        env = make_env(run.config, num_envs=1)  # a function may choose the mode itself
    modes = (env.metadata or {}).get("render_modes")
    if env.render_mode != "rgb_array" or (modes is not None and "rgb_array" not in modes):
        close_env(env)
        others = ", ".join(map(str, modes or ())) or "none"
        advice = "" if run.config.env is None else ": let the function of env take render_mode"
        raise ConfigError(
            f"{env_id} cannot be rendered: it has no render mode rgb_array (its modes: {others})"
            + advice
        )
    return env


class _Filmed(gym.Wrapper):
    """Shows an image after every reset and step."""

    def __init__(self, env: gym.Env, env_id: str, show: Show):
        super().__init__(env)
        self._env_id, self._show = env_id, show
        self._fps = _frame_rate(env_id, (env.metadata or {}).get("render_fps"))
        self._shape: tuple[int, ...] = ()

    def reset(self, **kwargs: Any) -> Any:
        result = super().reset(**kwargs)
        self._show(self._image(), self._fps)
        return result

    def step(self, action: Any) -> Any:
        result = super().step(action)
        self._show(self._image(), self._fps)
        return result

    def _image(self) -> np.ndarray:
        """Render, and check what the environment returns."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # GLFW's, about a missing display
                rendered: Any = self.env.render()
        except EnvError:  # it takes too long
            raise
        except Exception as e:
            raise self._cannot_render(e) from e
        try:
            image = np.array(rendered)  # a copy: some environments return the same array again
        except ValueError:  # a ragged list
            image = np.zeros(0)
        if image.dtype != np.uint8 or image.shape[2:] != (3,) or not image.size:
            raise ConfigError(
                f"{self._env_id} renders {_describe(rendered)}, not an array [height, width, 3] of "
                "uint8: fix its render method"
            )
        self._shape = self._shape or image.shape
        if image.shape != self._shape:
            raise ConfigError(
                f"{self._env_id} renders images of different shapes, {self._shape} and "
                f"{image.shape}: fix its render method"
            )
        return image

    def _cannot_render(self, error: Exception) -> ConfigError:
        advice = "fix its render method"
        if isinstance(error, gym.error.DependencyNotInstalled):
            return ConfigError(f"{self._env_id} cannot be rendered: {error}")
        if isinstance(error, ImportError):
            advice = "install what is missing"
        if hasattr(self.unwrapped, "mujoco_renderer"):
            advice = "without a display, set the environment variable MUJOCO_GL to egl or osmesa"
        return ConfigError(f"{self._env_id} cannot be rendered: it {failure_text(error)}: {advice}")


def _describe(rendered: Any) -> str:
    if isinstance(rendered, np.ndarray):
        return f"an array {list(rendered.shape)} of {rendered.dtype}"
    return short_repr(rendered)


def _frame_rate(env_id: str, fps: Any) -> float:
    """Return an environment's frames per second, or the default if it names none that is usable."""
    if fps is None:
        return _DEFAULT_FPS
    number = isinstance(fps, numbers.Real) and not isinstance(fps, bool)
    if number and 0.01 <= fps <= 10_000:
        return float(fps)
    warnings.warn(
        f"{env_id} has the frame rate render_fps {short_repr(fps)}, which is not a number from "
        f"0.01 to 10,000: the video has {_DEFAULT_FPS:.0f} frames per second",
        RunWarning,
        stacklevel=2,
    )
    return _DEFAULT_FPS
