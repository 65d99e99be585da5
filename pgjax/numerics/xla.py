"""Options for XLA, where its own choice costs too much: in a call, or before the first one."""

import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import jax

from pgjax.errors import RunError

T = TypeVar("T")


@functools.cache
def cpu_options(**options: str | bool) -> dict[str, str | bool]:
    """The `compiler_options` for jax.jit on CPU; none elsewhere, or if this XLA lacks one."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def single_thread() -> dict[str, str | bool]:
    """Keep the operations of a program in one thread.

    XLA hands some of them to another thread wherever more than eight could run at once, and waking
    it can cost more than a whole update of a small policy. In this schedule few can. The operations
    stay the same, and so do their results.
    """
    return cpu_options(xla_cpu_scheduler_type="CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED")


def fast_compile() -> dict[str, str | bool]:
    """Compile for a fifth less time; as quick, and the same bits, wherever it was tried."""
    return cpu_options(xla_backend_optimization_level="1")


def fastest_compile() -> dict[str, str | bool]:
    """Compile in half the time: other bits, and at half speed where there is much tanh or log."""
    return cpu_options(xla_backend_optimization_level="1", xla_cpu_use_fusion_emitters=False)


def compile_in_background(compile_: Callable[[], T]) -> Future[T]:
    """What `compile_` gives, from a thread of its own.

    Tracing takes turns with the rest of Python; XLA does not, and leaves a core idle.
    """
    pool = ThreadPoolExecutor(1)
    future = pool.submit(compile_)
    pool.shutdown(wait=False)
    return future


def translate_xla_error(error: BaseException) -> BaseException:
    """What XLA says of memory, and of another process, in our words; other errors as they are."""
    reason = str(error).partition("\n")[0]
    from_xla = isinstance(error, jax.errors.JaxRuntimeError)
    if from_xla and "RESOURCE_EXHAUSTED" in reason:
        return RunError(
            "out of memory: fewer --episodes-per-update, --seeds, --max-episode-steps or "
            f"--hidden-sizes ({reason})"
        )
    if jax.process_count() > 1 and (from_xla or "gloo" in reason.lower()):
        return RunError(f"another process of the run was lost: start all again ({reason})")
    return error
