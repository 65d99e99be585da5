"""A compiled function called in a loop, in turns with Python.

A call of a compiled function from Python costs more than the arithmetic of a small policy. So one
program runs many steps and calls Python in each of them, through XLA's foreign function interface:
C structures that jaxlib documents in xla/ffi/api/c_api.h, with a version that XLA checks. Python
reads the result of a step and writes the arguments of the next one straight from memory to memory.

Where that is impossible (on a GPU, inside another such loop, or where XLA runs programs in another
thread, in which signals such as Ctrl-C would not arrive), each step is a call from Python.
"""

import _signal  # what `signal` wraps, without the time that its enums take
import contextlib
import ctypes
import functools
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
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
_TYPE, _METADATA, _MAJOR, _MINOR = 8, 24, 24, 28
_ASKS_VERSION = 1
_DEPTH = 50  # of calls that Python must still allow: an error in `_answer` would end the process
# Signals whose handlers may raise exceptions; Windows lacks most of them.
_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGALRM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)


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
        self._fn, self._fits = fn, dict[Any, bool]()
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
          rows: arrays [T, ...] with T > end. `step(t)` may write their elements t + 1.
          results: array [T, ...] with T >= end.
          begin: the first step.
          end: the step to stop before.
          step: called with the number of the step; returns whether to stop. May raise.
        """
        nested = _local.run is not None
        if begin < end and self._possible and not nested and self._fit(constant, rows, results):
            run = _Run(rows, results, begin, end, step)
            self._run(run, constant, [row[begin] for row in rows])
            if run.stopped:
                return
            begin = run.t
        for t in range(begin, end):
            results[t] = np.asarray(self.call(constant, *[row[t] for row in rows]))
            if step(t):
                return

    def _fit(self, constant: Any, rows: Sequence[np.ndarray], results: np.ndarray) -> bool:
        """Whether the memory of the arrays is what XLA reads and writes."""
        config: Any = jax.config
        if config.jax_debug_nans or config.jax_debug_infs:  # they look at results of calls
            return False
        arrays = *rows, results
        key = (
            config.jax_enable_x64,
            *((x.shape[1:], x.dtype, x.flags.c_contiguous) for x in arrays),
        )
        if key not in self._fits:
            like = [np.zeros(x.shape[1:], x.dtype) for x in arrays]
            expected = jax.eval_shape(lambda *x: (x[1:], self._fn(*x)), constant, *like[:-1])
            self._fits[key] = all(x.flags.c_contiguous for x in arrays) and all(
                x.shape == y.shape and x.dtype == y.dtype
                for x, y in zip(like, [*expected[0], expected[1]], strict=True)
            )
        return self._fits[key]

    def _run(self, run: "_Run", constant: Any, rows: Sequence[np.ndarray]) -> None:
        """Run the compiled loop, and raise what `step` raised."""
        _check_depth(_DEPTH)
        with run.signals_only_in_steps():
            try:
                _local.run = run
                self._loop(constant, *rows).block_until_ready()
            finally:
                _local.run = None
        if run.error is not None:
            try:
                raise run.error
            finally:
                run.error = None  # its traceback refers to `run`
        if run.t == run.begin:
            self._possible = False  # XLA called another thread


class _Run:
    """One call of a HostLoop."""

    def __init__(
        self, rows: Any, results: Any, begin: int, end: int, step: Callable[[int], bool]
    ) -> None:
        self.rows = [(_address(row), row.strides[0]) for row in rows]
        self.results, self.size = _address(results), results.strides[0]
        self.t, self.begin, self.end, self._step = begin, begin, end, step
        self.stopped = False
        self.error: BaseException | None = None
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._pending: list[int] = []  # signals that arrived outside a step
        self._may_raise = True

    def step(self) -> bool:
        """Make the next step; return whether the loop ends. Raises nothing."""
        try:
            self._may_raise = True
            if self._pending:
                self._handle_pending()
            self.stopped = self._step(self.t)
        except BaseException as e:
            self.error = e
        finally:
            self._may_raise = False
        self.t += 1
        self.stopped = self.error is not None or self.stopped or self.t == self.end
        return self.stopped

    @contextlib.contextmanager
    def signals_only_in_steps(self) -> Iterator[None]:
        """Handle signals only within `step` and at the end, where handlers may raise.

        An exception that a handler raises as XLA calls Python could not be caught: ctypes would
        print it and return a wild pointer to XLA.
        """
        main = threading.current_thread() is threading.main_thread()
        handlers = {n: _signal.getsignal(n) for n in _SIGNALS} if main else {}
        try:
            for n, handler in handlers.items():
                if isinstance(stale := getattr(handler, "__self__", None), _Run):
                    handler = stale._handlers[n]  # a signal interrupted the end of that run
                if callable(handler):
                    self._handlers[n] = handler
                    _signal.signal(n, self._handle)
            self._may_raise = False
            yield
        finally:
            self._may_raise = True  # so that `_handle` is harmless even if it stays
            for n in self._handlers:
                if _signal.getsignal(n) == self._handle:
                    _signal.signal(n, self._handlers[n])
            if self._pending:
                self._handle_pending()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._may_raise:
            self._handlers[number](number, frame)
        else:
            self._pending.append(number)

    def _handle_pending(self) -> None:
        with contextlib.ExitStack() as stack:  # all of them, even if one raises
            while self._pending:
                number = self._pending.pop()
                stack.callback(self._handlers[number], number, None)


class _Local(threading.local):
    run: _Run | None = None  # the loop of this thread


_local = _Local()


def _address(x: np.ndarray) -> int:
    return x.__array_interface__["data"][0]


def _check_depth(n: int) -> None:
    """Raise RecursionError unless n more calls are possible."""
    if n:
        _check_depth(n - 1)


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

    # Python answers with the number of the call to go on.
    zero = jnp.zeros((), jnp.int32)
    return lax.while_loop(lambda carry: carry[0] == carry[1], body, (zero, zero, list(rows)))[0]


_words = (ctypes.c_uint64 * 2**59).from_address(0)  # the memory of the process
_int32 = ctypes.c_int32.from_address


def _answer(address: int) -> None:
    """Answer a call of XLA, given the address of its XLA_FFI_CallFrame. Must not raise."""
    frame = address >> 3
    if extension := _words[frame + _EXTENSION]:
        if _int32(extension + _TYPE).value == _ASKS_VERSION:
            metadata = _words[extension + _METADATA >> 3]
            _int32(metadata + _MAJOR).value, _int32(metadata + _MINOR).value = _API_VERSION
        return
    rets = _words[frame + _RETS] >> 3
    answer = _int32(_words[(_words[rets] >> 3) + _DATA])
    answer.value = -1  # to stop
    run = _local.run
    if run is None or run.stopped:
        return
    arg = _words[_words[frame + _ARGS] >> 3] >> 3
    ctypes.memmove(run.results + run.t * run.size, _words[arg + _DATA], run.size)
    if run.step():
        return
    for i, (row, size) in enumerate(run.rows, start=1):
        ctypes.memmove(_words[(_words[rets + i] >> 3) + _DATA], row + run.t * size, size)
    answer.value = run.t - run.begin


@functools.cache
def _register() -> bool:
    """Make `_answer` known to XLA; return whether XLA accepts its version of the interface."""
    function = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(_answer)
    _forever.append(function)
    try:
        jax.ffi.register_ffi_target(_TARGET, jax.ffi.pycapsule(function), platform="cpu")
    except jax.errors.JaxRuntimeError:
        return False
    return True


_forever: list[Any] = []  # XLA keeps only an address of what is registered
