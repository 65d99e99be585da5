"""Measure on-device training: against other libraries, and by environments, seeds and devices.

    python benchmarks/on_device.py --peers peers/bin/python

Contenders take turns for several rounds, each in a separate process. The seconds to an evaluation
of 475 therefore include everything from the start of the process: a cold start has an empty
compilation cache, a warm start a cache filled by an earlier run. Steps per second are measured in
training after compilation and count real steps only. `--peers` is the Python of a virtual
environment with benchmarks/peers/requirements.txt installed; without it only pgjax runs. Prints
tables, writes on_device.json and on_device.png beside this file, and writes the tables into
README.md.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import readme

HERE = Path(__file__).parent
SELF = [sys.executable, str(HERE / "on_device_one.py")]
ENVS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096)
SEEDS = (1, 2, 4, 8, 16, 32, 64)
DEVICES = (1, 2, 4, 8)
# For the comparison with other libraries: (environments, devices)
TRIED = {"pgjax": ((256, 1), (512, 1), (512, 2), (1024, 2)), "rejax": ((8, 1), (64, 1), (512, 1))}


def run(command: list[str], cache: str | None = None, devices: int = 1) -> dict[str, Any]:
    """Run a process: the JSON line that it prints, with its seconds and peak memory."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    if devices > 1:
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    if cache is not None:
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05",
        }
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    lines = process.stdout.read().strip().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    mib = usage.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    return json.loads(lines[-1]) | {"seconds": seconds, "peak_mib": mib}


def contenders(peers: str | None) -> dict[str, list[str]]:
    """Commands without the mode, which is appended."""
    table = {"pgjax REINFORCE, on the device": SELF}
    if peers:
        rejax, sb3 = str(HERE / "peers" / "rejax_ppo.py"), str(HERE / "peers" / "sb3.py")
        table["rejax PPO"] = [peers, rejax]
        table["SB3 A2C"] = [peers, sb3, "--algorithm", "a2c"]
        table["SB3 PPO"] = [peers, sb3, "--algorithm", "ppo"]
    return table


def compare(peers: str | None, rounds: int) -> dict[str, Any]:
    """For each contender: seconds cold and warm, memory, and steps per second."""
    table = contenders(peers)
    result: dict[str, Any] = {
        name: {"cold": [], "warm": [], "peak_mib": [], "evaluation": [], "steps_per_second": {}}
        for name in table
    }
    for round_ in range(rounds):
        for name, command in table.items():
            mine = result[name]
            seed = ["--seed", str(round_)]
            compiled = "SB3" not in name
            with tempfile.TemporaryDirectory() as cache:
                for kind in ("cold", "warm") if compiled else ("cold",):
                    one = run([*command, "threshold", *seed], cache if compiled else None)
                    mine[kind].append(one["seconds"])
                    mine["evaluation"].append(one["evaluation"])
                    mine["peak_mib"].append(one["peak_mib"])
            for envs, devices in TRIED.get(name[:5], ((8, 1),)):
                options = ["--envs", str(envs), *seed]
                if devices > 1:
                    options += ["--devices", str(devices)]
                one = run([*command, "throughput", *options], devices=devices)
                key = str(envs) if devices == 1 else f"{envs}, {devices} devices"
                mine["steps_per_second"].setdefault(key, []).append(one["steps_per_second"])
            print(f"round {round_ + 1}/{rounds}  {name}: {json.dumps(mine)}", flush=True)
    return result


def scaling(tables: dict[str, Any], seconds: float, only: str | None) -> None:
    """Measure the scaling tables, or the one named `only`, each row in a separate process."""

    def measure(table: str, key: int | str, *options: str, devices: int = 1) -> None:
        if only not in (None, table):
            return
        command = [*SELF, "throughput", "--seconds", str(seconds), *options]
        tables.setdefault(table, {})[str(key)] = one = run(command, devices=devices)
        print(f"{table:14} {key:>6}: {json.dumps(one)}", flush=True)

    for n in ENVS:
        measure("environments", n, "--envs", str(n))
    for n in (64, 256, 1024):
        measure("pendulum", n, "--envs", str(n), "--env", "Pendulum-v1")
    for envs in (4, 16):  # environments per update
        for n in SEEDS:  # the same number of updates for all: episodes grow during training
            measure(f"vmap over seeds, {envs} environments each", n, "--envs", str(envs),
                    "--seeds", str(n), "--updates", "200")  # fmt: skip
        measure(f"vmap over seeds, {envs} environments each", "32 on 2 devices", "--envs",
                str(envs), "--seeds", "32", "--devices", "2", "--updates", "200",
                devices=2)  # fmt: skip
    for n in DEVICES:
        measure("devices", n, "--envs", "512", "--devices", str(n), devices=n)
    measure("pendulum", "256 on 2 devices", "--envs", "256", "--env", "Pendulum-v1", "--devices",
            "2", devices=2)  # fmt: skip
    for n in (64, 256, 512, 1024):
        measure("no learning", n, "--envs", str(n), "--no-learning")
    for n in (50, 1050):
        measure("memory", f"{n} updates", "--envs", "64", "--updates", str(n))


def tables_of(result: dict[str, Any]) -> str:
    lines: list[str] = []

    def median(values: list[float], form: str = ".1f") -> str:
        return format(statistics.median(values), form) if values else "-"

    if "contenders" in result:
        lines += [
            "| CartPole-v1 | cold start, s | warm start, s | peak MiB | best steps/s (envs) |",
            "|---|---|---|---|---|",
        ]
        for name, one in result["contenders"].items():
            best = max(one["steps_per_second"].items(), key=lambda x: statistics.median(x[1]))
            missed = sum(x < 475 for x in one["evaluation"])
            name += f" ({missed} of {len(one['evaluation'])} did not reach 475)" if missed else ""
            lines.append(
                f"| {name} | {median(one['cold'])} | {median(one['warm'])} | "
                f"{max(one['peak_mib']):.0f} | {median(best[1], ',.0f')} ({best[0]}) |"
            )
    for table, rows in result.get("scaling", {}).items():
        lines += ["", f"| {table} | steps/s | updates/s | peak MiB |", "|---|---|---|---|"]
        for key, one in rows.items():
            lines.append(
                f"| {key} | {one['steps_per_second']:,.0f} | {one['updates_per_second']:,.1f} | "
                f"{one['peak_mib']:,.0f} |"
            )
    lines += ["", *figures_of(result)]
    return "\n".join([*lines, "", readme.line(result["details"])])


def figures_of(result: dict[str, Any]) -> list[str]:
    """Ratios between entries of the tables, one line each."""

    def best(one: dict[str, Any]) -> float:
        return max(statistics.median(x) for x in one["steps_per_second"].values())

    figures = []
    ours, *others = result.get("contenders", {"": {}}).items()
    for name, one in others:
        cold, warm = (
            statistics.median(one["cold"]) / statistics.median(ours[1][kind])
            for kind in ("cold", "warm")
        )
        figures.append(
            f"- {name}: pgjax makes {best(ours[1]) / best(one):.1f} times as many steps per second;"
            f" the cold start of {name} takes {cold:.1f} times as long as pgjax's cold start and "
            f"{warm:.1f} times as long as its warm start"
        )
    if "memory" in (tables := result.get("scaling", {})):
        for name in (name for name in tables if name.startswith("vmap over seeds")):
            rows = ("1", "32", "32 on 2 devices")
            one, many, shared = (tables[name][n]["updates_per_second"] for n in rows)
            figures.append(
                f"- {name}: 32 seeds take {one / many:.1f} times as long as one, and "
                f"{one / shared:.1f} times as long on two devices"
            )
        stepping = {n: one["steps_per_second"] for n, one in tables["no learning"].items()}
        share = (tables["environments"][n]["steps_per_second"] / x for n, x in stepping.items())
        shares = ", ".join(f"{x:.0%} ({n})" for n, x in zip(stepping, share, strict=True))
        figures.append(f"- training speed relative to stepping without learning (envs): {shares}")
        few, many = (one["peak_mib"] for one in tables["memory"].values())
        figures.append(f"- change in peak memory over 1,000 more updates: {many - few:+.1f} MiB")
    return figures


def draw(scaled: dict[str, Any], out: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    for axes, table in zip(
        figure.subplots(1, 3),
        ("environments", "vmap over seeds, 16 environments each", "devices"),
        strict=True,
    ):
        rows = {int(k): one for k, one in scaled[table].items() if k.isdigit()}
        keys = list(rows)
        millions = [one["steps_per_second"] / 1e6 for one in rows.values()]
        axes.plot(keys, millions, marker="o")
        axes.set(xscale="log", ylim=(0, None), xlabel=table, ylabel="million steps per second")
        axes.set_xticks(keys, [f"{k:,}" for k in keys], rotation=60 if len(keys) > 8 else 0)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.savefig(out, dpi=120)


def main() -> None:
    parser = readme.parser(__doc__)
    parser.add_argument("--peers", help="Python of the environment with the other libraries")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="minimum duration of training per row"
    )
    parser.add_argument("--only", metavar="TABLE", help='"contenders", or a table name')
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    path = args.out / "on_device.json"
    result: dict[str, Any] = json.loads(path.read_text()) if args.only and path.exists() else {}
    if args.only in (None, "contenders"):
        result["contenders"] = compare(args.peers, args.rounds)
    if args.only != "contenders":
        scaling(result.setdefault("scaling", {}), args.seconds, args.only)
    if "devices" in (scaled := result.get("scaling", {})):
        draw(scaled, args.out / "on_device.png")
    result["details"] = {
        **readme.date_and_machine(),
        **run([*SELF, "versions"])["details"],
        "rounds": args.rounds,
    }
    path.write_text(json.dumps(result, indent=2) + "\n")
    block = tables_of(result)
    print(block)
    readme.put(args.out, "on_device", block)


if __name__ == "__main__":
    main()
