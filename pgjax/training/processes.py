"""Train the seeds of the Python loop in processes, as many side by side as there are cores."""

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from pgjax import errors
from pgjax.config.agent import make_agent
from pgjax.config.env import open_env
from pgjax.config.settings import TrainConfig
from pgjax.errors import PgjaxError, RunWarning
from pgjax.runs import folder, provenance
from pgjax.runs.recorder import zero_totals
from pgjax.training.loop import Observer, RunInfo, observing

_SAVING = 60.0  # seconds that an interrupted seed may take to save


@dataclasses.dataclass
class _Seed:
    """One seed: what is known of its training."""

    config: TrainConfig
    path: Path
    metrics: dict[str, Any] = dataclasses.field(default_factory=zero_totals)
    process: subprocess.Popen[str] | None = None
    error: PgjaxError | None = None
    steps_per_second: float = 0.0  # 0 once it has ended


def train_in_processes(
    configs: list[TrainConfig],
    run_dir: Path,
    paths: list[Path],
    observers: Sequence[Observer],
    *,
    resuming: bool = False,
) -> None:
    """Train each config in a process of its own, which writes its run folder.

    Observers get the latest metrics of all seeds after each update of one of them. A seed that
    fails ends with a RunWarning, and the others go on.

    Raises:
      ConfigError: if the environment was given in Python.
      PgjaxError: if all seeds fail, the error of the first.
      KeyboardInterrupt: after an interrupt, once all seeds have saved their progress.
    """
    if configs[0].env is not None:
        raise errors.ConfigError(
            "seeds are trained in processes, which cannot get an environment given in Python: "
            "register it, and name it module:Id"
        )
    seeds = [_Seed(config, path) for config, path in zip(configs, paths, strict=True)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(folder.locked_folder(run_dir, new=not resuming))
        with open_env(configs[0], 1) as env:  # before the processes: it may not exist
            policy = make_agent(configs[0], env).policy
        spaces = env.observation_space, env.action_space
        devices = tuple(jax.local_devices()[:1])  # of each process
        info = RunInfo(configs, paths, *spaces, policy, env.time_limit, devices)
        stack.enter_context(observing(observers, info))
        try:
            with contextlib.closing(_updates(seeds, resuming)) as updates:
                _follow(seeds, updates, run_dir, observers)
        except KeyboardInterrupt as e:
            raise type(e)(f"{e} (to continue: {folder.resume_command(run_dir)})".lstrip()) from e
    if all(seed.error for seed in seeds):
        raise next(seed.error for seed in seeds if seed.error)


def _follow(
    seeds: list[_Seed],
    updates: Iterator[tuple[_Seed, dict[str, float]]],
    run_dir: Path,
    observers: Sequence[Observer],
) -> None:
    """Pass each update to the observers, and warn of each seed that fails."""
    listed = bool(folder.seeds_in(run_dir))
    for seed, timings in updates:
        if seed.error is not None:
            _warn_of_failure(seed, len(seeds))
            continue
        if not listed:
            first = seeds[0].config.seed
            folder.write_seeds(run_dir, range(first, first + len(seeds)))
            listed = True
        together = {**timings, "steps_per_second": sum(of.steps_per_second for of in seeds)}
        for observer in observers:
            observer.update([of.metrics for of in seeds], together)


def _warn_of_failure(seed: _Seed, number: int) -> None:
    others = ", the other seeds go on" if number > 1 else ""
    warnings.warn(f"seed {seed.config.seed} failed: {seed.error}{others}", RunWarning, stacklevel=3)


def _updates(
    seeds: list[_Seed], resuming: bool
) -> Generator[tuple[_Seed, dict[str, float]], None, None]:
    """Run the processes, and yield each seed that has made an update or failed."""
    lines: queue.SimpleQueue[tuple[_Seed, dict[str, Any] | None]] = queue.SimpleQueue()
    cores = provenance.threads()
    side_by_side = min(cores, len(seeds))
    waiting, running = list(seeds), 0
    warned = set[str]()
    try:
        while waiting or running:
            while waiting and running < side_by_side:
                _start(waiting.pop(0), lines, resuming, max(1, cores // side_by_side))
                running += 1
            with contextlib.suppress(queue.Empty):
                seed, line = lines.get(timeout=0.2)  # so that signals are handled
                if line is None:
                    running -= 1
                    seed.steps_per_second = 0.0
                    assert seed.process is not None
                    if seed.process.wait() and seed.error is None:
                        seed.error = errors.RunError(
                            f"its process ended with code {seed.process.returncode}"
                        )
                        yield seed, {}
                elif "metrics" in line:
                    seed.metrics = line["metrics"]
                    seed.steps_per_second = line["timings"]["steps_per_second"]
                    yield seed, line["timings"]
                elif "warning" in line:
                    if line["warning"] not in warned:  # mostly all seeds say the same
                        warnings.warn(line["warning"], RunWarning, stacklevel=2)
                    warned.add(line["warning"])
                else:
                    seed.error = getattr(errors, line["kind"])(line["error"])
                    yield seed, {}
    finally:
        _end([seed.process for seed in seeds if seed.process is not None])


def _start(
    seed: _Seed,
    lines: "queue.SimpleQueue[tuple[_Seed, dict[str, Any] | None]]",
    resuming: bool,
    threads: int,
) -> None:
    """Start the process of a seed, and a thread that puts its lines into the queue."""
    request = {
        "config": seed.config.to_json(),
        "path": str(seed.path),
        "resume": resuming and (seed.path / "config.json").exists(),
        "cache": jax.config.values["jax_compilation_cache_dir"],
        "parent": os.getpid(),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "pgjax.commands.seed_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # The modules that this process can import, for environments module:Name.
        env={**os.environ, "NPROC": str(threads), "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,  # Ctrl-C in a terminal reaches this process alone; see _end
    )
    seed.process = process
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.close()
    output = process.stdout

    def read() -> None:
        with output:
            for line in output:
                lines.put((seed, json.loads(line)))
        lines.put((seed, None))

    threading.Thread(target=read, daemon=True).start()


def _end(processes: list[subprocess.Popen[str]]) -> None:
    """Interrupt processes that still run, and wait until they have saved their progress."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.send_signal(signal.SIGINT)
    for process in running:
        try:
            process.wait(_SAVING)
        except subprocess.TimeoutExpired:
            process.kill()
