"""Verify a run: its updates, and its evaluation."""

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from pgjax.commands.progress import counting, make_console, terminal
from pgjax.config.settings import EnvSource
from pgjax.errors import ConfigError, check_count, counted
from pgjax.evaluation.evaluate import evaluate_each
from pgjax.evaluation.seeds import read_evaluation
from pgjax.runs.folder import seed_folders
from pgjax.runs.run import RunLike, given_env, run_path
from pgjax.training import verify as training
from pgjax.training.forecast import duration, expected_seconds, sample_ranges
from pgjax.training.loop import Observer


def verify(
    run: RunLike,
    observers: Sequence[Observer] = (),
    *,
    updates: str | None = None,
    sample: int | None = None,
    num_devices: int | None = None,
    allow_env_import: bool = False,
    env: EnvSource | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Train again from the settings of a run and compare with its logs; write nothing.

    Use it to check your own run after an upgrade, or a run folder from somebody else.

    Args:
      run: a run or its folder.
      observers: as for `pgjax.train`.
      updates: compare only the updates "A:B", starting from the last checkpoint before A, or from
        the beginning if there is none; by default all that are logged, and the evaluation.
      sample: compare only so many updates from the beginning, and after each checkpoint that was
        kept: a quick look at a long run.
      num_devices, progress: as for `pgjax.train`.
      allow_env_import, env: as for `pgjax.load`.

    Returns:
      `identical`: True if everything compared matches; `first` and `last`: the range of updates
      whose metrics and parameters were compared. If `last` is the last update, the number of
      records, the last checkpoint and the parameters that the manifest names are compared too;
      `folder` lists what does not fit together there, if anything. If an update differs, also
      `update` (the first that does), `differs` (for each name, the recorded and the new value),
      `machine` (the differences between the two machines) and `reason` (the likely cause). With an
      evaluation, `evaluated` (its number of episodes) and `evaluation` (for each name that differs,
      the recorded and the new value). For the folder of several seeds, `identical` and `seeds`, one
      such dict for each; with `sample`, `identical` and `samples`. A RunWarning at the start says
      what differs between this machine and that of the run, if it may change results.

    Raises:
      ConfigError: if the range contains updates that are not in the logs, or `sample` is below 1
        or given with `updates`.
      RunError: if it is not a run folder, or its logs cannot be read.

    Example:
      >>> import pgjax, pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "run"
      >>> config = pgjax.TrainConfig("CartPole-v1", updates=2, episodes_per_update=2, run_dir=path)
      >>> run = pgjax.train(config)
      >>> pgjax.verify(run)["identical"]
      True
    """
    path, env = run_path(run), given_env(run, env)
    options: Any = {"allow_env_import": allow_env_import, "env": env}
    part: Any = functools.partial(
        verify, observers=observers, num_devices=num_devices, progress=progress, **options
    )
    if folders := seed_folders(path):
        seeds = {
            folder.name.removeprefix("seed-"): part(folder, updates=updates, sample=sample)
            for folder in folders
        }
        return {"identical": all(of["identical"] for of in seeds.values()), "seeds": seeds}
    if sample is not None:
        if updates is not None:
            raise ConfigError("--sample and --updates exclude each other: omit one")
        ranges = sample_ranges(path, check_count("--sample", sample))
        samples = [part(path, updates=f"{first}:{last}") for first, last in ranges]
        return {"identical": all(of["identical"] for of in samples), "samples": samples}
    first, last = update_range(updates)
    following = terminal(progress)
    if following and (seconds := expected_seconds(path, first, last)) is not None:
        about = f"about {duration(seconds)}, which these updates took in the run"
        make_console().print(about, highlight=False)
    found = training.verify(
        path,
        [*following, *observers],
        first=first,
        last=last,
        num_devices=num_devices,
        **options,
    )
    if updates is None:
        console = make_console(quiet=not following)
        found |= _repeated_evaluation(path, console, **options)
        found["identical"] &= not found.get("evaluation")
    return found


def _repeated_evaluation(path: Path, console: Console, **options: Any) -> dict[str, Any]:
    """Evaluate a run as evaluation.json says; return {name: [recorded, new]} of what differs."""
    if not (path / "evaluation.json").exists():
        return {}
    there = read_evaluation(path)
    settings = {name: value for name, value in there.items() if name in ("seed", "stochastic")}
    with counting(console, "episodes evaluated", there["episodes"]) as ended:
        here, _ = evaluate_each(path, there["episodes"], ended=ended, **options, **settings)
    here |= settings
    if "returns" not in there:  # older versions did not write them
        del here["returns"]
    differs = {
        name: [there.get(name), here.get(name)]
        for name in here | there
        if there.get(name) != here.get(name)
    }
    if "returns" in differs:  # show only the first one
        pairs = list(itertools.zip_longest(there["returns"], here["returns"]))
        i = next(i for i, (recorded, new) in enumerate(pairs) if recorded != new)
        del differs["returns"]
        differs[f"return of episode {i}"] = list(pairs[i])
    return {"evaluated": here["episodes"], "evaluation": differs}


def update_range(updates: str | None) -> tuple[int, int | None]:
    """Parse A:B; None means all updates."""
    if updates is None:
        return 1, None
    first, colon, last = str(updates).partition(":")
    if not colon or not first.isdecimal() or not last.isdecimal():
        raise ConfigError(f"--updates must be A:B, such as 1:20, got {updates!r}")
    return int(first), int(last)


def verdict(found: dict[str, Any]) -> str:
    """Format what `verify` returned as text."""
    if "seeds" in found:
        return "\n".join(f"seed {seed}: {verdict(of)}" for seed, of in found["seeds"].items())
    if "samples" in found:
        if found["identical"]:
            updates = ", ".join(f"{of['first']} to {of['last']}" for of in found["samples"])
            return f"identical in the updates {updates}"
        return "\n".join(verdict(of) for of in found["samples"] if not of["identical"])
    if found["identical"]:
        start = "" if found["first"] == 1 else f"from update {found['first']} "
        evaluated = found.get("evaluated")
        also = f", and so is the evaluation of {counted(evaluated, 'episode')}" if evaluated else ""
        return f"identical {start}through update {found['last']}{also}"
    evaluation = found.get("evaluation", {})
    lines = [f"the folder does not fit together: {problem}" for problem in found.get("folder", [])]
    if evaluation:
        lines.append("the evaluation differs (recorded, new):")
        lines += [f"  {name}: {there}, {here}" for name, (there, here) in evaluation.items()]
    if "update" not in found:
        return "\n".join(lines)
    lines.append(f"update {found['update']} is the first that differs (recorded, new):")
    lines += [f"  {name}: {there}, {here}" for name, (there, here) in found["differs"].items()]
    if found["machine"]:
        lines += ["between the two machines:", *(f"  {line}" for line in found["machine"])]
    else:
        lines.append("no known difference between the machines")
    return "\n".join([*lines, found["reason"]])
