"""Films of a trained agent, by Gymnasium's own recording wrappers."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import wrappers

from pgjax.agents import make_env
from pgjax.errors import ConfigError
from pgjax.evaluate import by_mode, evaluation_state
from pgjax.gym_rollout import collect_episodes
from pgjax.runs import Run


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
    env = wrappers.RenderCollection(_renderable(run), pop_frames=True, reset_clean=False)
    try:
        _play(run, env, episodes, seed, stochastic)
        collected: Any = env.render()
    finally:
        env.close()
    return list(collected)


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
    if out.is_symlink():
        raise ConfigError(f"{out} is a link, which may lead anywhere: choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".gif":
        _write_gif(frames(run, episodes, seed, stochastic=stochastic), _fps(run), out)
        return out
    with tempfile.TemporaryDirectory() as folder:
        # A length that is never reached, so that one film goes on over several episodes.
        env = wrappers.RecordVideo(
            _renderable(run),
            str(Path(folder) / "film"),
            episode_trigger=lambda episode: episode == 0,
            video_length=10**9,
        )
        try:
            _play(run, env, episodes, seed, stochastic)
        finally:
            env.close()
        (film,) = Path(folder).glob("film/*.mp4")
        shutil.move(film, out)
    return out


def _renderable(run: Run) -> Any:
    env = make_env(run.config, num_envs=1, render_mode="rgb_array")
    if env.render_mode != "rgb_array":
        raise ConfigError(f"{run.config.env_id} cannot be rendered to pictures")
    return env


def _fps(run: Run) -> float:
    env = _renderable(run)
    env.close()
    return float(env.metadata.get("render_fps", 30))


def _play(run: Run, env: Any, episodes: int, seed: int, stochastic: bool) -> None:
    algorithm = run.agent.algorithm if stochastic else by_mode(run.agent)
    collect_episodes(
        env, algorithm, evaluation_state(run, seed), episodes, squash=run.config.squash
    )


def _write_gif(pictures: list[np.ndarray], fps: float, out: Path) -> None:
    from PIL import Image

    first, *rest = [Image.fromarray(picture) for picture in pictures]
    first.save(out, save_all=True, append_images=rest, duration=1000 / fps, loop=0)
