"""Train presets with several seeds, as a user would, and compare what they learn with others.

    python benchmarks/learning.py CartPole-v1 --algorithm ppo --seeds 10
    python benchmarks/learning.py                       # write the tables and the picture again

Each seed is one `python -m pgjax train` in a separate process, followed by its evaluation: the
final policy, greedy, over 100 new episodes. The result and the learning curve of each seed are
stored in learning.json beside this file, so that you can run a few seeds at a time (`--first`); a
seed that is stored for the same settings is not run again. Presets were found on seeds from 100 on.
"""

import dataclasses
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import readme

from pgjax import TrainConfig

RESULTS = readme.HERE / "learning.json"
_POINTS = 60  # of a stored learning curve

# What others report: environment, steps, return, who, and what differs from our numbers. Ours are
# final policies, greedy, over 100 episodes, with the versions of the environments named here.
PUBLISHED = [
    ("CartPole-v1", "100 k", "500", "RL Zoo PPO", "one run"),
    ("Acrobot-v1", "1 M", "-73.5", "RL Zoo PPO", "one run"),
    ("Acrobot-v1", "500 k", "-86.4", "CleanRL PPO", "while training, with exploration"),
    ("Pendulum-v1", "100 k", "-172", "RL Zoo PPO", "one run"),
    ("LunarLander-v3", "1 M", "242", "RL Zoo PPO", "one run, LunarLander-v2"),
    ("MountainCarContinuous-v0", "50 k", "92.5", "RL Zoo TRPO", "one run"),
    ("HalfCheetah-v5", "1 M", "5,784", "Tianshou PPO", "best point of ten seeds, v3"),
    ("HalfCheetah-v5", "1 M", "1,443", "CleanRL PPO", "while training, v2"),
    ("HalfCheetah-v5", "1 M", "3,485", "Tianshou NPG", "best point of ten seeds, v3"),
    ("Hopper-v5", "1 M", "2,609", "Tianshou PPO", "best point of ten seeds, v3"),
    ("Hopper-v5", "1 M", "2,383", "CleanRL PPO", "while training, v2"),
    ("Hopper-v5", "1 M", "1,915", "Tianshou NPG", "best point of ten seeds, v3"),
    ("Walker2d-v5", "1 M", "3,589", "Tianshou PPO", "best point of ten seeds, v3"),
    ("Walker2d-v5", "1 M", "2,288", "CleanRL PPO", "while training, v2"),
    ("Walker2d-v5", "1 M", "2,503", "Tianshou NPG", "best point of ten seeds, v3"),
    ("Ant-v5", "1 M", "3,258", "Tianshou PPO", "best point of ten seeds, v3"),
    ("Ant-v5", "1 M", "2,358", "Tianshou NPG", "best point of ten seeds, v3"),
    ("Swimmer-v5", "1 M", "67", "Tianshou PPO", "best point of ten seeds, v3"),
    ("Swimmer-v5", "1 M", "282", "RL Zoo PPO", "one run, gamma 0.9999, v3"),
    ("Reacher-v5", "1 M", "-4.1", "Tianshou PPO", "best point of ten seeds, v2"),
    ("InvertedPendulum-v5", "1 M", "1,000", "Tianshou PPO", "best point of ten seeds, v2"),
    ("InvertedPendulum-v5", "1 M", "963", "CleanRL PPO", "while training, v2"),
]


def digest_of(config: TrainConfig) -> str:
    """Digest of the settings that are not the defaults, without the seed."""
    default = TrainConfig(config.env_id).to_json()
    values = dataclasses.replace(config, seed=0).to_json()
    values = {name: x for name, x in values.items() if x != default[name]}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def train(config: TrainConfig, seed: int) -> dict[str, Any]:
    """Train one seed of a preset and return its results and its learning curve."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "pgjax", "train", config.env_id]
        command += ["--algorithm", config.algorithm, "--seed", str(seed), "--run-dir", str(run)]
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - begun
        result = json.loads((run / "evaluation.json").read_text())
        manifest = json.loads((run / "manifest.json").read_text())
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    parts = np.array_split(np.arange(len(rows)), min(_POINTS, len(rows)))
    return {
        **{name: round(result[name], 1) for name in ("mean", "std", "min")},
        "env_steps": manifest["total_env_steps"],
        "seconds": round(seconds),
        "params_sha256": manifest["params_sha256"][:12],
        "date": readme.date_and_machine()["date"],
        "jax": jax.__version__,
        "cpu": manifest["machine"]["cpu features"],
        "settings": digest_of(config),
        "curve": [
            [
                rows[part[-1]]["total_env_steps"],
                round(statistics.mean(rows[i]["mean_return"] for i in part), 1),
            ]
            for part in parts
        ],
    }


def stored() -> dict[str, dict[str, Any]]:
    """Return the results of each task, "ENV ALGORITHM", by seed."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def current(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the results that belong to the presets as they are now."""
    found = {}
    for name, seeds in results.items():
        env_id, algorithm = name.split()
        digest = digest_of(TrainConfig.preset(env_id, algorithm=algorithm))
        kept = {seed: row for seed, row in seeds.items() if row["settings"] == digest}
        if kept:
            found[name] = kept
    return found


def table(results: dict[str, dict[str, Any]]) -> list[str]:
    """Return a line for each task: mean and worst of the seeds, and each seed's value."""
    lines = [
        "| task | algorithm | steps | seeds | mean | worst | seconds a seed | each seed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, seeds in sorted(results.items()):
        env_id, algorithm = name.split()
        rows = [seeds[seed] for seed in sorted(seeds, key=int)]
        means = [row["mean"] for row in rows]
        steps = round(statistics.mean(row["env_steps"] for row in rows), -3)
        cells = [
            env_id, algorithm, f"{steps:,.0f}", str(len(rows)), f"{statistics.mean(means):,.1f}",
            f"{min(means):,.1f}", f"{statistics.mean(row['seconds'] for row in rows):.0f}",
            ", ".join(f"{x:,.1f}" for x in means),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def published(results: dict[str, dict[str, Any]]) -> list[str]:
    """Return the figures of others for the tasks that have results."""
    tasks = {name.split()[0] for name in results}
    lines = ["| task | steps | return | who | what differs |", "|---|---|---|---|---|"]
    return lines + [f"| {' | '.join(row)} |" for row in PUBLISHED if row[0] in tasks]


def digests(results: dict[str, dict[str, Any]]) -> list[str]:
    """Return the digests of the parameters of each seed, which a stranger can compare."""
    lines = [
        "| task | algorithm | date | digests of the parameters, by seed |",
        "|---" * 4 + "|",
    ]
    for name, seeds in sorted(results.items()):
        rows = [seeds[seed] for seed in sorted(seeds, key=int)]
        dates = " to ".join(sorted({row["date"] for row in rows}))
        each = " ".join(row["params_sha256"] + "*" * ("cpu" not in row) for row in rows)
        lines.append(f"| {name.replace(' ', ' | ')} | {dates} | {each} |")
    known = {row.get("cpu") for seeds in results.values() for row in seeds.values()} - {None}
    return [*lines, "", f"CPU: {' or '.join(sorted(known))}; \\*: another one, not known"]


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw the mean learning curve of each task, with a band from the worst to the best seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tasks = sorted({name.split()[0] for name in results})
    columns = min(4, len(tasks))
    height = -(-len(tasks) // columns)
    figure, axes = plt.subplots(
        height, columns, figsize=(4 * columns, 3 * height), squeeze=False, layout="constrained"
    )
    colors = {"reinforce": "tab:gray", "ppo": "tab:blue", "npg": "tab:orange"}
    for axis, env_id in zip(axes.flat, tasks, strict=False):
        for algorithm, color in colors.items():
            seeds = results.get(f"{env_id} {algorithm}", {}).values()
            curves = [np.array(row["curve"]) for row in seeds]
            if not curves:
                continue
            end = min(curve[-1, 0] for curve in curves)
            steps = np.linspace(max(curve[0, 0] for curve in curves), end, 200)
            values = np.array([np.interp(steps, *curve.T) for curve in curves])
            axis.plot(steps, values.mean(0), color=color, label=algorithm)
            axis.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.2, lw=0)
        axis.set_title(env_id)
        axis.set_xlabel("environment steps")
        axis.legend()
    for axis in axes.flat[len(tasks) :]:
        axis.axis("off")
    for axis in axes[:, 0]:
        axis.set_ylabel("return while training")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    parser = readme.parser(__doc__)
    parser.add_argument("env_id", nargs="?")
    parser.add_argument("--algorithm", default="ppo", choices=["reinforce", "ppo", "npg"])
    parser.add_argument("--seeds", type=int, default=10, help="how many seeds, starting at --first")
    parser.add_argument("--first", type=int, default=0)
    args = parser.parse_args()
    if args.env_id:
        config = TrainConfig.preset(args.env_id, algorithm=args.algorithm)
        name = f"{args.env_id} {args.algorithm}"
        for seed in range(args.first, args.first + args.seeds):
            before = stored().get(name, {}).get(str(seed), {})
            if before.get("settings") != digest_of(config):
                result = train(config, seed)
                results = stored()
                results.setdefault(name, {})[str(seed)] = result
                RESULTS.write_text(json.dumps(results, sort_keys=True) + "\n")
                before = result
            shown = {key: x for key, x in before.items() if key not in ("curve", "settings")}
            print(f"seed {seed}", *(f"{key} {x}" for key, x in shown.items()), flush=True)
    results = current(stored())
    blocks = {
        "learning": table(results),
        "published": published(results),
        "digests": digests(results),
    }
    for block, lines in blocks.items():
        readme.put(readme.HERE, block, "\n".join(lines))
    draw(results, readme.HERE / "learning.png")


if __name__ == "__main__":
    main()
