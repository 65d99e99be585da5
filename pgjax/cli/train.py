"""Training from the command line: progress, signals, trackers, and the final report."""

import contextlib
import dataclasses
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from pgjax.cli.devices import DeviceOptions, RuntimeOptions, set_up_compile_cache, set_up_devices
from pgjax.cli.signals import Signals
from pgjax.cli.trackers import TrackerOptions, make_trackers
from pgjax.commands.run import Run
from pgjax.commands.train import train, train_seeds
from pgjax.config.groups import GROUPS, RunSettings
from pgjax.config.settings import TrainConfig, warn_of_similar_presets
from pgjax.errors import RunError, counted
from pgjax.gym.names import is_registered
from pgjax.runs.run import unfinished
from pgjax.training.loop import Observer
from pgjax.types import field_docs


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions(RunSettings):
    """What to run, and how long."""

    seeds: int = 1
    """Number of seeds to train, starting at --seed: in processes, as many side by side as there are
    cores, or with --on-device in one program. Each writes a run folder seed-N."""


def _describe_options(cls: type) -> None:
    """Give the parser each field's description as one paragraph; it would keep line breaks."""
    docs = field_docs(cls)
    for field in dataclasses.fields(cls):
        if field.name in docs:
            text = " ".join(docs[field.name].split())
            field.metadata = types.MappingProxyType({**field.metadata, "help": text})


for _cls in (*GROUPS, DeviceOptions, TrackerOptions, RunOptions):
    _describe_options(_cls)


OPTION_TYPES = ConstructorRegistry()


@OPTION_TYPES.primitive_rule
def _json_option(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Take a JSON object as one word, which TrainConfig parses; the parser would take its names."""
    if info.type_origin is not Mapping:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: isinstance(value, Mapping),
        str_from_instance=lambda value: [str(value)],
    )


def train_command(config: TrainConfig, num_seeds: int, runtime: RuntimeOptions) -> None:
    """Run `pgjax train`."""
    if is_registered(config.env_id):  # else the error suggests names
        warn_of_similar_presets(config.env_id, config.algorithm)

    with running(runtime, num_seeds) as observers:
        if num_seeds == 1:
            train(config, observers, num_devices=runtime.num_devices, progress=True)
        else:
            found = train_seeds(
                config, num_seeds, observers, num_devices=runtime.num_devices, progress=True
            )
            refuse_unfinished(found, num_seeds)


@contextlib.contextmanager
def running(options: RuntimeOptions, num_seeds: int) -> Iterator[list[Observer]]:
    """Set up devices, trackers and signals for a training, and yield its observers."""
    set_up_compile_cache(options.compile_cache)
    set_up_devices(options, num_seeds)
    with Signals() as signals:
        observers: list[Observer] = []
        if jax.process_index() == 0:  # the only process that writes
            observers.append(make_trackers(options))
        try:
            yield [*observers, signals]
        except BaseException as e:
            if not signals.number:  # otherwise the interrupt may have caused it
                raise
            print("pgjax:", f"interrupted {e}".rstrip(), file=sys.stderr)
        if signals.number:
            signals.end()


def refuse_unfinished(trained: list[Run], num_seeds: int) -> None:
    """Raise RunError if some of several seeds diverged or failed."""
    early = [str(run.config.seed) for run in trained if unfinished(run)]
    if ended := len(early) + num_seeds - len(trained):
        seeds = f" (seed {', '.join(early)})" if early else ""
        raise RunError(
            f"{counted(ended, 'seed')} of {num_seeds} diverged or failed{seeds}: see the warnings "
            "above, and manifest.json in the folder of a seed; if it diverged, lower the learning "
            "rate"
        )
