"""Films of a trained agent."""

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
from pgjax.runs.run import Run


def frames(
    run: Run, episodes: int = 1, seed: int = 1000, *, stochastic: bool = False
) -> list[np.ndarray]:
    """What the agent's episodes look like.

    Args:
      run: a run, from train or load.
      episodes: how many, one after the other.
      seed: as for `evaluate`: the same seed shows the same episodes.
      stochastic: sample actions; by default the mode acts.

    Returns:
      Frames [height, width, 3] uint8: one per reset and per step.

    Raises:
      ConfigError: if the environment cannot be rendered.
    """
    return _drawn(run, episodes, seed, stochastic)[0]


def render(
    run: Run, out: Path, episodes: int = 1, seed: int = 1000, *, stochastic: bool = False
) -> Path:
    """Write a film of the agent, .mp4 or .gif, in the environment's own frames a second.

    Args:
      run, episodes, seed, stochastic: as for `frames`.
      out: the film; its folder is made if need be.

    Returns:
      out.

    Raises:
      ConfigError: for another ending, or if the environment cannot be rendered.
    """
    if out.suffix not in (".gif", ".mp4"):
        raise ConfigError(f"a film ends in .mp4 or .gif, got {out.name!r}")
    if out.is_symlink() or out.is_dir():
        raise ConfigError(f"{out} is a link, which may lead anywhere, or a folder: another --out")
    pictures, fps = _drawn(run, episodes, seed, stochastic)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        (_write_gif if out.suffix == ".gif" else _write_mp4)(pictures, fps, out)
    except OSError as e:
        raise RunError(f"cannot write the film {out} ({e}): choose another --out") from None
    return out


def _drawn(run: Run, episodes: int, seed: int, stochastic: bool) -> tuple[list[np.ndarray], float]:
    """Frames, and how many a second."""
    check_episodes(episodes)
    state = evaluation_state(run, seed)
    algorithm = run.agent.algorithm if stochastic else greedy(run.agent)
    squash, timeout = run.config.squash, run.config.step_timeout
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Gymnasium's, of what is told here
        drawn = make_env(run.config, num_envs=1, render_mode="rgb_array")
    try:
        if drawn.render_mode != "rgb_array":
            raise ConfigError(f"{run.config.env_id} cannot be rendered to pictures")
        env = wrappers.RenderCollection(drawn, pop_frames=True, reset_clean=False)
        collect_episodes(env, algorithm, state, episodes, squash=squash, step_timeout=timeout)
        pictures: Any = env.render()
    finally:
        close_env(drawn)
    for picture in pictures:
        array = np.asarray(picture)
        if array.dtype != np.uint8 or array.shape[2:] != (3,):
            raise ConfigError(
                f"{run.config.env_id} draws {short_repr(picture)}, not an array [height, width, 3] of "
                "uint8: correct its render"
            )
    return list(pictures), float(drawn.metadata.get("render_fps", 30))


def _write_mp4(pictures: list[np.ndarray], fps: float, out: Path) -> None:
    try:
        from moviepy.video.io.ImageSequenceClip import ImageSequenceClip
    except ImportError:
        raise ConfigError('a film in .mp4 needs pip install "pgjax[video]"') from None
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        ImageSequenceClip(pictures, fps=fps).write_videofile(str(film), logger=None)
        shutil.move(film, out)


def _write_gif(pictures: list[np.ndarray], fps: float, out: Path) -> None:
    from PIL import Image

    first, *rest = [Image.fromarray(picture) for picture in pictures]
    film = io.BytesIO()
    first.save(film, "gif", save_all=True, append_images=rest, duration=1000 / fps, loop=0)
    store.replace(out, film.getvalue())
