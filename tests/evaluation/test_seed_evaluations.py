"""Evaluation and videos of the folder of several seeds."""

import json
import shutil

import numpy as np
import pytest
from conftest import train_again
from fake_runs import fake_run

import pgjax
from pgjax.cli import app
from pgjax.runs import folder


@pytest.fixture(scope="module")
def seeds(run_dir, tmp_path_factory):
    """The folder of two seeds; copy it before you change it."""
    path = tmp_path_factory.mktemp("seeds") / "seeds"
    shutil.copytree(run_dir, path / "seed-0")
    train_again(path / "seed-1", "--seed", "1")
    folder.write_seeds(path, range(2))
    return path


@pytest.mark.parametrize("seed", [7, 2**32 - 1])
def test_each_seed_is_evaluated_on_episodes_of_its_own(seed, seeds):
    def mean(path, seed):  # greedy, this agent falls after 9 steps on most episodes
        return pgjax.evaluate(path, 3, seed, stochastic=True)["mean"]

    found = pgjax.evaluate(seeds, 3, seed, stochastic=True)
    means = [mean(seeds / "seed-0", seed), mean(seeds / "seed-1", (seed + 1) % 2**32)]
    by_seed = {"0": means[0], "1": means[1]}
    assert found == {"episodes": 3, "mean_by_seed": by_seed, "mean": np.mean(means)}
    # Not those of a single run: the second seed has other episodes.
    assert mean(seeds / "seed-1", seed) != means[1]


def test_the_command_prints_each_seed_and_all_of_them(seeds, capsys):
    app.main(["evaluate", str(seeds), "--episodes", "3", "--seed", "7"])
    lines = capsys.readouterr().out.splitlines()
    found = pgjax.evaluate(seeds, 3, 7)
    for name, line in zip("01", lines, strict=False):
        assert line.startswith(f"seed-{name}        mean {found['mean_by_seed'][name]:.1f}  std")
    assert lines[2] == (
        f"seeds         mean {found['mean']:.1f}; at least 5 seeds are needed for an interval, got "
        "2: train more (--seeds)"
    )
    app.main(["evaluate", str(seeds), "--episodes", "3", "--seed", "7", "--json"])
    assert json.loads(capsys.readouterr().out) == found


def test_a_saved_evaluation_is_repeated_by_verify_and_compared(seeds, tmp_path, capsys):
    path = shutil.copytree(seeds, tmp_path / "seeds")
    found = pgjax.evaluate(path, 3, 7, stochastic=True, save=True)
    saved = [json.loads((of / "evaluation.json").read_text()) for of in (path, path / "seed-1")]
    assert saved[0] == {**found, "seed": 7, "stochastic": True}
    assert (saved[1]["seed"], saved[1]["stochastic"]) == (8, True)
    assert np.mean(saved[1]["returns"]) == saved[1]["mean"] == found["mean_by_seed"]["1"]
    app.main(["verify", str(path / "seed-1")])
    assert "evaluation of 3 episodes" in capsys.readouterr().out
    assert pgjax.compare(path)["groups"][0]["mean"] == found["mean"]
    (path / "evaluation.json").unlink()
    (path / "evaluation.json").mkdir()
    with pytest.raises(pgjax.RunError, match="cannot write"):
        pgjax.evaluate(path, 3, save=True)


def test_a_seed_that_diverged_in_its_first_update_counts_with_its_first_state(tmp_path):
    path = tmp_path / "seeds"
    why, small = "the loss is not finite", {"hidden_sizes": (4,), "num_envs": 2}
    fake_run(path / "seed-3", [], seed=3, diverged=why, **small)
    folder.write_seeds(path, range(3, 4))
    found = pgjax.evaluate(path, 2, 5)
    assert found["unfinished"] == [3]
    trained = pgjax.train(
        pgjax.TrainConfig.preset("CartPole-v1", updates=1, run_dir=tmp_path / "run", **small)
    )
    begun = trained._replace(state=trained.agent.init(3))
    assert found["mean_by_seed"] == {"3": pgjax.evaluate(begun, 2, 8)["mean"]}


def test_a_video_shows_the_seeds_one_after_the_other(seeds, tmp_path):
    images = pgjax.video.frames(seeds, 2, 7)
    expected = [
        *pgjax.video.frames(seeds / "seed-0", 2, 7),
        *pgjax.video.frames(seeds / "seed-1", 2, 8),
    ]
    np.testing.assert_array_equal(images, expected)
    path = shutil.copytree(seeds, tmp_path / "seeds")
    app.main(["render", str(path)])
    assert b"ftyp" in (path / "video.mp4").read_bytes()[:16]


@pytest.mark.parametrize("seed", [True, -1, 2**32, 1.0])
def test_a_random_seed_is_checked_before_that_of_a_run_is_added(seed, seeds):
    with pytest.raises(pgjax.ConfigError, match="--seed must be an integer from 0"):
        pgjax.evaluate(seeds, 2, seed)
