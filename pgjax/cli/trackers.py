"""Copy the metrics of a run to TensorBoard or Weights & Biases."""

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from pgjax.config.settings import TrainConfig
from pgjax.errors import ConfigError
from pgjax.runs.folder import read_lines
from pgjax.training.loop import RunInfo


class Tracker(Protocol):
    """Logs the metrics of one run."""

    def log(self, update: int, values: dict[str, float]) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Writes event files to RUN/tensorboard."""

    needs, extra = "tensorboardX", "tensorboard"

    def __init__(self, run_dir: Path, config: TrainConfig):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(_cleared(run_dir / "tensorboard")))

    def log(self, update: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, update)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Writes an offline run to RUN/wandb, for `wandb sync`."""

    needs, extra = "wandb", "wandb"

    def __init__(self, run_dir: Path, config: TrainConfig):
        import wandb

        _cleared(run_dir / "wandb")
        self._run = wandb.init(
            mode="offline",
            dir=str(run_dir),
            project="pgjax",
            name=run_dir.name,
            config=config.to_json(),
            reinit="create_new",
            settings=wandb.Settings(silent=True, disable_git=True, save_code=False),
        )

    def log(self, update: int, values: dict[str, float]) -> None:
        self._run.log(values, step=update)

    def close(self) -> None:
        self._run.finish()


def _cleared(folder: Path) -> Path:
    """Remove a tracker's folder, since a resumed run logs every update again; return it."""
    if folder.is_symlink():
        raise ConfigError(f"{folder} is a symbolic link: remove it")
    shutil.rmtree(folder, ignore_errors=True)
    return folder


TrackerClass = type[TensorBoard] | type[WeightsAndBiases]


class Trackers:
    """An Observer that logs every seed to trackers, including updates before a resume.

    Args:
      kinds: classes of trackers; each seed gets one of each.

    Raises:
      ConfigError: if a tracker needs a package that is not installed.
    """

    def __init__(self, kinds: Sequence[TrackerClass]):
        for kind in kinds:
            if importlib.util.find_spec(kind.needs) is None:
                raise ConfigError(f'--{kind.extra} needs pip install "pgjax[{kind.extra}]"')
        self._kinds, self._trackers = kinds, list[list[Tracker]]()
        self._runs: list[tuple[Path, TrainConfig]] = []
        self._logged: list[int] = []

    def start(self, run: RunInfo) -> None:
        """Remember the folder and settings of every seed."""
        self._runs = list(zip(run.paths, run.configs, strict=True))
        self._trackers = [[] for _ in self._runs]
        self._logged = [0] * len(self._runs)

    def update(self, metrics: list[dict[str, Any]], timings: dict[str, float]) -> None:
        """Log the update of every seed that has made one; first also its earlier updates."""
        if not self._kinds:
            return
        for i, (of_seed, run) in enumerate(zip(metrics, self._runs, strict=True)):
            if of_seed["update"] <= self._logged[i]:
                continue
            if not self._trackers[i]:
                self._trackers[i] = [kind(*run) for kind in self._kinds]
                for row in read_lines(run[0] / "metrics.jsonl"):
                    if row["update"] < of_seed["update"]:
                        self._log(i, row)
            self._log(i, of_seed)
            self._logged[i] = of_seed["update"]

    def _log(self, i: int, metrics: dict[str, Any]) -> None:
        values = {name: value for name, value in metrics.items() if name != "update"}
        for tracker in self._trackers[i]:
            tracker.log(metrics["update"], values)

    def stop(self) -> None:
        """Close the trackers."""
        for tracker in (tracker for trackers in self._trackers for tracker in trackers):
            tracker.close()
