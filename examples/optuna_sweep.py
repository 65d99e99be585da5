"""Search settings with Optuna, on any task; bad settings are given up after few seeds.

    pip install "pgjax[sweep]"
    python examples/optuna_sweep.py CartPole-v1 --trials 12 --seeds 3

Each trial trains PPO with settings of its own, one seed after the other, and is pruned where its
mean return so far is below the median of the earlier trials after as many seeds. Prints a table,
draws a picture, and keeps the run folder of each seed.
"""

import argparse
import dataclasses
import statistics
import warnings
from pathlib import Path

import optuna
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, Trial, TrialState

import pgjax


def suggest(trial: Trial, config: pgjax.TrainConfig) -> pgjax.TrainConfig:
    """Return the settings of a trial: what is searched, and in which range."""
    return dataclasses.replace(
        config,
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        gamma=trial.suggest_categorical("gamma", [0.95, 0.98, 0.99, 0.995]),
        num_epochs=trial.suggest_int("num_epochs", 4, 20, step=4),
    )


def mean_return(trial: Trial, config: pgjax.TrainConfig, seeds: range, out: Path) -> float:
    """Train each seed and return the mean of their evaluations, unless the trial is pruned."""
    config = suggest(trial, config)
    means: list[float] = []
    for seed in seeds:
        run_dir = out / f"trial-{trial.number}" / f"seed-{seed}"
        try:
            run = pgjax.train(dataclasses.replace(config, seed=seed, run_dir=run_dir))
        except pgjax.DivergedError as e:
            raise optuna.TrialPruned from e
        assert run.evaluation is not None
        means.append(run.evaluation["mean"])
        trial.report(statistics.mean(means), step=len(means))
        if trial.should_prune():
            raise optuna.TrialPruned
    return statistics.mean(means)


def draw(trials: list[FrozenTrial], env_id: str, out: Path) -> None:
    """Draw the return of each trial against its learning rate."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for state, marker, label in (
        (TrialState.COMPLETE, "o", "all seeds"),
        (TrialState.PRUNED, "x", "given up early"),
    ):
        found = [trial for trial in trials if trial.state == state and trial.intermediate_values]
        rates = [trial.params["learning_rate"] for trial in found]
        axes.scatter(rates, [last_mean(trial) for trial in found], marker=marker, label=label)
    axes.set(xscale="log", xlabel="learning rate", ylabel="mean return", title=env_id)
    axes.legend()
    figure.savefig(out, dpi=120)


def last_mean(trial: FrozenTrial) -> float:
    """Return the mean return over the seeds that a trial has trained."""
    return trial.intermediate_values[max(trial.intermediate_values)]


def main() -> None:
    pgjax.enable_compile_cache()  # later runs start faster
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("env_id", nargs="?", default="CartPole-v1")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=80)
    parser.add_argument("--out", type=Path, default=Path("optuna-sweep"))
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Each run of PPO over Gymnasium gives this warning, which does not matter for a search.
    warnings.filterwarnings("ignore", "resumable, not bit-exact", pgjax.RunWarning)
    config = pgjax.TrainConfig.preset(args.env_id, algorithm="ppo", updates=args.updates)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
    )
    # Seeds for a search differ from those that later show what the settings reach.
    seeds = range(100, 100 + args.seeds)
    study.optimize(lambda trial: mean_return(trial, config, seeds, args.out), args.trials)
    trials = [trial for trial in study.trials if trial.intermediate_values]
    print("trial  learning rate  gamma  epochs  seeds  mean return")
    for trial in sorted(trials, key=last_mean, reverse=True):
        rate, gamma, epochs = (trial.params[x] for x in ("learning_rate", "gamma", "num_epochs"))
        print(
            f"{trial.number:5}  {rate:13.5f}  {gamma:5}  {epochs:6}"
            f"  {len(trial.intermediate_values):5}  {last_mean(trial):11.1f}"
        )
    draw(trials, args.env_id, args.out / "sweep.png")
    print(f"wrote {args.out / 'sweep.png'}")


if __name__ == "__main__":
    main()
