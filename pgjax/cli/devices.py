"""Several processes, on one machine or many, as one run: jax.distributed with clear errors."""

import contextlib
import dataclasses
import os
import socket
import sys
import threading
import time

import jax
import platformdirs

from pgjax.errors import ConfigError
from pgjax.runs import provenance

AUTO = "auto"
WAIT = 120  # seconds for all processes to come
_SILENCE = 30  # seconds without a sign of life after which a process is given up


def join_processes(
    coordinator: str, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Join the processes of a run; before the first computation, and once.

    Args:
      coordinator: HOST:PORT on which the first process waits for the others, or "auto": JAX then
        asks SLURM, Kubernetes, Open MPI or the TPU for all three.
      num_processes: how many there are.
      process_id: which this is, from 0.

    Where not all come within two minutes the process ends, with a line and exit code 2: JAX gives
    no way back.

    Raises:
      ConfigError: for an address or a number that cannot be; if the coordinator cannot be reached
        within two minutes.
    """
    where: dict[str, str | int] = {}
    if coordinator == AUTO:
        if num_processes is not None or process_id is not None:
            raise ConfigError(
                f"--coordinator {AUTO} finds --num-processes and --process-id: leave them out"
            )
    else:
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ConfigError(f"--coordinator must be HOST:PORT or {AUTO}, got {coordinator!r}")
        if num_processes is None or process_id is None:
            raise ConfigError("--coordinator HOST:PORT needs --num-processes and --process-id")
        if num_processes < 1:
            raise ConfigError(f"--num-processes must be at least 1, got {num_processes}")
        if not 0 <= process_id < num_processes:
            raise ConfigError(
                f"--process-id must lie in 0..{num_processes - 1}, which are the processes, "
                f"got {process_id}"
            )
        if process_id > 0:
            _reach(host, int(port))
        where = {
            "coordinator_address": coordinator,
            "num_processes": num_processes,
            "process_id": process_id,
        }
    # Before JAX's own time is over, which ends the process with a trace of its own.
    waiting = threading.Timer(WAIT, _give_up, [coordinator])
    waiting.daemon = True
    waiting.start()
    try:
        jax.distributed.initialize(
            **where,  # type: ignore[arg-type]
            initialization_timeout=2 * WAIT,
            heartbeat_timeout_seconds=_SILENCE,
        )
    except (RuntimeError, ValueError) as e:
        reason = str(e).splitlines()[0]
        if coordinator == AUTO:
            raise ConfigError(
                f"--coordinator {AUTO} finds nobody who tells where the processes are ({reason}): "
                "name HOST:PORT"
            ) from None
        raise ConfigError(
            f"the processes did not come together at the coordinator {coordinator}: {reason}"
        ) from None
    finally:
        waiting.cancel()


def _give_up(coordinator: str) -> None:
    print(
        f"pgjax: not all processes came together at the coordinator {coordinator} in {WAIT} s: see "
        "that as many as --num-processes says are running, and that they reach it",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def _reach(host: str, port: int) -> None:
    """Wait until somebody listens there, since JAX ends the process where nobody ever does."""
    until = time.monotonic() + WAIT
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as e:
            if time.monotonic() > until:
                raise ConfigError(
                    f"the coordinator {host}:{port} cannot be reached in {WAIT} s ({e}): start "
                    "process 0 there, and see that nothing stands between"
                ) from None
            time.sleep(0.5)


def exit_process(code: int) -> None:
    """End this process, if it is one of several, without waiting for the others, who may be lost.

    Leaving as usual would, and JAX would then end it with a trace of its own.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """Where a run runs, and who is told of it; none of it changes a result."""

    num_devices: int | None = None
    """Devices that share the episodes of an update, or the seeds; changes the speed, never the
    result. By default one, for several seeds as many as there are, and all those of several
    processes."""
    coordinator: str | None = None
    """HOST:PORT of the first of several processes, which each run this command; or auto, where
    SLURM, Kubernetes or a TPU pod tell it."""
    num_processes: int | None = None
    """How many processes; with --coordinator HOST:PORT."""
    process_id: int | None = None
    """Number of this process, from 0; with --coordinator HOST:PORT."""
    compile_cache: bool = True
    """Keep what was compiled in your cache folder, so that the next run starts sooner."""
    tensorboard: bool = False
    """Also write the metrics as event files, to RUN/tensorboard."""
    wandb: bool = False
    """Also write the metrics as an offline run of Weights & Biases, to RUN/wandb."""


def set_up_devices(running: RuntimeOptions, num_seeds: int) -> None:
    """Join the other processes, and take the cores of a CPU as devices where that is of use."""
    share = -(-(running.num_devices or num_seeds) // (running.num_processes or 1))
    wanted = min(share, provenance.threads())
    if wanted > 1 and "--xla_force_host_platform_device_count" not in os.environ.get(
        "XLA_FLAGS", ""
    ):
        with contextlib.suppress(RuntimeError):  # they are what they are, once computed with
            jax.config.update("jax_num_cpu_devices", wanted)
    if running.coordinator is None:
        if running.num_processes is not None or running.process_id is not None:
            raise ConfigError("several processes need --coordinator HOST:PORT, the same for all")
    else:
        join_processes(running.coordinator, running.num_processes, running.process_id)
    provenance.require_device()


def keep_compiled(compile_cache: bool) -> None:
    """Turn on JAX's persistent compilation cache, unless the user's own settings speak of it."""
    if not compile_cache:
        jax.config.update("jax_enable_compilation_cache", False)
    elif jax.config.values["jax_compilation_cache_dir"] is None:
        folder = platformdirs.user_cache_path("pgjax") / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
