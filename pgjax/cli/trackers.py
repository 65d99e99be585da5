"""Copy the metrics of a run to TensorBoard or Weights & Biases."""

import contextlib
import dataclasses
import functools
import importlib.util
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from pgjax.config.settings import TrainConfig, option
from pgjax.errors import ConfigError, short_repr
from pgjax.runs.folder import read_lines
from pgjax.training.loop import RunInfo


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackerOptions:
    """Copies of the metrics for other programs; none changes a result."""

    tensorboard: bool = False
    """Also write the metrics and the settings as TensorBoard event files to RUN/tensorboard."""
    wandb: bool = False
    """Also log the metrics and the settings to Weights & Biases."""
    wandb_mode: Literal["online", "offline"] = "offline"
    """Send them while the run trains, after wandb login; or only write them to RUN/wandb, for wandb
    sync."""
    wandb_project: str = "pgjax"
    """Project in Weights & Biases."""
    wandb_group: str | None = None
    """Group of the run; by default none, or for several seeds the name of their folder."""
    wandb_tags: tuple[str, ...] = ()
    """Tags of the run."""
    wandb_name: str | None = None
    """Name of the run, followed by -seed-N for several seeds; by default that of the run folder."""


class Tracker(Protocol):
    """Logs the metrics of one run."""

    def log(self, update: int, values: dict[str, float]) -> None: ...
    def close(self) -> None: ...


MakeTracker = Callable[[Path, TrainConfig, bool], Tracker]  # (folder, settings, several seeds?)


class TensorBoard:
    """Writes event files to RUN/tensorboard."""

    def __init__(self, run_dir: Path, config: TrainConfig, several: bool):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(_cleared(run_dir / "tensorboard")))
        self._config, self._last = config, dict[str, float]()

    def log(self, update: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, update)
        self._last = values

    def close(self) -> None:
        """Add the settings, with the final metrics: as add_hparams, which writes a second run."""
        from tensorboardX.summary import hparams

        settings = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in self._config.to_json().items()
        }
        for summary in hparams(settings, self._last):
            self._writer.file_writer.add_summary(summary)
        self._writer.close()


class WeightsAndBiases:
    """Logs to Weights & Biases, or writes an offline run to RUN/wandb, for `wandb sync`."""

    def __init__(
        self, run_dir: Path, config: TrainConfig, several: bool, *, options: TrackerOptions
    ):
        import wandb

        name = options.wandb_name or run_dir.name
        if several and options.wandb_name:
            name = f"{name}-{run_dir.name}"
        _cleared(run_dir / "wandb")
        with _wandb_errors():
            self._run = wandb.init(
                mode=options.wandb_mode,
                dir=str(run_dir),
                project=options.wandb_project,
                group=options.wandb_group or (run_dir.parent.name if several else None),
                tags=list(options.wandb_tags),
                name=name,
                config=config.to_json(),
                reinit="create_new",
                settings=wandb.Settings(silent=True, disable_git=True, save_code=False),
            )

    def log(self, update: int, values: dict[str, float]) -> None:
        self._run.log(values, step=update)

    def close(self) -> None:
        self._run.finish()


@contextlib.contextmanager
def _wandb_errors() -> Iterator[None]:
    try:
        yield
    except Exception as e:
        raise ConfigError(
            f"Weights & Biases cannot start ({short_repr(e)}): run wandb login, or use "
            "--wandb-mode offline"
        ) from e


def make_trackers(options: TrackerOptions) -> "Trackers":
    """Make the observer that the options ask for.

    Raises:
      ConfigError: if a tracker needs a package that is not installed or an account, or an option
        belongs to a tracker that is not used.
    """
    kinds: list[MakeTracker] = []
    if options.tensorboard:
        _require("tensorboard", "tensorboardX")
        kinds.append(TensorBoard)
    if options.wandb:
        _require("wandb", "wandb")
        kinds.append(functools.partial(WeightsAndBiases, options=options))
        if options.wandb_mode == "online":
            import wandb

            with _wandb_errors():  # now, and not after the first update
                wandb.login()
    else:
        for field in dataclasses.fields(options):
            if field.name.startswith("wandb_") and getattr(options, field.name) != field.default:
                raise ConfigError(f"{option(field.name)} is a setting of --wandb: add --wandb")
    return Trackers(kinds)


def _require(extra: str, package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f'--{extra} needs pip install "pgjax[{extra}]"')


def _cleared(folder: Path) -> Path:
    """Remove a tracker's folder, since a resumed run logs every update again; return it."""
    if folder.is_symlink():
        raise ConfigError(f"{folder} is a symbolic link: remove it")
    shutil.rmtree(folder, ignore_errors=True)
    return folder


class Trackers:
    """An Observer that logs every seed to trackers, including updates before a resume.

    Args:
      kinds: make a tracker; each seed gets one of each.
    """

    def __init__(self, kinds: Sequence[MakeTracker]):
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
                self._trackers[i] = [kind(*run, len(self._runs) > 1) for kind in self._kinds]
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
