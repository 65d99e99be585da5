"""Ctrl-C and SIGTERM at the command line: asked for, then insisted on, then the end."""

import gc
import multiprocessing
import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

_ASKED = 2.0  # seconds for the update in progress
_INSISTED = 2.5  # and from then to the end of the process
_NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The user, or who runs this machine, wants an end."""


class Signals:
    """Within it, the first signal lets the work come to a place where it can stop (`check`).

    Where it does not in two seconds, it is interrupted wherever it is; where that is of no use (in
    the midst of compiling, say), or at a second signal, the process ends, and those it started
    with it. What was saved is whole at any moment.
    """

    def __init__(self) -> None:
        self.number = 0  # of the signal that came, if one did
        self.patient = False  # whether somebody calls `check`
        self._insists = self._raised = False
        self._came, self._over = threading.Event(), threading.Event()

    def __enter__(self) -> "Signals":
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            # Who runs in the background of a shell has been told to ignore Ctrl-C.
            heard = [n for n in _NUMBERS if signal.getsignal(n) is not signal.SIG_IGN]
            self._before = {n: signal.signal(n, self._handle) for n in heard}
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._over.set()
        self._came.set()  # the thread may go

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as shells have it."""
        return 128 + (self.number or signal.SIGINT)

    def check(self) -> None:
        """Stop here, if that was asked for."""
        if self.number and not self._raised:
            self._raised = True
            raise Stopped

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._insists:
            self._insists = False
            self.check()
        elif self.number:
            self.end()
        else:
            self.number = number
            self._came.set()
            if not self.patient:
                self.check()

    def _watch(self) -> None:
        self._came.wait()
        if self._over.wait(_ASKED):
            return
        main = threading.main_thread().ident
        if not self._raised and main is not None:
            self._insists = True
            signal.pthread_kill(main, self.number)
        if not self._over.wait(_INSISTED):
            self.end()

    def end(self) -> NoReturn:
        """End this process and those it started, without the rites of Python.

        They wait for what still compiles, and where JAX was interrupted they can crash.
        """
        gc.collect()  # gives back what processes shared
        for process in multiprocessing.active_children():
            process.kill()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self.exit_code)
