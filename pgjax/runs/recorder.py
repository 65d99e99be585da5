"""Write the folder of a run: settings, manifest, logs and checkpoints."""

import contextlib
import json
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.serialization
import jax

from pgjax.config.settings import TrainConfig
from pgjax.errors import RunError, RunWarning, counted
from pgjax.runs import store
from pgjax.runs.checkpoints import settings_digest, with_key_data
from pgjax.runs.digests import params_sha256
from pgjax.runs.folder import resume_command, seeds_in, write_seeds
from pgjax.runs.provenance import (
    differences,
    environment_source,
    installed_packages,
    machine_facts,
    source,
)
from pgjax.runs.states import RunState
from pgjax.runs.trust import remember

LOGS = ("metrics.jsonl", "digests.jsonl", "timings.jsonl")
TOTALS = ("total_episodes", "total_env_steps")
# What `finish` adds to a manifest.
_RESULTS = ("params_sha256", "updates", *TOTALS, "finished", "diverged")


def json_lines(values: Sequence[dict[str, Any]]) -> bytes:
    """Format values as the lines of a .jsonl file; inverse of `pgjax.runs.folder.read_lines`."""
    return "".join(json.dumps(value, allow_nan=False) + "\n" for value in values).encode()


def zero_totals(update: int = 0) -> dict[str, Any]:
    """Initial metrics, with zero totals."""
    return {**dict.fromkeys(TOTALS, 0), "update": update}


class Recorder:
    """Writes the folder of one run, update by update.

    Safe to interrupt at any point: its view of the files changes in a single assignment.

    Args:
      path: the run folder.
      config: the settings of the run.
      resumed_from: the checkpoint to continue from, or None for a new run.
    """

    def __init__(self, path: Path, config: TrainConfig, resumed_from: store.Checkpoint | None):
        self.path, self._config = path, config
        last = zero_totals()
        if resumed_from:
            size = resumed_from.logs[LOGS[0]][0]
            last = json.loads((path / LOGS[0]).read_bytes()[:size].splitlines()[-1])
        self._now = last, store.logs_at(path, LOGS, resumed_from.logs if resumed_from else {})
        self._before = self._now
        self._saved = resumed_from.update if resumed_from else 0

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self._config.seed

    @property
    def last(self) -> dict[str, Any]:
        """Metrics of the last update, or zeros before the first."""
        return self._now[0]

    def begin(self, manifest: dict[str, Any]) -> None:
        """Write settings and manifest; discard what was written after the checkpoint."""
        self.path.mkdir(parents=True, exist_ok=True)
        if self.last["update"]:
            manifest = self._resumed(manifest)
        self._manifest = {"config": self._config.to_json(), **manifest}
        store.clear(self.path / "checkpoints", self.last["update"])
        for name in ("failure.json", "evaluation.json"):  # of an earlier state
            (self.path / name).unlink(missing_ok=True)
        store.write_sealed(self.path / "config.json", self._config.to_json())
        remember(self.path, self._config)
        store.write_sealed(self.path / "manifest.json", self._manifest)
        store.flush(self.path, self._now[1])

    def record(
        self,
        metrics: list[dict[str, Any]],
        digests: list[str],
        timings: list[dict[str, float]],
    ) -> None:
        """Append a line per update to each log."""
        rows = [
            (of, {"update": of["update"], "params": digest}, {"update": of["update"], **timing})
            for of, digest, timing in zip(metrics, digests, timings, strict=True)
        ]
        lines = {name: json_lines(x) for name, x in zip(LOGS, zip(*rows), strict=True)}  # noqa: B905
        ends = store.append(self.path, self._now[1], lines)
        self._before, self._now = self._now, (metrics[-1], ends)

    def save(self, state: RunState, score: float | None = None) -> None:
        """Write a checkpoint of the state after the last, or second-to-last, call of `record`.

        The score decides which checkpoint is the best: the mean return of an evaluation, or None
        without one. Where a run is evaluated while it trains, only states with a score count.
        """
        if int(state.step) != self.last["update"]:
            self._now = self._before
        last, ends = self._now
        marks = store.flush(self.path, ends)
        if last["update"] != self._saved:
            store.commit(
                self.path / "checkpoints",
                last["update"],
                self._score() if score is None else score,
                settings_digest(self._config),
                marks,
                flax.serialization.to_bytes(jax.device_get(with_key_data(state))),
            )
            self._saved = last["update"]

    def _score(self) -> float:
        """The mean return of the last update, or the lowest number where it does not count."""
        # Running episodes, which a stream reports before the first end, are not compared.
        if self._config.eval_every or not self.last["total_episodes"]:
            return -sys.float_info.max
        return float(self.last["mean_return"])

    def finish(self, state: RunState, diverged: str | None = None) -> None:
        """Add the results to the manifest, with the reason if the run ended early."""
        self._manifest |= {
            "params_sha256": params_sha256(state.params),
            "updates": int(state.step),
            **{name: self.last[name] for name in TOTALS},
            "finished": _now(),
            **({"diverged": diverged} if diverged else {}),
        }
        store.write_sealed(self.path / "manifest.json", self._manifest)

    def _resumed(self, fresh: dict[str, Any]) -> dict[str, Any]:
        """The original manifest, plus what differs on the resuming machine."""
        try:
            manifest = store.read_sealed(self.path / "manifest.json")
            differs = differences(fresh["machine"], manifest["machine"])
            for name in ("config", *_RESULTS):  # written anew
                manifest.pop(name, None)
        except (store.DamagedError, KeyError, AttributeError, TypeError) as e:
            warnings.warn(
                f"cannot read manifest.json, so it is written anew ({e})", RunWarning, stacklevel=2
            )
            return fresh
        if differs:
            warnings.warn(
                f"resuming on another machine, so results may differ: {'; '.join(differs)}",
                RunWarning,
                stacklevel=2,
            )
        resumed = [
            *manifest.get("resumed", []),
            {"update": self.last["update"], "differs": differs},
        ]
        return {**manifest, "resumed": resumed}


class SeedRecorders:
    """The recorders of all seeds; only the first process has any.

    Args:
      folder: the run folder; with several seeds, the folder that holds theirs.
      recorders: one for each seed.
      manifest: from `new_manifest`.
      why_not_reproducible: why the environment cannot repeat an episode exactly, or None.
    """

    def __init__(
        self,
        folder: Path,
        recorders: list[Recorder],
        manifest: dict[str, Any],
        why_not_reproducible: str | None,
    ):
        self._folder, self._recorders = folder, recorders
        self._manifest, self._why_not = manifest, why_not_reproducible
        self._begun = False
        self._ended: set[int] = set()

    @property
    def _running(self) -> list[tuple[int, Recorder]]:
        return [(i, of) for i, of in enumerate(self._recorders) if i not in self._ended]

    def begin(self) -> None:
        """Write everything that precedes the first log line."""
        with self._writing():
            several = bool(self._recorders) and self._recorders[0].path != self._folder
            if several:
                (self._folder / "evaluation.json").unlink(missing_ok=True)
            if several and not seeds_in(self._folder):  # a resume may have fewer recorders
                first = self._recorders[0].seed
                write_seeds(self._folder, range(first, first + len(self._recorders)))
            if self._recorders:
                self._manifest |= _bit_exact(self._why_not)
            for recorder in self._recorders:
                recorder.begin(self._manifest)
            self._begun = True

    def record(
        self,
        metrics: list[list[dict[str, Any]]],
        digests: list[list[str]],
        timings: list[dict[str, float]],
    ) -> None:
        """Append updates, [seed][update], to the logs of every seed that has not ended."""
        if not self._begun:
            self.begin()
        with self._writing():
            for i, recorder in self._running:
                recorder.record(metrics[i], digests[i], timings)

    def save(self, states: list[RunState], scores: Sequence[float | None] | None = None) -> None:
        """Write a checkpoint of every seed that has not ended, with a score from an evaluation."""
        with self._writing():
            for i, recorder in self._running:
                recorder.save(states[i], scores[i] if scores else None)

    def finish(self, states: list[RunState]) -> None:
        """Add the results to the manifest of every seed that has not ended."""
        with self._writing():
            for i, recorder in self._running:
                recorder.finish(states[i])

    def end_seed(self, i: int, state: RunState, reason: str) -> None:
        """Save the state of a seed that has diverged, say so in its manifest, and warn."""
        if not self._recorders:
            return
        if not self._begun:
            self.begin()
        with self._writing():
            self._recorders[i].save(state)
            self._recorders[i].finish(state, diverged=reason)
        self._ended.add(i)
        kept = f"it ends after {counted(int(state.step), 'update')}, the other seeds go on"
        warnings.warn(f"{reason}; {kept}", RunWarning, stacklevel=2)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise RunError(
                f"cannot write to {self._folder} ({e}): the last checkpoint is intact; free some "
                f"space and run {resume_command(self._folder)}"
            ) from e


def new_manifest(config: TrainConfig) -> dict[str, Any]:
    """The facts known before a run starts.

    Only `machine` is compared when a run is resumed or verified; the packages are for a person.
    """
    return {
        "machine": machine_facts(config),
        "environment": environment_source(config),
        "packages": installed_packages(),
        **source(),
        "started": _now(),
    }


def _bit_exact(reason: str | None) -> dict[str, Any]:
    """The part of a manifest that says whether the run is bit-exact."""
    if reason is not None:
        warnings.warn(f"resumable, not bit-exact: {reason}", RunWarning, stacklevel=2)
    return {"bit_exact": reason is None, "not_bit_exact_because": reason}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
