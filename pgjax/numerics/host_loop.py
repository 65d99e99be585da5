"""A compiled function called in a loop, in turns with Python.

A call of a compiled function from Python costs more than the arithmetic of a small policy. So one
program runs many steps and calls Python in each of them, through XLA's foreign function interface:
C structures that jaxlib documents in xla/ffi/api/c_api.h, with a version that XLA checks. Python
reads the result of a step and writes the arguments of the next one straight from memory to memory.

Where that is impossible (on a GPU, inside another such loop, or where XLA runs programs in another
thread, in which signals such as Ctrl-C would not arrive), each step is a call from Python.
"""

import ctypes
import functools
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pgjax.numerics.xla import fast_compile, single_thread

_TARGET = "pgjax_host_loop"
_API_VERSION = 0, 3  # of jax 0.10: major and minor
# Places in XLA_FFI_CallFrame and XLA_FFI_Buffer, in words of eight bytes.
_EXTENSION, _ARGS, _RETS, _DATA = 1, 9, 14, 3
# Places in the extension that asks for the version, in bytes.
_METADATA, _MAJOR, _MINOR = 24, 24, 28


class HostLoop:
    """Calls a compiled function for many steps, and Python after each.

    Args:
      fn: (constant, *rows) -> array, pure.

    Example:
      >>> import numpy as np
      >>> loop = HostLoop(lambda one, row: one + row)
      >>> rows, sums = np.zeros((4, 2), np.float32), np.zeros((3, 2), np.float32)
      >>> def step(t):
      ...     rows[t + 1] = 2 * sums[t]
      ...     return False
      >>> loop(np.float32(1), [rows], sums, 0, 3, step)
      >>> sums[:, 0].tolist()
      [1.0, 3.0, 7.0]
    """

    def __init__(self, fn: Callable[..., Any]):
        options = {**single_thread(), **fast_compile()}
        self.call = jax.jit(fn, compiler_options=options)
        loop = functools.wraps(fn)(functools.partial(_loop, fn))
        self._loop = jax.jit(loop, compiler_options=options)
        self._possible = (
            jax.default_backend() == "cpu"
            and not jax.config.values["jax_cpu_enable_async_dispatch"]
            and _register()
        )

    def __call__(
        self,
        constant: Any,
        rows: Sequence[np.ndarray],
        results: np.ndarray,
        begin: int,
        end: int,
        step: Callable[[int], bool],
    ) -> None:
        """For t from `begin` up to `end` (exclusive), or until `step(t)` is True:
        results[t] = fn(constant, *(row[t] for row in rows)), then step(t).

        Args:
          constant: the same in all steps.
          rows: contiguous arrays [T, ...] with T > end. `step(t)` may write their elements t + 1.
          results: contiguous array [T, ...] with T >= end.
          begin: the first step.
          end: the step to stop before.
          step: called with the number of the step; returns whether to stop. May raise.
        """
        if self._possible and begin < end and _lock.acquire(blocking=False):
            try:
                begin, stopped = self._run(constant, rows, results, begin, end, step)
            finally:
                _lock.release()
            if stopped:
                return
        for t in range(begin, end):
            results[t] = np.asarray(self.call(constant, *[row[t] for row in rows]))
            if step(t):
                return

    def _run(self, constant: Any, rows: Any, results: Any, *span: Any) -> tuple[int, bool]:
        """Run the compiled loop; return the step to go on with, and whether there is none."""
        run = _Run(rows, results, *span)
        _runs.append(run)
        try:
            self._loop(constant, *[row[run.t] for row in rows]).block_until_ready()
        finally:
            _runs.remove(run)
        if run.error is not None:
            try:
                raise run.error
            finally:
                run.error = None  # its traceback refers to `run`
        self._possible = run.here
        return run.t, run.stopped


class _Run:
    """One call of a HostLoop."""

    def __init__(
        self, rows: Any, results: Any, begin: int, end: int, step: Callable[[int], bool]
    ) -> None:
        self.thread = threading.get_ident()
        self.rows = [(_address(row), row.strides[0]) for row in rows]
        self.results, self.size = _address(results), results.strides[0]
        self.t, self.begin, self.end, self.step = begin, begin, end, step
        self.stopped, self.here = False, True
        self.error: BaseException | None = None


def _address(x: np.ndarray) -> int:
    return x.__array_interface__["data"][0]


_lock = threading.Lock()  # a loop inside or beside another one calls step by step
_runs: list[_Run] = []  # none or one


def _loop(fn: Callable[..., Any], constant: Any, *rows: Any) -> jax.Array:
    like = [jax.ShapeDtypeStruct(row.shape, row.dtype) for row in rows]
    number = jax.ShapeDtypeStruct((), jnp.int32)
    # JAX calls programs with side effects slowly. XLA may not leave out a call whose results are
    # used, nor move it out of the loop, since it is given the number of the iteration.
    call = jax.ffi.ffi_call(_TARGET, (number, *like))

    def body(carry: Any) -> Any:
        count, _, rows = carry
        answer, *rows = call(fn(constant, *rows), count)
        return count + 1, answer, rows

    # Python answers with the number of the call to go on. If it did not answer, because a signal
    # raised an exception before, the memory holds another number, and the loop ends as well.
    zero = jnp.zeros((), jnp.int32)
    return lax.while_loop(lambda carry: carry[0] == carry[1], body, (zero, zero, list(rows)))[0]


def _answer() -> Generator[None, int, None]:
    """Answer the calls of XLA, each with the address of its XLA_FFI_CallFrame.

    It is a generator, because Python handles signals when it enters a function, where no exception
    could be caught: ctypes would print and drop it. A generator is resumed within its `try`.
    """
    words = (ctypes.c_uint64 * 2**59).from_address(0)  # the memory of the process
    int32, move, here = ctypes.c_int32.from_address, ctypes.memmove, threading.get_ident
    while True:
        try:
            while True:
                run = None  # keep nothing of the loop alive
                frame = (yield) >> 3
                if extension := words[frame + _EXTENSION]:
                    metadata = words[extension + _METADATA >> 3]
                    int32(metadata + _MAJOR).value, int32(metadata + _MINOR).value = _API_VERSION
                    continue
                run = _runs[0]
                rets = words[frame + _RETS] >> 3
                answer = int32(words[(words[rets] >> 3) + _DATA])
                answer.value = -1  # to stop, unless all goes well
                if run.thread != here():
                    run.here = False
                if run.error is not None or not run.here:
                    continue
                t = run.t
                arg = words[words[frame + _ARGS] >> 3] >> 3
                move(run.results + t * run.size, words[arg + _DATA], run.size)
                stop = run.step(t)
                run.t = t = t + 1
                if stop or t == run.end:
                    run.stopped = True
                    continue
                for i, (row, size) in enumerate(run.rows, start=1):
                    move(words[(words[rets + i] >> 3) + _DATA], row + t * size, size)
                answer.value = t - run.begin
        except GeneratorExit:
            return
        except BaseException as e:
            for run in _runs:
                run.error = e


@functools.cache
def _register() -> bool:
    """Make `_answer` known to XLA; return whether XLA accepts its version of the interface."""
    answers = _answer()
    next(answers)
    function = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(answers.send)
    _forever.append(function)
    try:
        jax.ffi.register_ffi_target(_TARGET, jax.ffi.pycapsule(function), platform="cpu")
    except jax.errors.JaxRuntimeError:
        return False
    return True


_forever: list[Any] = []  # XLA keeps only an address of what is registered
