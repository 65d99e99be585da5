"""A resumable script for the store; quick to start."""

import hashlib

from pgjax.runs import store

NAMES = ("metrics.jsonl", "timings.jsonl")
UPDATES = 6
COMMITS = (1, 3, 4, 5, 6)  # the updates after which the script commits


def line(name, update):
    """Return the line that an update adds to a log, of varying length."""
    return f"{name} {update} {'x' * (7 * update % 23)}\n".encode()


def body(update):
    return hashlib.sha256(bytes([update])).digest() * 50


def begin(folder):
    """Return to the last intact checkpoint: (updates made, ends of the logs)."""
    intact = (
        at for at in store.checkpoints(folder / "checkpoints", folder)
        if isinstance(at, store.Checkpoint)
    )  # fmt: skip
    at = next(intact, None)
    if at:
        assert at.body() == body(at.update)
    done = at.update if at else 0
    store.clear(folder / "checkpoints", done)
    ends = store.logs_at(folder, NAMES, at.logs if at else {})
    store.flush(folder, ends)
    return done, ends


def script(folder):
    """Make all remaining updates."""
    done, ends = begin(folder)
    for update in range(done + 1, UPDATES + 1):
        ends = store.append(folder, ends, {name: line(name, update) for name in NAMES})
        if update in COMMITS:
            # Update 3 is the best.
            store.commit(
                folder / "checkpoints", update, -abs(update - 3), "a run",
                store.flush(folder, ends), body(update),
            )  # fmt: skip


def contents(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }
