"""Devices and processes of a run: options, set-up, and clear errors from jax.distributed."""

import contextlib
import dataclasses
import os
import socket
import sys
import threading
import time

import jax

from pgjax.cli.trackers import TrackerOptions
from pgjax.errors import ConfigError
from pgjax.numerics.xla import enable_compile_cache
from pgjax.runs import provenance

AUTO = "auto"
WAIT = 120  # seconds for all processes to connect
_HEARTBEAT = 30  # seconds without a heartbeat until a process counts as lost


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Devices and processes; none changes a result."""

    num_devices: int | None = None
    """Number of devices that share the episodes of an update, or the seeds. It changes the speed,
    never the result. Default: one; with several seeds, one per seed or as many as available; with
    several processes, all."""
    coordinator: str | None = None
    """HOST:PORT of the first of several processes, each of which runs this command; or auto, if
    SLURM, Kubernetes or a TPU pod provides it."""
    num_processes: int | None = None
    """Number of processes; with --coordinator HOST:PORT."""
    process_id: int | None = None
    """Index of this process, from 0; with --coordinator HOST:PORT."""
    compile_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that later runs start faster."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RuntimeOptions(TrackerOptions, DeviceOptions):
    """Devices, processes and trackers; none changes a result."""

    @classmethod
    def of(cls, devices: DeviceOptions, trackers: TrackerOptions) -> "RuntimeOptions":
        """Join the two groups that the parser shows."""
        return cls(**vars(devices), **vars(trackers))


def set_up_devices(options: RuntimeOptions, num_seeds: int) -> None:
    """Join the other processes, and split the CPU into several devices if the run can use them."""
    share = -(-(options.num_devices or num_seeds) // (options.num_processes or 1))
    wanted = min(share, provenance.threads())
    flags = os.environ.get("XLA_FLAGS", "")
    if wanted > 1 and "--xla_force_host_platform_device_count" not in flags:
        with contextlib.suppress(RuntimeError):  # raised if JAX has already computed something
            jax.config.update("jax_num_cpu_devices", wanted)
    if options.coordinator is None:
        if options.num_processes is not None or options.process_id is not None:
            raise ConfigError("several processes need the same --coordinator HOST:PORT")
    else:
        join_processes(options.coordinator, options.num_processes, options.process_id)
    provenance.require_device()


def set_up_compile_cache(enabled: bool) -> None:
    """Turn JAX's persistent compilation cache off, or on unless the user has configured one."""
    if not enabled:
        jax.config.update("jax_enable_compilation_cache", False)
    else:
        enable_compile_cache()


def join_processes(
    coordinator: str, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Join the processes of a run. Call it once, before the first computation.

    If not all processes connect within two minutes, this process prints one line and exits with 2,
    since JAX offers no way to recover.

    Args:
      coordinator: HOST:PORT where the first process waits for the others; or "auto", which gets all
        three arguments from SLURM, Kubernetes, Open MPI or the TPU.
      num_processes: number of processes.
      process_id: index of this process, from 0.

    Raises:
      ConfigError: if an argument is invalid, or the coordinator cannot be reached within two
        minutes.
    """
    address = _address(coordinator, num_processes, process_id)
    # Expires before JAX's own timeout, which ends the process with a traceback.
    waiting = threading.Timer(WAIT, _give_up, [coordinator])
    waiting.daemon = True
    waiting.start()
    try:
        jax.distributed.initialize(
            **address,  # type: ignore[arg-type]
            initialization_timeout=2 * WAIT,
            heartbeat_timeout_seconds=_HEARTBEAT,
        )
    except (RuntimeError, ValueError) as e:
        reason = str(e).splitlines()[0]
        if coordinator == AUTO:
            raise ConfigError(
                f"--coordinator {AUTO} found no supported cluster ({reason}): give HOST:PORT"
            ) from None
        raise ConfigError(
            f"cannot connect through the coordinator {coordinator} ({reason}): check that all "
            "processes can reach it"
        ) from None
    finally:
        waiting.cancel()


def _address(
    coordinator: str, num_processes: int | None, process_id: int | None
) -> dict[str, str | int]:
    """Check the arguments of `join_processes`; return those of jax.distributed.initialize."""
    if coordinator == AUTO:
        if num_processes is not None or process_id is not None:
            raise ConfigError(
                f"--coordinator {AUTO} determines --num-processes and --process-id: leave them out"
            )
        return {}
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"--coordinator must be HOST:PORT or {AUTO}, got {coordinator!r}")
    if num_processes is None or process_id is None:
        raise ConfigError("--coordinator HOST:PORT needs --num-processes and --process-id")
    if num_processes < 1:
        raise ConfigError(f"--num-processes must be at least 1, got {num_processes}")
    if not 0 <= process_id < num_processes:
        raise ConfigError(f"--process-id must be from 0 to {num_processes - 1}, got {process_id}")
    if process_id > 0:
        _reach(host, int(port))
    return {
        "coordinator_address": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
    }


def _reach(host: str, port: int) -> None:
    """Wait until the coordinator listens; if it never does, JAX would end the process."""
    until = time.monotonic() + WAIT
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as e:
            if time.monotonic() > until:
                raise ConfigError(
                    f"the coordinator {host}:{port} cannot be reached within {WAIT} s ({e}): start "
                    "process 0 there, and check that no firewall blocks the port"
                ) from None
            time.sleep(0.5)


def _give_up(coordinator: str) -> None:
    print(
        f"pgjax: not all processes connected to the coordinator {coordinator} within {WAIT} s: "
        "check that --num-processes of them are running and can reach it",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def exit_process(code: int) -> None:
    """If this process is one of several, end it without waiting for the others.

    A normal exit would wait for the others, possibly lost, until JAX aborts with a traceback.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
