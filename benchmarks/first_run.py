"""Time whole processes from their start: the README's loop and examples/lesson.py, cold and warm.

    python benchmarks/first_run.py

The yardstick is the lesson in torch (benchmarks/lesson.py): a new process that trains CartPole-v1
for 80 episodes. "Cold" starts with an empty cache of compiled programs, "warm" with what the cold
run before it has left. The processes take turns, for several rounds; each figure is the median over
the rounds, and each ratio the median of the ratios within a round. Writes its table into README.md.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import readme

ROOT = readme.HERE.parent


def seconds(script: Path, cache: str, *args: str) -> float:
    """Run a script in a new process; return how long it takes."""
    environment = os.environ | {"XDG_CACHE_HOME": cache}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    begun = time.perf_counter()
    command = [sys.executable, str(script), *args]
    subprocess.run(command, check=True, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def readme_loop() -> str:
    """Return the training loop of the project's README.md."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return next(block for block in blocks if "algorithm.update(state, rollout)" in block)


def main() -> None:
    parser = readme.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        loop = Path(folder) / "readme_loop.py"
        loop.write_text(readme_loop())
        imports = Path(folder) / "imports.py"
        imports.write_text("import gymnasium, jax, numpy, optax, pgjax; pgjax.reinforce")
        lesson = "the lesson in torch, 80 episodes"
        scripts = {
            lesson: readme.HERE / "lesson.py",
            "imports only": imports,
            "the README's loop, 30 updates": loop,
            "examples/lesson.py": ROOT / "examples" / "lesson.py",
        }
        found: dict[str, list[float]] = {}
        for round_ in range(args.rounds):
            for name, script in scripts.items():
                cache = str(Path(folder) / f"cache-{round_}-{script.stem}")
                compiles = name not in (lesson, "imports only")
                for kind in (", cold", ", warm") if compiles else ("",):
                    # How long the lesson's episodes are depends on its seed.
                    options = ("--seed", str(round_)) if name == lesson else ()
                    taken = seconds(script, cache, *options)
                    found.setdefault(name + kind, []).append(taken)
                    print(f"round {round_ + 1}  {name + kind:40} {taken:6.2f} s", flush=True)
    lines = [
        "| process | seconds | ratio to the lesson | range of the ratio |",
        "|---|---|---|---|",
    ]
    for name, times in found.items():
        ratios = [a / b for a, b in zip(times, found[lesson], strict=True)]
        lines.append(
            f"| {name} | {statistics.median(times):.1f} | {statistics.median(ratios):.2f} "
            f"| {min(ratios):.2f} to {max(ratios):.2f} |"
        )
    readme.put_measured("first_run", lines)


if __name__ == "__main__":
    main()
