"""Render a trained agent to a video or to images."""

import io
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import wrappers

from pgjax.collect.episodes import collect_episodes
from pgjax.config.env import close_env, make_env
from pgjax.errors import ConfigError, RunError, short_repr
from pgjax.evaluation.evaluate import check_episodes, evaluation_state, greedy
from pgjax.runs import store
from pgjax.runs.run import Run, RunLike, as_run

__all__ = ["frames", "render"]


def render(
    run: RunLike,
    out: Path | str | None = None,
    episodes: int = 1,
    seed: int = 1000,
    *,
    stochastic: bool = False,
    allow_env_import: bool = False,
) -> Path:
    """Write a video of the agent, .mp4 or .gif, at the environment's frame rate.

    Use it to watch a trained agent.

    Args:
      run, episodes, seed, stochastic: as for `frames`.
      out: the video file; by default video.mp4 in the run folder. Missing folders are created.
      allow_env_import: as for `pgjax.load`.

    Returns:
      The path of the video.

    Raises:
      ConfigError: if `out` has another file extension, or the environment cannot be rendered.
      RunError: if the video cannot be written.
      Otherwise as for `pgjax.load`.

    Example:
      >>> import pgjax, pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp())
      >>> config = pgjax.TrainConfig("CartPole-v1", updates=1, episodes_per_update=2, run_dir=path)
      >>> pgjax.render(pgjax.train(config), path / "agent.gif").name
      'agent.gif'
    """
    run = as_run(run, allow_env_import=allow_env_import)
    out = run.path / "video.mp4" if out is None else Path(out)
    if out.suffix not in (".gif", ".mp4"):
        raise ConfigError(f"a video must end in .mp4 or .gif, got {out.name!r}")
    if out.is_symlink() or out.is_dir():
        kind = "symbolic link" if out.is_symlink() else "folder"
        raise ConfigError(f"{out} is a {kind}: choose another --out")
    images, fps = _drawn(run, episodes, seed, stochastic)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        (_write_gif if out.suffix == ".gif" else _write_mp4)(images, fps, out)
    except OSError as e:
        raise RunError(f"cannot write the video {out} ({e}): choose another --out") from None
    return out


def frames(
    run: RunLike,
    episodes: int = 1,
    seed: int = 1000,
    *,
    stochastic: bool = False,
    allow_env_import: bool = False,
) -> list[np.ndarray]:
    """Render episodes of a trained agent as images.

    Use it to show the agent in a notebook; `render` writes a video file.

    Use it to show or process the images yourself; `render` writes a video.

    Args:
      run: a run or its folder.
      episodes: number of episodes, one after the other.
      seed: random seed. The same seed shows the episodes of `pgjax.evaluate`, except for an
        on-device run: Gymnasium's environment is rendered.
      stochastic: sample actions instead of taking the mode of the policy.
      allow_env_import: as for `pgjax.load`.

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
    run = as_run(run, allow_env_import=allow_env_import)
    return _drawn(run, episodes, seed, stochastic)[0]


def _drawn(run: Run, episodes: int, seed: int, stochastic: bool) -> tuple[list[np.ndarray], float]:
    """Return frames, and frames per second."""
    episodes = check_episodes(episodes)
    state = evaluation_state(run, seed)
    algorithm = run.agent.algorithm if stochastic else greedy(run.agent)
    squash, timeout = run.config.squash, run.config.step_timeout
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # about the render mode, which is checked below
        drawn = make_env(run.config, num_envs=1, render_mode="rgb_array")
    try:
        if drawn.render_mode != "rgb_array":
            raise ConfigError(
                f"{run.config.env_id} cannot be rendered: it has no render mode rgb_array"
            )
        env = wrappers.RenderCollection(drawn, pop_frames=True, reset_clean=False)
        collect_episodes(env, algorithm, state, episodes, squash=squash, step_timeout=timeout)
        images: Any = env.render()
    finally:
        close_env(drawn)
    for image in images:
        array = np.asarray(image)
        if array.dtype != np.uint8 or array.shape[2:] != (3,):
            raise ConfigError(
                f"{run.config.env_id} renders {short_repr(image)}, not an array "
                "[height, width, 3] of uint8: fix its render method"
            )
    return list(images), float(drawn.metadata.get("render_fps", 30))


def _write_mp4(images: list[np.ndarray], fps: float, out: Path) -> None:
    try:
        from moviepy.video.io.ImageSequenceClip import ImageSequenceClip
    except ImportError:
        raise ConfigError(
            'an .mp4 video needs pip install "pgjax[video]"; a .gif does not'
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "video.mp4"
        ImageSequenceClip(images, fps=fps).write_videofile(str(video), logger=None)
        shutil.move(video, out)


def _write_gif(images: list[np.ndarray], fps: float, out: Path) -> None:
    from PIL import Image

    first, *rest = [Image.fromarray(image) for image in images]
    video = io.BytesIO()
    first.save(video, "gif", save_all=True, append_images=rest, duration=1000 / fps, loop=0)
    store.replace(out, video.getvalue())
