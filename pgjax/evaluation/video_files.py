"""Write a video image by image, as .mp4 or .gif."""

import contextlib
import io
import math
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pgjax.errors import ConfigError, RunError
from pgjax.runs import store

_MOST_GIF_FPS = 50.0  # viewers show a frame of under 2 hundredths of a second for 10

Show = Callable[[np.ndarray, float], None]  # (image [height, width, 3] uint8, frames per second)


@contextlib.contextmanager
def mp4(out: Path) -> Iterator[Show]:
    """Write an .mp4 image by image; it appears at the end."""
    try:
        from moviepy.video.io.ffmpeg_writer import FFMPEG_VideoWriter
    except ImportError:
        raise ConfigError(
            'an .mp4 video needs pip install "pgjax[video]"; a .gif does not'
        ) from None
    writer: Any = None

    def show(image: np.ndarray, fps: float) -> None:
        nonlocal writer
        height, width = image.shape[:2]
        odd = ((0, height % 2), (0, width % 2), (0, 0))
        image = np.pad(image, odd, "edge")  # most players need even sizes
        try:
            if writer is None:
                writer = FFMPEG_VideoWriter(str(video), image.shape[1::-1], fps)
            writer.write_frame(image)
        except OSError as e:
            raise _cannot_write(out, e) from None

    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "video.mp4"
        try:
            yield show
        finally:
            if writer is not None:
                process = writer.proc
                writer.close()
        if process.returncode:
            raise _cannot_write(out, f"ffmpeg exits with code {process.returncode}")
        _write(out, video.read_bytes())


@contextlib.contextmanager
def gif(out: Path) -> Iterator[Show]:
    """Write a .gif; it appears at the end."""
    from PIL import Image

    images: list[Any] = []
    given, rate = 0, _MOST_GIF_FPS  # number of frames so far, and frames per second of the .gif

    def show(image: np.ndarray, fps: float) -> None:
        nonlocal given, rate
        rate = min(fps, _MOST_GIF_FPS)
        if math.floor(given * rate / fps + 1e-6) == len(images):
            # One byte per pixel, as in the file.
            images.append(Image.fromarray(image).convert("P", palette=Image.Palette.ADAPTIVE))
        given += 1

    yield show
    # A .gif counts in hundredths of a second: round the time of each frame, not its duration.
    times = np.rint(100 / rate * np.arange(len(images) + 1))
    milliseconds = (10 * np.diff(times)).astype(int).tolist()
    video = io.BytesIO()
    try:
        images[0].save(
            video, "gif", save_all=True, append_images=images[1:], duration=milliseconds, loop=0
        )
    except (struct.error, ValueError) as e:  # too large, or the same image for over 655 s
        raise RunError(f"the images do not fit into a .gif ({e}): write an .mp4") from None
    _write(out, video.getvalue())


def _cannot_write(out: Path, error: Exception | str) -> RunError:
    reason = " ".join(str(error).split())
    return RunError(f"cannot write the video {out} ({reason}): choose another --out")


def _write(out: Path, video: bytes) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        store.replace(out, video)
    except OSError as e:
        raise _cannot_write(out, e) from None
