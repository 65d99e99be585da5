"""Re-run a run from its settings and compare every update."""

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pgjax.config.agent import make_agent
from pgjax.config.env import open_env
from pgjax.config.settings import TrainConfig
from pgjax.errors import ConfigError, RunError, check_count
from pgjax.runs import store
from pgjax.runs.checkpoints import valid_checkpoints
from pgjax.runs.folder import read_config
from pgjax.runs.provenance import differences, machine_facts
from pgjax.runs.recorder import LOGS, zero_totals
from pgjax.runs.run import RunLike, run_path
from pgjax.training.engines import make_engine
from pgjax.training.loop import Observer, RunInfo, observing, run_updates
from pgjax.training.train import states_at


def verify(
    run: RunLike,
    observers: Sequence[Observer] = (),
    *,
    first: int = 1,
    last: int | None = None,
    num_devices: int | None = None,
    allow_env_import: bool = False,
) -> dict[str, Any]:
    """Train again from the settings of a run and compare with its logs; write nothing.

    Use it to check your own run after an upgrade, or a run folder from somebody else.

    Args:
      run: a run or its folder.
      observers: as for `pgjax.train`.
      first: the first update to compare, at least 1. Training starts from the last checkpoint
        before it, or from the beginning if there is none.
      last: the last update to compare; by default the last one logged.
      num_devices: as for `pgjax.train`.
      allow_env_import: as for `pgjax.load`.

    Returns:
      `identical`: True if all compared updates match; `first` and `last`: the range compared. If an
      update differs, also `update` (the first that does), `differs` (for each name, the recorded
      and the new value) and `machine` (what differs between the two machines).

    Raises:
      ConfigError: if the range contains updates that are not in the logs.
      RunError: if it is not a run folder, or its logs cannot be read.

    Example:
      >>> import pgjax, pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp())
      >>> config = pgjax.TrainConfig("CartPole-v1", updates=2, episodes_per_update=2, run_dir=path)
      >>> run = pgjax.train(config)
      >>> pgjax.verify(run)
      {'identical': True, 'first': 1, 'last': 2}
    """
    path = run_path(run)
    config = read_config(path, allow_env_import=allow_env_import)
    recorded, first = _recorded(path), check_count("the first of --updates", first)
    last = _last_to_compare(path, config, len(recorded), first, last)
    found: dict[str, Any] = {"identical": True, "first": first, "last": last}
    differing = _first_difference(path, config, recorded, observers, first, last, num_devices)
    if differing is not None:
        update, differs = differing
        machine = _machine_differences(path, config.env_id)
        found |= {"identical": False, "update": update, "differs": differs, "machine": machine}
    return found


def _last_to_compare(
    path: Path, config: TrainConfig, count: int, first: int, last: int | None
) -> int:
    most, why = count, "are recorded"
    if config.collect == "steps" and _first_resumed(path) < count:
        most = _first_resumed(path)
        why = "can be compared: a resumed stream of steps restarts its episodes"
    last = most if last is None else check_count("the last of --updates", last)
    if not 1 <= first <= last <= most:
        raise ConfigError(f"--updates {first}:{last}, but 1:{most} {why}")
    return last


def _first_difference(
    path: Path,
    config: TrainConfig,
    recorded: list[dict[str, Any]],
    observers: Sequence[Observer],
    first: int,
    last: int,
    num_devices: int | None,
) -> tuple[int, dict[str, list[Any]]] | None:
    """The first differing update, and {name: [recorded, new]}; None if all match."""
    checkpoint = None
    if config.collect == "episodes":  # a stream cannot continue from a checkpoint
        valid = valid_checkpoints(path, config)
        checkpoint = next((at for at in valid if at.update < first), None)
    totals = zero_totals()
    if checkpoint is not None:
        totals = {name: recorded[checkpoint.update - 1][name] for name in totals}
    with contextlib.ExitStack() as stack:
        env = stack.enter_context(open_env(config))
        agent = make_agent(config, env)
        engine = make_engine(config, env.env, agent, 1, num_devices)
        spaces = env.observation_space, env.action_space
        info = RunInfo([config], [path], *spaces, agent.policy)
        stack.enter_context(observing(observers, info))
        states = states_at([config], agent, [checkpoint])
        for records, _ in run_updates(engine, [config.seed], states, [totals], last):
            rows = zip(records.metrics[0], records.digests[0], records.timings, strict=True)
            for metrics, digest, timings in rows:
                here, there = {**metrics, "params": digest}, recorded[metrics["update"] - 1]
                names = [name for name in here | there if here.get(name) != there.get(name)]
                if names and metrics["update"] >= first:
                    differs = {name: [there.get(name), here.get(name)] for name in names}
                    return metrics["update"], differs
                for observer in observers:
                    observer.update([metrics], timings)
    return None


def update_range(updates: str | None) -> tuple[int, int | None]:
    """Parse A:B; None means all updates."""
    if updates is None:
        return 1, None
    first, colon, last = updates.partition(":")
    if not colon or not first.isdecimal() or not last.isdecimal():
        raise ConfigError(f"--updates must be A:B, such as 1:20, got {updates!r}")
    return int(first), int(last)


def verdict(found: dict[str, Any]) -> str:
    """Format what `verify` returned as text."""
    if found["identical"]:
        start = "" if found["first"] == 1 else f"from update {found['first']} "
        return f"identical {start}through update {found['last']}"
    lines = [f"update {found['update']} is the first that differs (recorded, new):"]
    lines += [f"  {name}: {there}, {here}" for name, (there, here) in found["differs"].items()]
    if found["machine"]:
        lines += ["between the two machines:", *(f"  {line}" for line in found["machine"])]
    else:
        lines.append("no known difference between the machines")
    return "\n".join(lines)


def _recorded(path: Path) -> list[dict[str, Any]]:
    """Metrics and digest of each update, without an incomplete last line."""
    try:
        metrics, digests = (
            [json.loads(line) for line in (path / name).read_bytes().split(b"\n")[:-1]]
            for name in LOGS[:2]
        )
        rows = [m | d for m, d in zip(metrics, digests)]  # noqa: B905  (lengths may differ after a kill)
        if [row["update"] for row in rows] != list(range(1, len(rows) + 1)) or not rows:
            raise ValueError("updates are missing")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise RunError(f"{path} has no readable logs ({e}): train again") from None
    return rows


def _first_resumed(path: Path) -> int:
    """Return the number of updates after which a run was first resumed."""
    try:
        resumed = store.read_sealed(path / "manifest.json").get("resumed", [])
        return min((of["update"] for of in resumed), default=sys.maxsize)
    except (store.DamagedError, KeyError, AttributeError, TypeError) as e:
        raise RunError(f"{path}: the manifest cannot be read ({e}): train again") from None


def _machine_differences(path: Path, env_id: str) -> list[str]:
    try:
        there = store.read_sealed(path / "manifest.json")["machine"]
        return differences(machine_facts(env_id), there)
    except (store.DamagedError, KeyError, AttributeError, TypeError) as e:
        return [f"the manifest cannot be read ({e})"]
