"""Does a run come out again, update by update, from its settings alone?"""

import json
import sys
from pathlib import Path
from typing import Any

from pgjax.config.agent import make_agent
from pgjax.config.env import open_env
from pgjax.errors import ConfigError, RunError
from pgjax.runs import provenance, recorder, store
from pgjax.runs.checkpoints import valid_checkpoints
from pgjax.runs.folder import read_config
from pgjax.training.engines import UpdateRecords, make_engine
from pgjax.training.loop import Listener, Metrics, loop
from pgjax.training.train import Progress, show_nothing, states_at


class _DiffersError(Exception):
    """Two runs part at an update: of each name that differs, what was recorded and what is here."""

    def __init__(self, update: int, differs: dict[str, list[Any]]):
        super().__init__(update)
        self.update, self.differs = update, differs


def verify(
    path: Path | str,
    progress: Progress | None = None,
    *,
    first: int = 1,
    last: int | None = None,
    num_devices: int | None = None,
    allow_env_import: bool = False,
) -> dict[str, Any]:
    """Train again from the settings of a run, and compare with what was recorded; writes nothing.

    Args:
      path: the folder of one run.
      progress: as for `train`.
      first: the first update to compare, at least 1: training starts from the checkpoint before it,
        where there is one, else from the beginning.
      last: the last one; by default all that were recorded.
      num_devices: as for `train`.
      allow_env_import: as for `pgjax.load`.

    Returns:
      identical: whether every update compared is; `first` and `last` of those compared; and where
      they are not, `update` (the first that differs), `differs` (of each name, what was recorded
      and what came out here) and `machine` (what differs between the two machines).

    Raises:
      ConfigError: for updates that were not recorded.
      RunError: if it is no run folder, or its records cannot be read.
    """
    path = Path(path)
    config = read_config(path, allow_env_import=allow_env_import)
    recorded = _recorded(path)
    most = len(recorded)
    if config.collect == "steps":
        most = min(most, _first_resumed(path))
    last = most if last is None else last
    if not 1 <= first <= last <= most:
        why = "are recorded"
        if most < len(recorded):
            why = "can be compared: a stream of steps that was resumed began its episodes anew"
        raise ConfigError(f"--updates {first}:{last}, but 1:{most} {why}")

    def compare(metrics: Metrics, made: UpdateRecords) -> None:
        for of, digest in zip(metrics[0], made.digests[0], strict=True):
            here, there = {**of, "params": digest}, recorded[of["update"] - 1]
            names = [name for name in here | there if here.get(name) != there.get(name)]
            if names and of["update"] >= first:
                both = {name: [there.get(name), here.get(name)] for name in names}
                raise _DiffersError(of["update"], both)

    before = None
    if config.collect == "episodes":  # a stream goes on from no checkpoint
        before = next((at for at in valid_checkpoints(path, config) if at.update < first), None)
    with open_env(config) as env:
        agent = make_agent(config, env)
        engine = make_engine(config, env, agent, 1, num_devices)
        if progress is not None:
            progress.start([config], [path], env, agent.policy)
        [state] = states_at([config], agent, [before])
        totals = recorder.zero_totals()
        if before is not None:
            totals = {name: recorded[before.update - 1][name] for name in totals}
        show = progress.update if progress is not None else show_nothing
        listener = Listener(compare, lambda states: None, show)
        try:
            _, stopped_by = loop(engine, [config.seed], [state], [totals], last, listener)
        except _DiffersError as e:  # in the very first update
            stopped_by = e
    found = {"identical": stopped_by is None, "first": first, "last": last}
    if stopped_by is None:
        return found
    if not isinstance(stopped_by, _DiffersError):
        raise stopped_by
    differs = {"update": stopped_by.update, "differs": stopped_by.differs}
    return {**found, **differs, "machine": _machine(path, config.env_id)}


def update_range(updates: str | None) -> tuple[int, int | None]:
    """What A:B stands for; all without it."""
    if updates is None:
        return 1, None
    first, colon, last = updates.partition(":")
    if not colon or not first.isdecimal() or not last.isdecimal():
        raise ConfigError(f"--updates must be A:B, such as 1:20, got {updates!r}")
    return int(first), int(last)


def verdict(found: dict[str, Any]) -> str:
    """What `verify` found, for a person."""
    if found["identical"]:
        begun = "" if found["first"] == 1 else f"from update {found['first']} "
        return f"identical {begun}through update {found['last']}"
    lines = [f"update {found['update']} is the first that differs (recorded, here):"]
    lines += [f"  {name}: {there}, {here}" for name, (there, here) in found["differs"].items()]
    lines += ["between the two machines:"] if found["machine"] else []
    lines += [f"  {line}" for line in found["machine"] or ["nothing known differs between them"]]
    return "\n".join(lines)


def _recorded(path: Path) -> list[dict[str, Any]]:
    """Metrics and digest of each update; a last line that was not finished is left out."""
    try:
        metrics, digests = (
            [json.loads(line) for line in (path / name).read_bytes().split(b"\n")[:-1]]
            for name in recorder.LOGS[:2]
        )
        rows = [m | d for m, d in zip(metrics, digests)]  # noqa: B905  (a killed run's may differ)
        if [row["update"] for row in rows] != list(range(1, len(rows) + 1)) or not rows:
            raise ValueError("updates are missing")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise RunError(f"{path} holds no readable record ({e}): train again") from None
    return rows


def _first_resumed(path: Path) -> int:
    """After how many updates a run was first resumed where it was."""
    try:
        resumed = store.read_sealed(path / "manifest.json").get("resumed", [])
        return min((of["update"] for of in resumed), default=sys.maxsize)
    except (store.DamagedError, KeyError, AttributeError, TypeError) as e:
        raise RunError(f"{path}: the manifest cannot be read ({e}): train again") from None


def _machine(path: Path, env_id: str) -> list[str]:
    try:
        there = store.read_sealed(path / "manifest.json")["machine"]
        return provenance.differences(provenance.machine_facts(env_id), there)
    except (store.DamagedError, KeyError, AttributeError, TypeError) as e:
        return [f"the manifest cannot be read ({e})"]
