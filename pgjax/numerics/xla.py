"""XLA compiler options, compilation in the background, and readable XLA errors."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import platformdirs
from jax.extend.core import get_opaque_trace_state

from pgjax.errors import PgjaxError, RunError
from pgjax.numerics.packing import pack, unpack

T = TypeVar("T")


def enable_compile_cache() -> Path:
    """Keep compiled programs in a folder of the user's, so that later processes start faster.

    Use it at the beginning of a script or notebook; the command line calls it too. A folder that is
    already configured, for example by JAX_COMPILATION_CACHE_DIR, stays. Results do not change.

    Returns:
      The folder.

    Example:
      >>> import pgjax
      >>> folder = pgjax.enable_compile_cache()
      >>> folder == pgjax.enable_compile_cache()
      True
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        folder = platformdirs.user_cache_path("pgjax") / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
    return Path(jax.config.values["jax_compilation_cache_dir"])


@functools.cache
def cpu_options(**options: str | bool) -> dict[str, str | bool]:
    """Return `compiler_options` for jax.jit; empty if not on CPU or if XLA rejects an option."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def single_thread() -> dict[str, str | bool]:
    """Keep all operations of a program in one thread; same rounding.

    By default XLA hands operations to another thread if more than eight could run in parallel, and
    waking that thread can cost more than a whole update of a small policy. With this schedule few
    operations can run in parallel.
    """
    return cpu_options(xla_cpu_scheduler_type="CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED")


def fast_compile() -> dict[str, str | bool]:
    """Cut compile time by a fifth; same run time in every case tested, and the same parameters.

    The last digit of a metric may differ.
    """
    return cpu_options(xla_backend_optimization_level="1")


def fastest_compile() -> dict[str, str | bool]:
    """Halve compile time; different rounding, and up to 2x slower for tanh and log."""
    return cpu_options(xla_backend_optimization_level="1", xla_cpu_use_fusion_emitters=False)


def compile_in_background(compile_: Callable[[], T]) -> Future[T]:
    """Call `compile_` in a new thread and return a future of its result.

    Other Python code can run while XLA compiles on another core. Tracing still takes turns with it.
    """
    pool = ThreadPoolExecutor(1)
    future = pool.submit(compile_)
    pool.shutdown(wait=False)
    return future


@functools.cache
def _outside_any_trace() -> Any:
    """Return the trace state of a thread in which JAX traces nothing."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(get_opaque_trace_state).result()


def _by_caller(traced: Callable[..., Any], make: Callable[[], Callable[..., Any]]) -> Any:
    """Return a function that is `traced` within a jit, vmap, grad or scan, and otherwise `make()`.

    XLA's options, which only a call from Python may set, are known once JAX has a backend; so the
    function for Python is made at the first call.
    """
    from_python = functools.cache(make)

    @functools.wraps(traced)
    def call(*args: Any, **kwargs: Any) -> Any:
        inside = get_opaque_trace_state() != _outside_any_trace()
        return traced(*args, **kwargs) if inside else from_python()(*args, **kwargs)

    for name in ("lower", "trace", "eval_shape"):  # as every jitted function has
        setattr(call, name, getattr(traced, name))
    return call


def jit_fast_compile(fn: Callable[..., Any]) -> Any:
    """Jit a function that Python calls once or twice, with `fast_compile`."""
    return _by_caller(jax.jit(fn), lambda: jax.jit(fn, compiler_options=fast_compile()))


_AT_ONCE = 6  # fewer than the eight that wake threads, since other operations are ready as well


def few_at_once(tree: Any) -> Any:
    """Return the same arrays, computed a few at a time on CPU.

    XLA wakes threads when more than eight operations are ready to run, as at the end of an update,
    which computes the new parameters and their moments side by side. Waking one costs as much as
    half an update of a small policy. So each group waits for an array of the group before.
    """
    if jax.default_backend() != "cpu":
        return tree
    ready, count = None, 0

    def wait(x: Any) -> Any:
        nonlocal ready, count
        x = jnp.asarray(x)
        if jnp.issubdtype(x.dtype, jax.dtypes.extended) or not x.size:
            return x
        if ready is not None:
            x = jnp.where(ready, x, jnp.zeros_like(x))
        count += 1
        if count >= _AT_ONCE and x.size > 1:
            low, high = jnp.sort(x.ravel()[:2])  # XLA fuses a sort with nothing
            ready, count = ~(low > high), 0  # always true, also for NaN
        return x

    return jax.tree.map(wait, tree)


def jit_with_metrics(fn: Callable[..., tuple[Any, dict[str, Any]]]) -> Any:
    """Jit a function that returns (result, metrics), for quick calls from Python.

    Each result of a compiled call costs time, and so does each thread that XLA wakes. So the
    metrics, scalars by name, come back in few arrays, and the program runs in one thread.

    Args:
      fn: (*args) -> (result, metrics).

    Returns:
      The compiled function. Called from Python, it returns the metrics as NumPy scalars.
    """

    def packed(*args: Any, **kwargs: Any) -> Any:
        result, metrics = fn(*args, **kwargs)
        return few_at_once(result), pack(metrics)

    def make() -> Callable[..., Any]:
        compiled = jax.jit(packed, compiler_options=single_thread())

        def call(*args: Any, **kwargs: Any) -> Any:
            result, metrics = compiled(*args, **kwargs)
            return result, unpack(metrics)

        return call

    return _by_caller(jax.jit(fn), make)


@contextlib.contextmanager
def translate_xla_errors() -> Iterator[None]:
    """Re-raise XLA's out-of-memory and lost-process errors as RunErrors that say what to do."""
    try:
        yield
    except PgjaxError:
        raise
    except Exception as e:
        reason = str(e).partition("\n")[0]
        from_xla = isinstance(e, jax.errors.JaxRuntimeError)
        if from_xla and "RESOURCE_EXHAUSTED" in reason:
            raise RunError(
                "out of memory: lower --episodes-per-update, --seeds, --max-episode-steps or "
                f"--hidden-sizes ({reason})"
            ) from e
        if jax.process_count() > 1 and (from_xla or "gloo" in reason.lower()):
            raise RunError(
                f"another process of the run was lost: restart all of them ({reason})"
            ) from e
        raise
