"""Train or resume one seed in a process of its own: `python -m pgjax.commands.seed_process`.

Reads a line of JSON from the standard input: the settings (`config`), the run folder (`path`),
whether to resume it (`resume`), the folder of compiled programs (`cache`), and the process to end
with (`parent`). Writes a line of JSON for each update (`metrics`, `timings`), warning and error.
"""

import dataclasses
import json
import os
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any, TextIO

import jax

from pgjax.config.env import end_with
from pgjax.config.settings import TrainConfig
from pgjax.errors import DivergedError, PgjaxError, RunWarning
from pgjax.evaluation.during import record_evaluation
from pgjax.runs import store
from pgjax.training import train as training
from pgjax.training.loop import RunInfo


class _Lines:
    """An Observer that writes each update as a line."""

    def __init__(self, out: TextIO):
        self._out = out

    def say(self, **values: Any) -> None:
        print(json.dumps(values), file=self._out, flush=True)

    def start(self, run: RunInfo) -> None:
        pass

    def update(self, metrics: list[dict[str, Any]], timings: dict[str, float]) -> None:
        self.say(metrics=metrics[0], timings=timings)

    def stop(self) -> None:
        pass


def main() -> None:
    """Train; the exit code is 0, also after an error that pgjax raises on purpose."""
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=end_with, args=(request["parent"],), daemon=True).start()
    # An environment may print: what it prints goes to the standard error.
    lines = _Lines(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # as the command line does
    if request["cache"] is not None:
        jax.config.update("jax_compilation_cache_dir", request["cache"])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
    path = Path(request["path"])
    config = dataclasses.replace(TrainConfig.from_json(request["config"]), run_dir=path)

    def show_warning(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if issubclass(category, RunWarning):
            lines.say(warning=str(message))

    warnings.showwarning = show_warning  # type: ignore[assignment]
    try:
        if request["resume"]:
            training.resume(
                path,
                [lines],
                updates=config.updates,
                allow_env_import=True,
                evaluator=record_evaluation,
            )
        else:
            training.train(config, [lines], evaluator=record_evaluation)
    except PgjaxError as e:
        if isinstance(e, DivergedError) and (path / "manifest.json").exists():
            manifest = store.read_sealed(path / "manifest.json")
            store.write_sealed(path / "manifest.json", {**manifest, "diverged": str(e)})
        lines.say(error=str(e), kind=type(e).__name__)
    except KeyboardInterrupt:
        pass  # the progress is saved


if __name__ == "__main__":
    main()
