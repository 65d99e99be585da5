import re

import pytest
from fake_runs import fake_run, fake_seeds

import pgjax
from pgjax.evaluation.groups import group_runs

ROWS = [(10, 1.0)]


def test_runs_that_differ_in_the_seed_alone_are_one_group(tmp_path):
    seeds = fake_seeds(tmp_path / "seeds", [ROWS, ROWS])
    fast = fake_run(tmp_path / "fast", ROWS, learning_rate=0.5)
    more = fake_run(tmp_path / "more", ROWS, seed=7)
    [first, second] = group_runs([seeds, str(fast), more])
    assert first.folders == {0: seeds / "seed-0", 1: seeds / "seed-1", 7: more}
    assert second.folders == {0: fast}
    assert (first.name, second.name) == ("learning_rate 0.02", "learning_rate 0.5")
    assert second.settings == {"learning_rate": 0.5}
    [alone] = group_runs([more])
    assert (alone.name, alone.settings) == ("more", {})
    assert group_runs([seeds, more])[0].name == "seeds and 1 more"


def test_a_name_leaves_out_what_the_presets_explain(tmp_path):
    reinforce = fake_run(tmp_path / "reinforce", ROWS)
    ppo = fake_run(tmp_path / "ppo", ROWS, algorithm="ppo")
    names = [group.name for group in group_runs([reinforce, ppo])]
    assert names == ["algorithm reinforce", "algorithm ppo"]
    assert {"algorithm", "collect", "critic"} < group_runs([ppo, reinforce])[0].settings.keys()
    # One that differs from its preset is named in all.
    slow = fake_run(tmp_path / "slow", ROWS, algorithm="ppo", learning_rate=1e-5)
    names = [group.name for group in group_runs([reinforce, ppo, slow])]
    assert names == [
        "algorithm reinforce, learning_rate 0.02",
        "algorithm ppo, learning_rate 0.002",
        "algorithm ppo, learning_rate 1e-05",
    ]


def test_the_values_of_a_name_read_well(tmp_path):
    settings = {"hidden_sizes": (64, 32), "critic": True, "max_grad_norm": 0.5}
    paths = fake_run(tmp_path / "a", ROWS, **settings), fake_run(tmp_path / "b", ROWS)
    assert [group.name for group in group_runs(paths)] == [
        "hidden_sizes 64-32, critic, max_grad_norm 0.5",
        "hidden_sizes 16-16, no critic, no max_grad_norm",
    ]


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    one = fake_run(tmp_path / "one", ROWS)
    same = fake_run(tmp_path / "same", ROWS)
    other = fake_run(tmp_path / "other", ROWS, env_id="Pendulum-v1")
    for runs, words in (
        ([], "name at least one run folder"),
        ([one, other], "different tasks, CartPole-v1 and Pendulum-v1"),
        ([one, one], "the same settings and the same seed"),
        ([one, same], f"{one} and {same} have the same settings and the same seed"),
    ):
        with pytest.raises(pgjax.ConfigError, match=re.escape(words)):
            group_runs(runs)
    with pytest.raises(pgjax.RunError, match="is not a run folder"):
        group_runs([one, tmp_path / "nowhere"])
