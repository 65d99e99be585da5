"""The videos of a report: those in run folders, or rendered."""

import base64
import importlib.util
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import gymnasium as gym

from pgjax.config.settings import EnvSource
from pgjax.errors import PgjaxError, RunWarning
from pgjax.evaluation.groups import Group
from pgjax.evaluation.report_data import together
from pgjax.evaluation.video import render
from pgjax.runs import store

_TYPES = {".mp4": "video/mp4", ".gif": "image/gif"}
_MOST_BYTES = 50 * 10**6  # of a video


def find_videos(
    groups: Sequence[Group], *, render_missing: bool, allow_env_import: bool, env: EnvSource | None
) -> list[dict[str, str]]:
    """Read a video of each group, or render it where there is none; warn of what cannot be shown.

    Returns:
      For each video `group`, its number, `name`, its file, `type`, and `source`, a data: URL.
    """
    found = []
    for i, group in enumerate(groups, 1):
        path = next(_in_folders(group), None)
        try:
            if path is not None:
                video, name = store.read_regular(path), path.name
            elif render_missing:
                video, name = _rendered(group, allow_env_import, env)
            else:
                continue
            if len(video) > _MOST_BYTES:
                raise ValueError(
                    f"{name} has {len(video) / 1e6:.1f} MB, more than {_MOST_BYTES / 1e6:.0f} MB"
                )
        except (PgjaxError, gym.error.Error, OSError, ValueError, ImportError) as e:
            warnings.warn(f"the report has no video of group {i}: {e}", RunWarning, stacklevel=3)
            continue
        kind = _TYPES[Path(name).suffix]
        source = f"data:{kind};base64,{base64.b64encode(video).decode()}"
        found.append({"group": str(i), "name": name, "type": kind, "source": source})
    return found


def _in_folders(group: Group) -> Iterator[Path]:
    """Yield the videos in the folders of a group; first those that `pgjax render` names."""
    for folder in dict.fromkeys([*together(group), *group.folders.values()]):
        names = [path for path in folder.iterdir() if path.suffix in _TYPES]
        yield from sorted(names, key=lambda path: (path.name != "video.mp4", path.name))


def _rendered(group: Group, allow_env_import: bool, env: EnvSource | None) -> tuple[bytes, str]:
    """Render an episode of the first run of a group."""
    name = "video.mp4" if importlib.util.find_spec("moviepy") else "video.gif"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        run = next(iter(group.folders.values()))
        render(run, path, allow_env_import=allow_env_import, env=env)
        return path.read_bytes(), path.name
