"""Re-run a run from its settings and compare every update."""

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pgjax.config.agent import make_agent
from pgjax.config.env import open_env
from pgjax.config.settings import EnvSource, TrainConfig
from pgjax.errors import ConfigError, RunError, check_count
from pgjax.runs import store
from pgjax.runs.checkpoints import restore
from pgjax.runs.digests import params_digest, params_sha256, to_hex
from pgjax.runs.folder import read_config
from pgjax.runs.provenance import differences, machine_facts
from pgjax.runs.recorder import LOGS, zero_totals
from pgjax.runs.run import RunLike, given_env, run_path
from pgjax.runs.states import RunState, with_stream
from pgjax.training.engines import make_engine
from pgjax.training.forecast import checkpoint_before, warn_of_other_machine
from pgjax.training.loop import Observer, RunInfo, observing, run_updates, watcher
from pgjax.training.train import states_at


def verify(
    run: RunLike,
    observers: Sequence[Observer] = (),
    *,
    first: int = 1,
    last: int | None = None,
    num_devices: int | None = None,
    allow_env_import: bool = False,
    env: EnvSource | None = None,
) -> dict[str, Any]:
    """Train a run again and compare the updates `first` to `last` with its logs.

    The documentation is that of `pgjax.verify`, which also repeats the evaluation. Training starts
    from the last checkpoint before `first`, or from the beginning if there is none; `last` is by
    default the last update logged.
    """
    path = run_path(run)
    config = read_config(path, allow_env_import=allow_env_import, env=given_env(run, env))
    recorded, first = _recorded(path), check_count("the first of --updates", first)
    count = min(map(len, recorded))  # the lengths may differ after a kill
    last = _last_to_compare(path, config, count, first, last)
    found: dict[str, Any] = {"identical": True, "first": first, "last": last}
    if last == count and (problems := _misfits(path, config, recorded)):
        found |= {"identical": False, "folder": problems}
    differing = _first_difference(path, config, recorded, observers, first, last, num_devices)
    if differing is not None:
        machine = _machine_differences(path, config)
        reason = _why(path, config, differing, machine)
        found |= {"identical": False, "update": differing.update, "differs": differing.names}
        found |= {"machine": machine, "reason": reason}
    return found


class _Recorded(NamedTuple):
    """The logs of a run, a dict for each update."""

    metrics: list[dict[str, Any]]
    digests: list[dict[str, Any]]


class _Difference(NamedTuple):
    """The first update that differs."""

    update: int
    names: dict[str, list[Any]]  # recorded and new values
    before: list[RunState]  # the state before it
    metrics: dict[str, Any]  # the new metrics of the update


def _last_to_compare(
    path: Path, config: TrainConfig, count: int, first: int, last: int | None
) -> int:
    most, why = count, "are recorded"
    if config.restarts_episodes and _first_resumed(path) < count:
        most = _first_resumed(path)
        why = "can be compared: a resumed stream of steps restarts its episodes"
    last = most if last is None else check_count("the last of --updates", last)
    if not 1 <= first <= last <= most:
        raise ConfigError(f"--updates {first}:{last}, but 1:{most} {why}")
    return last


def _first_difference(
    path: Path,
    config: TrainConfig,
    recorded: _Recorded,
    observers: Sequence[Observer],
    first: int,
    last: int,
    num_devices: int | None,
) -> _Difference | None:
    """Train again up to the first update that differs; None if all match."""
    checkpoint = checkpoint_before(path, config, first)
    totals = zero_totals()
    if checkpoint is not None:
        totals = {name: recorded.metrics[checkpoint.update - 1][name] for name in totals}
    with contextlib.ExitStack() as stack:
        env = stack.enter_context(open_env(config))
        warn_of_other_machine(path, config)
        agent = make_agent(config, env)
        engine = make_engine(config, env.env, agent, 1, num_devices, watcher(observers))
        spaces = env.observation_space, env.action_space
        info = RunInfo([config], [path], *spaces, agent.policy, env.time_limit, engine.devices)
        stack.enter_context(observing(observers, info))
        states = states_at([config], env.env, agent, [checkpoint])
        before = states
        for records, after in run_updates(engine, [config.seed], states, [totals], last):
            rows = zip(records.metrics[0], records.digests[0], records.timings, strict=True)
            for metrics, digest, timings in rows:
                names = _differing(recorded, metrics, digest)
                if names and metrics["update"] >= first:
                    return _Difference(metrics["update"], names, before, metrics)
                for observer in observers:
                    observer.update([metrics], timings)
            if not config.on_device:
                before = engine.end(after)
    return None


def _differing(recorded: _Recorded, metrics: dict[str, Any], digest: str) -> dict[str, list[Any]]:
    """Compare an update with its record; return {name: [recorded, new]} of what differs."""
    i = metrics["update"] - 1
    here = {**metrics, "params": digest}
    there = {**recorded.metrics[i], "params": recorded.digests[i].get("params")}
    names = [name for name in here | there if here.get(name) != there.get(name)]
    found = {name: [there.get(name), here.get(name)] for name in names}
    if recorded.digests[i].keys() != {"update", "params"}:
        found["digests.jsonl"] = [recorded.digests[i], {"update": i + 1, "params": digest}]
    return found


def _misfits(path: Path, config: TrainConfig, recorded: _Recorded) -> list[str]:
    """Return what does not fit together in a finished run: logs, checkpoint and manifest."""
    try:
        manifest = store.read_sealed(path / "manifest.json")
        updates, sha256 = manifest.get("updates"), manifest.get("params_sha256")
    except (store.DamagedError, AttributeError) as e:
        return [f"the manifest cannot be read ({e})"]
    if updates is None:
        return []  # it was killed
    found = []
    for name, rows in zip(LOGS, recorded, strict=False):
        if len(rows) != updates:
            found.append(f"{name} has {len(rows)} records, but the manifest {updates}")
    newest = next(store.checkpoints(path / "checkpoints", path), None)
    if not isinstance(newest, store.Checkpoint) or newest.update != updates:
        return [*found, f"there is no intact checkpoint of update {updates}"]
    with open_env(config, 1) as env:
        agent = make_agent(config, env)
    state = restore(newest, lambda: with_stream(config, env.env, agent.init(config.seed)))
    params = state.params
    if params_sha256(params) != sha256:
        found.append("the parameters of the last checkpoint are not those that the manifest names")
    if to_hex(np.asarray(params_digest(params))) != recorded.digests[-1].get("params"):
        found.append("the parameters of the last checkpoint are not those that were recorded")
    return found


def _why(path: Path, config: TrainConfig, found: _Difference, machine: list[str]) -> str:
    """Explain a difference: what the manifest says, or else what repeating the update shows."""
    try:
        known = store.read_sealed(path / "manifest.json").get("not_bit_exact_because")
    except (store.DamagedError, AttributeError):
        known = None
    if known:
        return f"the manifest says why the run may differ: {known}"
    if config.on_device:
        return "the arithmetic differs: an environment on the device follows from its key"
    with open_env(config) as env:  # a new environment, with the same state
        agent = make_agent(config, env)
        engine = make_engine(config, env.env, agent, 1, None)
        _, records = engine.advance(engine.begin(found.before), 1)
    [again] = records.metrics[0]
    if any(again[name] != found.metrics[name] for name in again):
        return "the environment differs: a new one gives other episodes in the same update"
    return "the arithmetic, or the version of the environment, differs: new ones give the same"


def _recorded(path: Path) -> _Recorded:
    """Metrics and digest of each update, without an incomplete last line."""
    try:
        logs = _Recorded(
            *(
                [json.loads(line) for line in (path / name).read_bytes().split(b"\n")[:-1]]
                for name in LOGS[:2]
            )
        )
        for rows in logs:
            if [row["update"] for row in rows] != list(range(1, len(rows) + 1)) or not rows:
                raise ValueError("updates are missing")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise RunError(f"{path} has no readable logs ({e}): train again") from None
    return logs


def _first_resumed(path: Path) -> int:
    """Return the number of updates after which a run was first resumed."""
    try:
        resumed = store.read_sealed(path / "manifest.json").get("resumed", [])
        return min((of["update"] for of in resumed), default=sys.maxsize)
    except (store.DamagedError, KeyError, AttributeError, TypeError) as e:
        raise RunError(f"{path}: the manifest cannot be read ({e}): train again") from None


def _machine_differences(path: Path, config: TrainConfig) -> list[str]:
    try:
        there = store.read_sealed(path / "manifest.json")["machine"]
        return differences(machine_facts(config), there)
    except (store.DamagedError, KeyError, AttributeError, TypeError) as e:
        return [f"the manifest cannot be read ({e})"]
