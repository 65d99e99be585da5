"""What a report of runs says, as text for its template."""

import collections
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pgjax.errors import RunError, counted
from pgjax.evaluation.compare import compare_groups, training_cost
from pgjax.evaluation.comparison_text import comparison_text, duration, number
from pgjax.evaluation.curves import COLOURS, STYLES, not_shown, without_diverged
from pgjax.evaluation.groups import OF_A_RUN, Group, preset_of
from pgjax.evaluation.report_curves import report_curves
from pgjax.evaluation.seeds import read_evaluation
from pgjax.runs import store
from pgjax.runs.folder import seed_folders

_DASHES = {"dashed": "dash", "dotted": "dot"}  # matplotlib's names, and plotly's
_Texts = list[list[str]]


def report_data(groups: Sequence[Group], smooth: int) -> dict[str, Any]:
    """Collect what a report says: texts, and the numbers of its charts.

    Raises:
      ConfigError: if only some runs were evaluated with `stochastic`.
      RunError: if a file of a run is damaged, or missing (except evaluation.json).
    """
    manifests = {path: _manifest(path) for group in groups for path in group.folders.values()}
    charts = report_curves(groups, smooth)
    of_returns = {curve["group"]: curve["meaning"] for curve in charts[0]["curves"]}
    runs = [(i, *of) for i, group in enumerate(groups, 1) for of in group.folders.items()]
    return {
        "env_id": groups[0].config.env_id,
        "groups": [
            _group_facts(i, group, of_returns.get(i, "no curve")) for i, group in enumerate(groups)
        ],
        "charts": charts,
        **_evaluations(groups),
        "differing": [
            [name, *(_text(of.settings[name]) for of in groups)] for name in groups[0].settings
        ],
        "settings": _settings(groups),
        "runs": [_run_facts(i, seed, path, manifests[path]) for i, seed, path in runs],
        "machine": _shared([_machine(of) for of in manifests.values()]),
        "packages": _shared([of.get("packages") or {} for of in manifests.values()]),
    }


def together(group: Group) -> list[Path]:
    """Return the folders of a group: of several seeds trained together, the one that holds them."""
    folders = group.folders.values()
    return list(dict.fromkeys(of.parent if of in seed_folders(of.parent) else of for of in folders))


def _manifest(run_dir: Path) -> dict[str, Any]:
    try:
        found = store.read_sealed(run_dir / "manifest.json")
    except store.DamagedError as e:
        raise RunError(f"{e}: leave this run out, or train again") from None
    parts = "machine", "packages", "environment"
    if not all(isinstance(found.get(name) or {}, dict) for name in parts):
        raise RunError(f"{run_dir / 'manifest.json'} is not a manifest: leave this run out")
    return found


def _group_facts(i: int, group: Group, meaning: str) -> dict[str, Any]:
    meaning += not_shown(len(group.folders) - len(without_diverged(group)))
    dash = STYLES[i // len(COLOURS) % len(STYLES)]
    style = {"colour": COLOURS[i % len(COLOURS)], "dash": _DASHES.get(dash, dash)}
    return {"name": group.name, "meaning": meaning, **style}


def _evaluations(groups: Sequence[Group]) -> dict[str, Any]:
    """Compare the groups of which every run was evaluated, and say how to evaluate the others."""

    def evaluated(run_dir: Path) -> bool:
        return os.path.lexists(run_dir / "evaluation.json")

    whole = [i for i, of in enumerate(groups) if all(map(evaluated, of.folders.values()))]
    others = [folder for i, of in enumerate(groups) if i not in whole for folder in together(of)]
    commands = [f"pgjax evaluate {_quoted(folder)} --save" for folder in others]
    if not whole:
        return {"evaluation": None, "commands": commands}
    found = compare_groups([groups[i] for i in whole])
    text = comparison_text(found, whole[0] + 1)
    points = [
        {
            "group": i,
            "seeds": list(row["mean_by_seed"].values()),
            "mean": row.get("interquartile_mean", row.get("mean")),
            **{name: row[name] for name in ("low", "high") if name in row},
        }
        for i, row in zip(whole, found["groups"], strict=True)
    ]
    rows = list(zip(whole, text.rows, strict=True))
    table = {"columns": text.columns, "rows": rows, "caption": text.caption, "points": points}
    return {"evaluation": table, "commands": commands}


def _settings(groups: Sequence[Group]) -> _Texts:
    """Name, value and value of the preset of each setting; of one that differs, for each group."""
    rows = []
    for name in groups[0].config.to_json():
        if name in OF_A_RUN:
            continue
        values = [_text(group.config.to_json()[name]) for group in groups]
        presets = [_text(preset_of(group.config)[name]) for group in groups]
        presets = ["" if name == "algorithm" else of for of in presets]
        rows.append([name, _joined(values), _joined(presets) if values != presets else ""])
    return rows


def _joined(values: list[str]) -> str:
    return values[0] if len(set(values)) == 1 else " | ".join(values)


def _run_facts(number_of_group: int, seed: int, path: Path, manifest: dict[str, Any]) -> dict:
    steps, seconds = training_cost(path)
    facts = [f"{steps:,.0f} environment steps", duration(seconds)]
    if isinstance(updates := manifest.get("updates"), int):
        facts.insert(0, counted(updates, "update"))
    if os.path.lexists(path / "evaluation.json"):
        found = read_evaluation(path)
        facts.append(
            f"evaluation {number(found['mean'])} over {counted(found['episodes'], 'episode')}"
        )
    notes = [
        f"{label}: {manifest[name]}"
        for name, label in (("diverged", "diverged"), ("not_bit_exact_because", "not bit-exact"))
        if manifest.get(name)
    ]
    return {
        "title": f"{number_of_group}, seed {seed}",
        "facts": ", ".join(facts),
        "notes": notes,
        "digest": str(manifest.get("params_sha256") or "none: the run is not finished"),
        "command": f"pgjax verify {_quoted(path)}",
    }


def _machine(manifest: dict[str, Any]) -> dict[str, Any]:
    environment = manifest.get("environment") or {}
    commit = {"pgjax's git commit": manifest["git_commit"]} if manifest.get("git_commit") else {}
    if commit and manifest.get("git_dirty"):
        commit = {name: f"{of}, with changes" for name, of in commit.items()}
    named = {f"environment's {name}": of for name, of in environment.items() if of}
    return {**(manifest.get("machine") or {}), **named, **commit}


def _shared(facts: Sequence[Mapping[str, Any]]) -> _Texts:
    """Name and value of each fact; where the runs differ, every value with its number of runs.

    >>> _shared([{"jax": "1", "flax": "2"}, {"jax": "1"}])
    [['jax', '1'], ['flax', '2 (1 run), none (1 run)']]
    """
    rows = []
    for name in dict.fromkeys(name for of in facts for name in of):
        counts = collections.Counter(str(of.get(name, "none")) for of in facts)
        each = ", ".join(f"{value} ({counted(count, 'run')})" for value, count in counts.items())
        rows.append([name, next(iter(counts)) if len(counts) == 1 else each])
    return [row for row in rows if row[1]]


def _text(value: Any) -> str:
    """A setting as in config.json."""
    return json.dumps(value, ensure_ascii=False)


def _quoted(path: Path) -> str:
    """A path for a shell, relative to the current folder if it is in it."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
