"""Files that survive a kill at any time, and whose damage is detected; needs no JAX.

A folder holds logs, which grow, and checkpoints, each written once. A checkpoint records the length
and SHA-256 of each log. Anything after that length is lost work and is truncated on resume.
"""

import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_MAGIC = b"pgjax checkpoint 1\n"
_NAME = re.compile(r"\d{8,}\.ckpt")
_DIGEST = 64  # hex digits
_LONGEST_HEADER = 2**16
_FILE = 0o666
KEEP = 3  # number of recent checkpoints to keep, in addition to the best

Mark = tuple[int, str]  # length in bytes, SHA-256 in hex
Ends = dict[str, tuple[int, Any]]  # for each log: length in bytes, running hash


class DamagedError(ValueError):
    """A file is missing, damaged, or was changed after it was written."""


class ChangedLogError(DamagedError):
    """A checkpoint is whole, but a log is not what it was when the checkpoint was written."""


class Checkpoint(NamedTuple):
    """Header of a checkpoint and position of its body."""

    path: Path
    update: int
    score: float  # higher is better
    settings: str  # digest of the settings, the same for all checkpoints of a run
    logs: dict[str, Mark]
    offset: int
    size: int  # of the body, in bytes

    def body(self) -> bytes:
        """Read the bytes that `commit` wrote."""
        with _opened(self.path, os.O_RDONLY) as file:
            return _read(file, self.size, self.offset)


def logs_at(folder: Path, names: Sequence[str], marks: Mapping[str, Mark]) -> Ends:
    """Return the ends of a folder's logs: those in `marks`, or 0 for a log without a mark."""
    return {name: _hashed(folder / name, marks.get(name, (0, ""))[0]) for name in names}


def append(folder: Path, ends: Ends, data: Mapping[str, bytes]) -> Ends:
    """Append to the logs at their ends, dropping anything beyond, and return the new ends.

    Before `flush`, the data survives a kill of the process, but not a crash of the machine.
    """
    new = dict(ends)
    for name, more in data.items():
        size, digest = ends[name]
        digest = digest.copy()
        digest.update(more)
        with _opened(folder / name, os.O_WRONLY | os.O_CREAT) as file:
            _cut(file, size)
            _write(file, more, size)
        new[name] = size + len(more), digest
    return new


def flush(folder: Path, ends: Ends) -> dict[str, Mark]:
    """Truncate the logs at their ends and sync them to disk."""
    for name, (size, _) in ends.items():
        with _opened(folder / name, os.O_WRONLY | os.O_CREAT) as file:
            _cut(file, size)
            os.fsync(file)
    return {name: (size, digest.hexdigest()) for name, (size, digest) in ends.items()}


def _cut(file: int, size: int) -> None:
    if os.fstat(file).st_size != size:
        os.ftruncate(file, size)


def commit(
    folder: Path, update: int, score: float, settings: str, logs: Mapping[str, Mark], body: bytes
) -> None:
    """Write a checkpoint atomically, then remove those that need not be kept."""
    header = {"update": update, "score": score, "settings": settings, "logs": logs}
    rest = json.dumps(header).encode() + b"\n" + body
    digest = hashlib.sha256(rest).hexdigest().encode()
    os.makedirs(folder, exist_ok=True)
    if not stat.S_ISDIR(os.lstat(folder).st_mode):
        raise NotADirectoryError(f"{folder} is not a folder")
    replace(folder / f"{update:08d}.ckpt", _MAGIC + digest + b"\n" + rest)
    _prune(folder)


def _prune(folder: Path) -> None:
    paths = _paths(folder)
    scores: dict[Path, float] = {}
    for path in paths:
        with contextlib.suppress(DamagedError):
            scores[path] = read(path).score
    # Among equal scores the oldest wins; paths are newest first.
    best = max(reversed(scores), key=lambda path: scores[path], default=None)
    for path in paths[KEEP:]:
        if path != best:
            os.unlink(path)


def _paths(folder: Path) -> list[Path]:
    """Return the checkpoint files of a folder, newest first."""
    try:
        is_folder = stat.S_ISDIR(os.lstat(folder).st_mode)
    except FileNotFoundError:
        return []
    names = [name for name in os.listdir(folder) if _NAME.fullmatch(name)] if is_folder else []
    return [folder / name for name in sorted(names, key=lambda name: int(name[:-5]), reverse=True)]


def read(path: Path) -> Checkpoint:
    """Check the digest of a checkpoint and read its header.

    Raises:
      DamagedError: if the file is damaged or was changed.
    """
    with _opened(path, os.O_RDONLY) as file:
        begin = len(_MAGIC) + _DIGEST + 1
        start = _read(file, begin, 0)
        if not start.startswith(_MAGIC):
            raise DamagedError(f"{path} is not a checkpoint of this version")
        size, digest = os.fstat(file).st_size, hashlib.sha256()
        for offset in range(begin, size, 2**20):
            digest.update(_read(file, min(2**20, size - offset), offset))
        if start[len(_MAGIC) :] != digest.hexdigest().encode() + b"\n":
            raise DamagedError(f"{path} is damaged")
        line, _, _ = _read(file, min(_LONGEST_HEADER, size - begin), begin).partition(b"\n")
    try:
        values = json.loads(line)
        logs = {str(name): (int(n), str(sha)) for name, (n, sha) in values["logs"].items()}
        offset = begin + len(line) + 1
        return Checkpoint(
            path,
            int(values["update"]),
            float(values["score"]),
            str(values["settings"]),
            logs,
            offset,
            size - offset,
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
        raise DamagedError(f"{path} has no valid checkpoint header: {e!r}") from None


def checkpoints(folder: Path, logs: Path) -> Iterator[Checkpoint | DamagedError]:
    """Yield each checkpoint of a folder, newest first, or an error if it or a log is damaged."""
    for path in _paths(folder):
        try:
            found = read(path)
            if f"{found.update:08d}.ckpt" != path.name:
                raise DamagedError(f"{path} holds update {found.update}")
            for name, (size, sha256) in found.logs.items():
                if os.path.basename(name) != name:
                    raise DamagedError(f"{path} names a file outside the folder, {name!r}")
                _check_log(logs / name, size, sha256, found.update)
        except DamagedError as e:
            yield e
        else:
            yield found


def _check_log(path: Path, size: int, sha256: str, update: int) -> None:
    try:
        same = _hashed(path, size)[1].hexdigest() == sha256
    except DamagedError as e:
        raise ChangedLogError(str(e)) from None
    if not same:
        raise ChangedLogError(f"{path} was changed before update {update}")


def clear(folder: Path, after: int) -> None:
    """Remove the checkpoints after an update, and the temporary files of killed processes."""
    for path in _paths(folder):
        if int(path.stem) > after:
            os.unlink(path)
    for place in (folder, folder.parent):
        for name in os.listdir(place) if place.is_dir() else []:
            if name.startswith(".") and name.endswith(".tmp"):
                os.unlink(place / name)
    _prune(folder)


def replace(path: Path, data: bytes) -> None:
    """Write a file atomically, and sync it to disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with _opened(temporary, os.O_WRONLY | os.O_CREAT) as file:
            _cut(file, 0)
            _write(file, data, 0)
            os.fsync(file)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Write JSON with its digest, atomically."""
    sealed = {**value, "sha256": digest_of(value)}
    replace(path, (json.dumps(sealed, indent=2) + "\n").encode())


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what `write_sealed` wrote.

    Raises:
      DamagedError: if the file is missing, is damaged or was changed.
    """
    with _opened(path, os.O_RDONLY) as file:
        data = _read(file, min(os.fstat(file).st_size, 2**20), 0)
    try:
        value = json.loads(data)
        sha256 = value.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise DamagedError(f"{path} is damaged") from None
    if sha256 != digest_of(value):
        raise DamagedError(f"{path} is damaged or was changed")
    return value


def read_regular(path: Path) -> bytes:
    """Read a regular file, which is not a symbolic link.

    Raises:
      DamagedError: if it is missing or is something else.
    """
    with _opened(path, os.O_RDONLY) as file:
        return _read(file, os.fstat(file).st_size, 0)


def digest_of(value: Any) -> str:
    """Compute the SHA-256 of a JSON value; the order of names does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _hashed(path: Path, size: int) -> tuple[int, Any]:
    """Return `size` and the running hash of the first `size` bytes of a file."""
    digest = hashlib.sha256()
    if size:
        with _opened(path, os.O_RDONLY) as file:
            for offset in range(0, size, 2**20):
                digest.update(_read(file, min(2**20, size - offset), offset))
    return size, digest


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """Open a regular file, without following symbolic links."""
    try:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, _FILE)
    except OSError as e:
        if flags != os.O_RDONLY:
            raise
        raise DamagedError(f"{path} cannot be read: {e.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise DamagedError(f"{path} is not a regular file")
        yield file
    except EOFError:
        raise DamagedError(f"{path} is truncated") from None
    finally:
        os.close(file)


def _read(file: int, size: int, offset: int) -> bytes:
    parts = []
    while size > 0:
        part = os.pread(file, size, offset)
        if not part:
            raise EOFError
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return b"".join(parts)


def _write(file: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written
