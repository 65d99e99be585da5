"""Time a checkpoint of 55 kB: pgjax's store (digest, fsync, rename) and Orbax, alternating.

python benchmarks/checkpoint.py
"""

import statistics
import tempfile
import time
from pathlib import Path

import flax.serialization
import numpy as np
import orbax.checkpoint as ocp
import readme

from pgjax.runs import store

ROUNDS = 50


def main() -> None:
    readme.parser(__doc__).parse_args()
    rng = np.random.default_rng(0)
    tree = {f"layer {i}": rng.normal(size=(16, 72)).astype(np.float32) for i in range(12)}
    took: dict[str, list[float]] = {"pgjax": [], "Orbax": []}
    with tempfile.TemporaryDirectory(dir=".") as folder, ocp.StandardCheckpointer() as orbax:
        run = Path(folder).absolute() / "run"
        run.mkdir()
        ends = store.logs_at(run, ("metrics.jsonl", "digests.jsonl", "timings.jsonl"), {})
        for i in range(1, ROUNDS + 1):
            ends = store.append(run, ends, {name: b"x" * 300 + b"\n" for name in ends})
            begun = time.perf_counter()
            body = flax.serialization.to_bytes(tree)
            store.commit(run / "checkpoints", i, 0.0, "", store.flush(run, ends), body)
            took["pgjax"].append(time.perf_counter() - begun)
            begun = time.perf_counter()
            orbax.save(run / f"orbax-{i}", tree)
            orbax.wait_until_finished()
            took["Orbax"].append(time.perf_counter() - begun)
    lines = [f"| {len(body) / 1e3:.1f} kB | median ms | range, ms |", "|---|---|---|"]
    for name, seconds in took.items():
        low, median, high = (
            x * 1e3 for x in (min(seconds), statistics.median(seconds), max(seconds))
        )
        lines.append(f"| {name} | {median:.1f} | {low:.1f} to {high:.1f} |")
    readme.put_measured("checkpoint", [*lines, "", f"{ROUNDS} rounds, alternating."])


if __name__ == "__main__":
    main()
