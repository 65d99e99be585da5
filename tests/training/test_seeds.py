"""Several seeds: one that diverges ends itself, and the others go on as if it were not there."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import rows_of

import pgjax
from pgjax.cli import app
from pgjax.config import agent
from pgjax.runs import folder
from pgjax.training import train as training

UPDATES = 5
NEVER = 99
SETTINGS = {"updates": UPDATES, "episodes_per_update": 2, "num_shards": 2, "hidden_sizes": (4,)}


def first_bad_updates(monkeypatch, *updates):
    """Make the first seeds diverge at these updates; NEVER: not at all."""

    def breaking(make):
        def made(config, env):
            whole = make(config, env)
            keys = [jax.random.key_data(whole.init(np.uint32(i)).key) for i in range(len(updates))]

            def shard(sharding):
                algorithm = whole.shard(sharding)

                def update(state, *args):
                    mine = [(jax.random.key_data(state.key) == key).all() for key in keys]
                    bad = jnp.select(mine, [jnp.int32(n - 1) for n in updates], NEVER)
                    state, info = algorithm.update(state, *args)
                    return state, info | {
                        "grad_norm": jnp.where(state.step == bad + 1, jnp.nan, info["grad_norm"])
                    }

                return algorithm._replace(update=update)

            return whole._replace(shard=shard)

        return made

    monkeypatch.setattr(training, "make_agent", breaking(agent.make_agent))


class Seen:
    def start(self, run):
        self.metrics = []

    def update(self, metrics, timings):
        self.metrics.append(metrics)

    def stop(self):
        pass


def train_seeds(path, count, observer=None, **settings):
    config = pgjax.TrainConfig(
        "CartPole-v1", on_device=True, run_dir=path, **{**SETTINGS, **settings}
    )
    return training.train_seeds(config, count, [observer] if observer else [])


def manifest(run):
    return json.loads((run.path / "manifest.json").read_text())


def test_a_seed_that_diverges_ends_and_the_others_go_on(tmp_path, monkeypatch):
    first_bad_updates(monkeypatch, 3, NEVER, 1)
    seen = Seen()
    with pytest.warns(pgjax.RunWarning) as warned:
        runs = train_seeds(tmp_path / "seeds", 3, seen)
    messages = [str(of.message) for of in warned]
    assert any("update 1 is not finite (seed 2)" in text for text in messages), messages
    assert any("update 3 is not finite (seed 0)" in text for text in messages)
    assert [int(run.state.step) for run in runs] == [2, UPDATES, 0]
    assert [len(rows_of(run)) for run in runs] == [2, UPDATES, 0]
    assert [len(of_all) for of_all in seen.metrics] == [3] * UPDATES
    assert [of_all[0]["update"] for of_all in seen.metrics] == [1, 2, 2, 2, 2]
    assert [of_all[2]["update"] for of_all in seen.metrics] == [0] * UPDATES
    # The same as each seed alone.
    for run in runs[:2]:
        alone = tmp_path / f"alone-{run.config.seed}"
        config = pgjax.TrainConfig(
            "CartPole-v1", on_device=True, seed=run.config.seed, run_dir=alone, **SETTINGS
        )
        if run.config.seed == 0:
            with pytest.raises(pgjax.DivergedError, match="update 3 is not finite"):
                training.train(config)
        else:
            training.train(config)
        for name in ("metrics.jsonl", "digests.jsonl"):
            assert (run.path / name).read_bytes() == (alone / name).read_bytes()
        of_alone = json.loads((alone / "manifest.json").read_text())
        assert manifest(run)["params_sha256"] == of_alone["params_sha256"]
    assert "update 3 is not finite" in manifest(runs[0])["diverged"]
    assert "diverged" not in manifest(runs[1])
    assert "update 1 is not finite" in manifest(runs[2])["diverged"]
    assert int(pgjax.load(runs[0].path).state.step) == 2
    assert pgjax.plot(tmp_path / "seeds").exists()


@pytest.mark.slow
def test_resume_leaves_a_seed_that_has_diverged_alone(tmp_path, monkeypatch):
    first_bad_updates(monkeypatch, 3, NEVER, 1, NEVER)
    with pytest.warns(pgjax.RunWarning, match="is not finite"):
        whole = train_seeds(tmp_path / "whole", 4, updates=UPDATES + 1)
    with pytest.warns(pgjax.RunWarning, match="is not finite"):
        runs = train_seeds(tmp_path / "seeds", 4)
    there = {p: p.read_bytes() for i in (0, 2) for p in runs[i].path.rglob("*") if p.is_file()}
    seen = Seen()
    again = training.resume(tmp_path / "seeds", [seen], updates=UPDATES + 1)
    assert [len(of_all) for of_all in seen.metrics] == [2]
    assert {p: p.read_bytes() for p in there} == there
    assert [run.config.seed for run in again] == [0, 1, 2, 3]
    assert [int(run.state.step) for run in again] == [2, UPDATES + 1, 0, UPDATES + 1]
    for run, expected in zip(again, whole, strict=True):
        assert manifest(run)["params_sha256"] == manifest(expected)["params_sha256"]
    assert list(folder.seeds_in(tmp_path / "seeds")) == [0, 1, 2, 3]


@pytest.mark.slow
def test_nothing_is_written_if_all_seeds_diverge_at_once_and_the_last_one_raises(
    tmp_path, monkeypatch
):
    first_bad_updates(monkeypatch, 1, 1)
    with pytest.raises(pgjax.DivergedError, match=r"update 1 is not finite \(seed 0, 1\)"):
        train_seeds(tmp_path / "none", 2)
    assert not (tmp_path / "none").exists()
    first_bad_updates(monkeypatch, 2, 4)
    with (
        pytest.warns(pgjax.RunWarning, match=r"update 2 is not finite \(seed 0\)"),
        pytest.raises(pgjax.DivergedError, match=r"update 4 .*seed 1.*after 3 updates; saved in"),
    ):
        train_seeds(tmp_path / "seeds", 2)
    assert [int(pgjax.load(p).state.step) for p in folder.seed_folders(tmp_path / "seeds")] == [
        1,
        3,
    ]


def test_the_command_evaluates_all_seeds_and_fails_in_the_end(tmp_path, monkeypatch, capsys):
    first_bad_updates(monkeypatch, NEVER, 3, NEVER, 1)
    options = (
        "--on-device --seeds 4 --updates 5 --episodes-per-update 2 --num-shards 2 --hidden-sizes 4"
    )
    with pytest.raises(SystemExit) as caught:
        app.main(
            ["train", "CartPole-v1", *options.split(), "--learning-rate", "0.1"]
            + ["--eval-episodes", "2", "--run-dir", str(tmp_path / "seeds")]
        )
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert "ended after 2 of 5 updates" in printed.out
    assert "ended after 0 of 5 updates" in printed.out
    last = printed.err.splitlines()[-1]
    assert last.startswith("pgjax: 2 seeds of 4 diverged or failed (seed 1, 3)")
    summary = json.loads((tmp_path / "seeds" / "evaluation.json").read_text())
    assert summary["mean_by_seed"].keys() == {"0", "1", "2", "3"}
    assert summary["unfinished"] == [1, 3]
    assert (tmp_path / "seeds" / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "seeds" / "seed-3" / "learning_curve.png").exists()
