"""Plant bugs one at a time in a copy of the repository: does the fast test suite catch each?

    python benchmarks/planted_bugs.py
    python benchmarks/planted_bugs.py "max_grad_norm is ignored"

The test files named with a bug run first. Only if they pass does the whole fast suite run, since
any of its tests may catch the bug. Exits with 1 if a bug survives.
"""

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import readme

ROOT = readme.HERE.parent
AGENT, EVALUATE = "pgjax/config/agent.py", "pgjax/evaluation/evaluate.py"
WIRING = "tests/config/test_agent.py"
EVALUATING = "tests/evaluation/test_evaluate.py"


@dataclasses.dataclass(frozen=True)
class Bug:
    name: str
    path: str
    right: str  # must occur in the file
    wrong: str
    tests: str


def in_agent(name: str, right: str, wrong: str) -> Bug:
    return Bug(name, AGENT, right, wrong, WIRING)


BUGS = [
    # The connections that all survived when planted together, and four more.
    in_agent("max_grad_norm is ignored", "if config.max_grad_norm is None:", "if True:"),
    in_agent("value_coef is ignored", "value_coef=config.value_coef,", ""),
    in_agent("mean_over is ignored", "mean_over=config.mean_over,", ""),
    in_agent("gae_lambda is ignored", "config.gae_lambda", "0.95"),
    in_agent("reward_scale is ignored", "reward_scale=config.reward_scale", ""),
    in_agent("time_discount is ignored", "if config.time_discount:", "if False:"),
    in_agent(
        "entropy_coef is ignored",
        "entropy_coef=_schedule(config, config.entropy_coef, config.anneal_entropy),",
        "",
    ),
    in_agent(
        "rewards are normalised with another discount",
        "normalize_rewards=config.gamma if",
        "normalize_rewards=0.99 if",
    ),
    in_agent(
        "the critic has its default activation",
        "ValueNetwork(**layers)",
        'ValueNetwork(**layers | {"activation": nn.relu})',
    ),
    Bug(
        "the evaluation on the device samples",
        EVALUATE,
        "algorithm = agent.algorithm if stochastic else greedy(agent)",
        "algorithm = agent.algorithm",
        EVALUATING,
    ),
    Bug(
        "the evaluation on the device does not squash",
        EVALUATE,
        "env.env, algorithm, state, episodes, squash=config.squash",
        "env.env, algorithm, state, episodes, squash=False",
        EVALUATING,
    ),
    Bug(
        "the evaluation in Python does not squash",
        EVALUATE,
        "squash=config.squash,\n                step_timeout",
        "squash=False,\n                step_timeout",
        EVALUATING,
    ),
    Bug(
        "the video does not squash",
        "pgjax/evaluation/video.py",
        "squash=config.squash",
        "squash=False",
        "tests/evaluation/test_video.py",
    ),
    Bug(
        "the evaluation draws from the training key",
        EVALUATE,
        "return run.state._replace(key=key,",
        "return run.state._replace(",
        EVALUATING,
    ),
    Bug(
        "the entropy schedule is one step late",
        "pgjax/algorithms/reinforce.py",
        "entropy_coef_at(objective, state.step)",
        "entropy_coef_at(objective, state.step - 1)",
        WIRING,
    ),
    Bug(
        "a time limit on the device counts as terminated",
        "pgjax/collect/on_device.py",
        "truncated = truncated | (time + 1 >= limit)",
        "terminated = terminated | (time + 1 >= limit)",
        "tests/collect/test_on_device.py",
    ),
    Bug(
        "verify compares parameters only",
        "pgjax/training/verify.py",
        "names = [name for name in here | there if",
        "names = [name for name in ('params',) if",
        "tests/training/test_verify.py",
    ),
    Bug(
        "grad_norm is that of the updates",
        "pgjax/algorithms/gradients.py",
        "optax.tree.norm(grads)",
        "optax.tree.norm(updates)",
        "tests/algorithms/test_reinforce.py",
    ),
    # Others of the same kinds.
    in_agent(
        "annealing ends after half of the updates",
        "optax.linear_schedule(value, 0.0, config.updates)",
        "optax.linear_schedule(value, 0.0, config.updates // 2)",
    ),
    in_agent(
        "the critic sees observations that are not normalised",
        "NormalizedObs(policy, mixed), critic and NormalizedObs(critic, mixed)",
        "NormalizedObs(policy, mixed), critic",
    ),
    Bug(
        "the evaluation's seed is ignored",
        EVALUATE,
        "key = _evaluation_key(check_seed(seed))",
        "key = _evaluation_key(check_seed(1000))",
        EVALUATING,
    ),
    Bug(
        "every step of an episode has the same noise",
        "pgjax/collect/noise.py",
        "draw(jax.random.fold_in(k, t))",
        "draw(jax.random.fold_in(k, 0 * t))",
        "tests/collect/test_noise.py tests/collect/test_episodes.py",
    ),
    Bug(
        "a resumed run starts with new moments of Adam",
        "pgjax/runs/checkpoints.py",
        "state = flax.serialization.from_bytes(like, checkpoint.body())",
        "state = flax.serialization.from_bytes(like, checkpoint.body())\n"
        "        state = state._replace(opt_state=init().opt_state)",
        "tests/training/test_resume.py",
    ),
    Bug(
        "the critic's loss lacks its half",
        "pgjax/losses.py",
        "return 0.5 * (value",
        "return (value",
        "pgjax/losses.py",
    ),
    Bug(
        "training on the device does not squash",
        "pgjax/training/engines.py",
        '{"squash": config.squash, "sharding": sharding}',
        '{"sharding": sharding}',
        "tests/training/test_engines.py",
    ),
    Bug(
        "training in Python does not squash",
        "pgjax/training/engines.py",
        '{"squash": config.squash, "step_timeout"',
        '{"step_timeout"',
        "tests/training/test_engines.py",
    ),
    Bug(
        "the start of a Discrete space is not added",
        "pgjax/gym/actions.py",
        "return [action + start for action in chosen]",
        "return list(chosen)",
        "tests/gym/test_actions.py",
    ),
    Bug(
        "an update normalises with the moments from after it",
        "pgjax/algorithms/reinforce.py",
        "before = batches.moments_before(objective, state.params, chunks)",
        "before = batches.moments_before(objective, state.params, chunks)\n"
        "    every = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), chunks)\n"
        "    after = batches.merge_moments(before, batches.moment_sums(before, every))\n"
        "    state = state._replace(params=state.params | after)",
        "tests/numerics/test_running_moments.py tests/algorithms",
    ),
    Bug(
        "the best checkpoint is the worst",
        "pgjax/runs/checkpoints.py",
        "return max(reversed(there)",
        "return min(reversed(there)",
        "tests/runs/test_chosen_checkpoint.py",
    ),
    Bug(
        "with --eval-every, returns of training decide which checkpoint is the best",
        "pgjax/runs/recorder.py",
        "if self._config.eval_every or not",
        "if not",
        "tests/runs/test_chosen_checkpoint.py",
    ),
    Bug(
        "parameters of NNX modules do not depend on the key",
        "pgjax/nnx.py",
        "bridge.init(key, obs)",
        "bridge.init(jax.random.key(0), obs)",
        "tests/test_nnx.py",
    ),
]  # fmt: skip


def caught(bug: Bug, copy: Path) -> str | None:
    """Plant a bug; return the test that fails, or None."""
    path = copy / bug.path
    text = path.read_text()
    path.write_text(text.replace(bug.right, bug.wrong))
    try:
        for tests in (bug.tests.split(), []):
            command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", *tests]
            env = os.environ | {"PYTHONPATH": str(copy)}
            done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True)
            if failed := [x for x in done.stdout.splitlines() if x.startswith("FAILED ")]:
                return failed[0].split(" ")[1]
            if done.returncode != 0:
                raise SystemExit(f"{bug.name}: the tests could not run\n{done.stdout[-2000:]}")
    finally:
        path.write_text(text)
    return None


def main() -> None:
    options = readme.parser(__doc__)
    options.add_argument("names", nargs="*", help="only these bugs")
    names = options.parse_args().names
    if unknown := set(names) - {bug.name for bug in BUGS}:
        options.error(f"unknown: {', '.join(unknown)}")
    chosen = [bug for bug in BUGS if not names or bug.name in names]
    for bug in chosen:
        if bug.right not in (ROOT / bug.path).read_text():
            options.error(f"{bug.name}: {bug.path} no longer holds {bug.right!r}")
    survived, rows = 0, ["| planted bug | caught by |", "|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "pgjax"
        files = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
        for name in files.split("\0")[:-1]:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
        for bug in chosen:
            test = caught(bug, copy)
            survived += test is None
            print(f"{'SURVIVED' if test is None else 'caught'}  {bug.name}", flush=True)
            rows.append(f"| {bug.name} | {'nothing' if test is None else f'`{test}`'} |")
    total = f"{len(chosen) - survived} of {len(chosen)} caught"
    if names:
        print("\n".join([*rows, "", total]))
    else:
        readme.put_measured("planted_bugs", [*rows, "", total])
    raise SystemExit(min(survived, 1))


if __name__ == "__main__":
    main()
