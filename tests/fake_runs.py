"""Run folders with given logs, for what reads them; nothing is trained."""

import json

import pgjax
from pgjax.runs import folder, store


def fake_run(
    path, rows, mean=None, env_id="CartPole-v1", diverged=None, manifest=(), metrics=(), **settings
):
    """Write a run of the given (environment steps, mean return) of its updates; return its folder.

    `mean` is the mean return of its evaluation, which it lacks by default; `manifest` and `metrics`
    are added to its manifest and to the metrics of each update.
    """
    path.mkdir(parents=True)
    config = pgjax.TrainConfig.preset(env_id, **settings)
    store.write_sealed(path / "config.json", config.to_json())
    ended = {"diverged": diverged} if diverged else {}
    store.write_sealed(path / "manifest.json", {**ended, **dict(manifest)})
    with (path / "metrics.jsonl").open("w") as file:
        for steps, of_update in rows:
            row = {"total_env_steps": steps, "mean_return": of_update, **dict(metrics)}
            print(json.dumps(row), file=file)
    with (path / "timings.jsonl").open("w") as file:
        for _ in rows:
            print(json.dumps({"seconds": 0.5}), file=file)
    if mean is not None:
        folder.write_json(path / "evaluation.json", {"mean": mean, "episodes": 100})
    return path


def fake_seeds(path, rows, means=(None,) * 100, **settings):
    """Write the folder of several seeds from 0 on, given the rows of each; return it."""
    for seed, (of_seed, mean) in enumerate(zip(rows, means, strict=False)):
        fake_run(folder.seed_folder(path, seed), of_seed, mean, seed=seed, **settings)
    folder.write_seeds(path, range(len(rows)))
    return path
