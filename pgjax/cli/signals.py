"""Ctrl-C and SIGTERM: first finish the update, then interrupt it, then kill the process."""

import gc
import multiprocessing
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any, NoReturn

from pgjax.training.loop import RunInfo

_REQUESTED = 2.0  # seconds for the current update to finish
_INTERRUPTED = 2.5  # seconds after that until the process is killed
_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM asked the program to stop."""


class Signals:
    """A context manager that handles signals, and an Observer that stops a run between updates.

    After the first signal, the current update may finish (see `check`). If that takes over two
    seconds, the update is interrupted. If that fails too (for example while compiling), or on a
    second signal, this process and its children are killed. Saved data stays intact.
    """

    def __init__(self) -> None:
        self.number = 0  # of the signal that has arrived, or 0
        self._checked = False  # whether `check` is called regularly
        self._interrupting = self._raised = False
        self._arrived, self._over = threading.Event(), threading.Event()

    def __enter__(self) -> "Signals":
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            # Shells ignore Ctrl-C for background jobs: keep that.
            handled = [n for n in _NUMBERS if signal.getsignal(n) is not signal.SIG_IGN]
            self._before = {n: signal.signal(n, self._handle) for n in handled}
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._over.set()
        self._arrived.set()  # ends the thread

    @property
    def exit_code(self) -> int:
        """Exit code: 128 plus the number of the signal, as in shells."""
        return 128 + (self.number or signal.SIGINT)

    def start(self, run: RunInfo) -> None:
        """Defer signals to the end of an update."""
        self._checked = True

    def update(self, metrics: list[dict[str, Any]], timings: dict[str, float]) -> None:
        """Stop the run if a signal has arrived."""
        self.check()

    def stop(self) -> None:
        """Handle signals immediately again."""
        self._checked = False

    def check(self) -> None:
        """Raise Stopped if a signal has arrived."""
        if self.number and not self._raised:
            self._raised = True
            raise Stopped

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._interrupting:
            self._interrupting = False
            self.check()
        elif self.number:
            self.end()
        else:
            self.number = number
            self._arrived.set()
            if not self._checked:
                self.check()

    def _watch(self) -> None:
        self._arrived.wait()
        if self._over.wait(_REQUESTED):
            return
        main = threading.main_thread().ident
        if not self._raised and main is not None:
            self._interrupting = True
            signal.pthread_kill(main, self.number)
        if not self._over.wait(_INTERRUPTED):
            self.end()

    def end(self) -> NoReturn:
        """Kill this process and its children, without Python's clean-up.

        Clean-up would wait for compilations, and can crash after JAX was interrupted.
        """
        gc.collect()  # releases memory shared between processes
        for process in multiprocessing.active_children():
            process.kill()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self.exit_code)
