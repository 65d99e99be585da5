"""Writing the folder of a run: settings, manifest, a line per update, checkpoints."""

import contextlib
import json
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.serialization
import jax

from pgjax.config.env import why_not_reproducible
from pgjax.config.settings import TrainConfig
from pgjax.errors import RunError, RunWarning
from pgjax.runs import provenance, store
from pgjax.runs.checkpoints import settings_digest, with_key_data
from pgjax.runs.digests import params_sha256
from pgjax.runs.folder import write_seeds
from pgjax.types import TrainState

LOGS = ("metrics.jsonl", "digests.jsonl", "timings.jsonl")
TOTALS = ("total_episodes", "total_env_steps")


def json_lines(values: Sequence[dict[str, Any]]) -> bytes:
    """The inverse of read_lines."""
    return "".join(json.dumps(value, allow_nan=False) + "\n" for value in values).encode()


def zero_totals(update: int = 0) -> dict[str, Any]:
    """What the metrics of the first update add to."""
    return {**dict.fromkeys(TOTALS, 0), "update": update}


class Recorder:
    """Writes the folder of one run, update by update.

    It may be interrupted anywhere: what it knows of its files changes in one assignment.
    """

    def __init__(self, path: Path, config: TrainConfig, begun: store.Checkpoint | None = None):
        """At the beginning, or where a checkpoint was, whose metrics are read back."""
        self.path, self._config = path, config
        last = zero_totals()
        if begun:
            size = begun.logs[LOGS[0]][0]
            last = json.loads((path / LOGS[0]).read_bytes()[:size].splitlines()[-1])
        self._now = last, store.logs_at(path, LOGS, begun.logs if begun else {})
        self._before = self._now
        self._saved = begun.update if begun else 0

    @property
    def seed(self) -> int:
        """Of the run."""
        return self._config.seed

    @property
    def last(self) -> dict[str, Any]:
        """The metrics of the last update, or zeros before the first."""
        return self._now[0]

    def begin(self, manifest: dict[str, Any]) -> None:
        """Write settings and manifest, cut off what was written after the checkpoint."""
        self.path.mkdir(parents=True, exist_ok=True)
        if self.last["update"]:
            manifest = self._continued(manifest)
        self._manifest = {"config": self._config.to_json(), **manifest}
        store.clear(self.path / "checkpoints", self.last["update"])
        (self.path / "failure.json").unlink(missing_ok=True)
        store.write_sealed(self.path / "config.json", self._config.to_json())
        store.write_sealed(self.path / "manifest.json", self._manifest)
        store.flush(self.path, self._now[1])

    def record(
        self,
        metrics: list[dict[str, Any]],
        digests: list[str],
        timings: list[dict[str, float]],
    ) -> None:
        """Append updates to all logs."""
        rows = [
            (of, {"update": of["update"], "params": digest}, {"update": of["update"], **timing})
            for of, digest, timing in zip(metrics, digests, timings, strict=True)
        ]
        lines = {name: json_lines(x) for name, x in zip(LOGS, zip(*rows), strict=True)}  # noqa: B905
        ends = store.append(self.path, self._now[1], lines)
        self._before, self._now = self._now, (metrics[-1], ends)

    def save(self, state: TrainState) -> None:
        """Write a checkpoint of the state after the last recorded update, or the one before."""
        if int(state.step) != self.last["update"]:
            self._now = self._before
        last, ends = self._now
        marks = store.flush(self.path, ends)
        if last["update"] != self._saved:
            store.commit(
                self.path / "checkpoints",
                last["update"],
                float(last["mean_return"]),
                settings_digest(self._config),
                marks,
                flax.serialization.to_bytes(jax.device_get(with_key_data(state))),
            )
            self._saved = last["update"]

    def _continued(self, fresh: dict[str, Any]) -> dict[str, Any]:
        """The manifest the run began with; of this machine only in what it differs."""
        try:
            begun = store.read_sealed(self.path / "manifest.json")
            differs = provenance.differences(fresh["machine"], begun["machine"])
            del begun["config"]
        except (store.DamagedError, KeyError, AttributeError, TypeError) as e:
            warnings.warn(f"{e}: it is written anew", RunWarning, stacklevel=2)
            return fresh
        if differs:
            told = f"not where it began, so the bits may differ: {'; '.join(differs)}"
            warnings.warn(told, RunWarning, stacklevel=2)
        resumed = [*begun.get("resumed", []), {"update": self.last["update"], "differs": differs}]
        return {**begun, "resumed": resumed}

    def finish(self, state: TrainState) -> None:
        """Tell in the manifest what came out."""
        self._manifest |= {
            "params_sha256": params_sha256(state.params),
            "updates": int(state.step),
            **{name: self.last[name] for name in TOTALS},
            "finished": _now(),
        }
        store.write_sealed(self.path / "manifest.json", self._manifest)


class SeedRecorders:
    """The recorders of all seeds; of several processes only the first has any."""

    def __init__(
        self, folder: Path, recorders: list[Recorder], config: TrainConfig, manifest: dict[str, Any]
    ):
        self._folder, self._recorders, self._config = folder, recorders, config
        self._manifest, self._begun = manifest, False

    def begin(self) -> None:
        """What stands before the first line."""
        if self._recorders and self._recorders[0].path != self._folder:
            first = self._recorders[0].seed
            write_seeds(self._folder, range(first, first + len(self._recorders)))
        if self._recorders:
            # Not sooner: an environment that hangs or dies at once is told of by the training.
            self._manifest |= _bit_exact(_told_once(self._config))
        for recorder in self._recorders:
            recorder.begin(self._manifest)
        self._begun = True

    def record(
        self,
        metrics: list[list[dict[str, Any]]],
        digests: list[list[str]],
        timings: list[dict[str, float]],
    ) -> None:
        with self._told():
            if not self._begun:
                self.begin()
            seeds = zip(self._recorders, metrics, digests, strict=False)
            for recorder, of_seed, digests_of_seed in seeds:
                recorder.record(of_seed, digests_of_seed, timings)

    def save(self, states: list[TrainState]) -> None:
        with self._told():
            for recorder, state in zip(self._recorders, states, strict=False):
                recorder.save(state)

    def finish(self, states: list[TrainState]) -> None:
        with self._told():
            for recorder, state in zip(self._recorders, states, strict=False):
                recorder.finish(state)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise RunError(
                f"cannot write to {self._folder} ({e}): the last checkpoint is whole; make room "
                f"and pgjax resume {self._folder}"
            ) from e


def _told_once(config: TrainConfig) -> str | None:
    """Why a run is not bit-exact, if it is not."""
    reason = why_not_reproducible(config)
    if reason is not None:
        warnings.warn(f"resumable, not bit-exact: {reason}", RunWarning, stacklevel=2)
    return reason


def manifest_of(config: TrainConfig, commit: str | None) -> dict[str, Any]:
    """What results rest on besides their settings; `commit` is that of the user's own folder."""
    return {
        "machine": provenance.machine_facts(config.env_id),
        "git_commit": commit,
        "started": _now(),
    }


def _bit_exact(reason: str | None) -> dict[str, Any]:
    """The part of a manifest that says why a run cannot be had again to the bit, if so."""
    return {"bit_exact": reason is None, "not_bit_exact_because": reason}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
