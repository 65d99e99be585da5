import json

import pytest
from fake_runs import fake_run, fake_seeds

import pgjax
from pgjax.cli import app
from pgjax.evaluation.statistics import interquartile_mean

ROWS = [(10, 1.0), (30, 2.0)]
HIGH, LOW = [3.0, 8.0, 9.0, 7.0, 5.0], [1.0, 4.0, 5.0, 2.0, 6.0, 3.0]


def test_groups_are_compared_by_the_evaluations_of_their_seeds(tmp_path):
    high = fake_seeds(tmp_path / "high", [ROWS] * 4 + [[(90, 1.0)]], HIGH, learning_rate=0.5)
    low = fake_seeds(tmp_path / "low", [ROWS] * 6, LOW)
    found = pgjax.compare(high, str(low))
    assert found["env_id"] == "CartPole-v1"
    first, second = found["groups"]
    assert first == {
        "name": "learning_rate 0.5",
        "settings": {"learning_rate": 0.5},
        "mean_by_seed": {"0": 3.0, "1": 8.0, "2": 9.0, "3": 7.0, "4": 5.0},
        "episodes": 500,
        **interquartile_mean(HIGH),
        "env_steps": (4 * 30 + 90) / 5,
        "seconds": (4 * 1.0 + 0.5) / 5,
        "diverged": [],
    }
    assert second["interquartile_mean"] == 3.5
    # Pairs of 5 x 6 that the first one wins: 3 beats two and ties one, 5 beats four and ties one.
    [improvement] = found["improvement"]
    assert improvement["over"] == second["name"] == "learning_rate 0.02"
    assert improvement["probability"] == pytest.approx((2.5 + 6 + 6 + 6 + 4.5) / 30)
    assert improvement["low"] < improvement["probability"] < improvement["high"]


def test_fewer_than_five_seeds_have_no_interval(tmp_path):
    one = fake_run(tmp_path / "one", ROWS, 4.0)
    other = fake_run(tmp_path / "other", [], 4.0, updates=7, diverged="the loss is not finite")
    found = pgjax.compare(one, other)
    assert [group["mean"] for group in found["groups"]] == [4.0, 4.0]
    assert found["groups"][1]["diverged"] == [0]
    assert (found["groups"][1]["env_steps"], found["groups"][1]["seconds"]) == (0.0, 0.0)
    assert found["improvement"] == [{"over": "updates 7", "probability": 0.5}]
    assert pgjax.compare(one)["improvement"] == []


def test_the_time_of_the_python_loop_is_that_of_its_halves(tmp_path):
    run = fake_run(tmp_path / "run", ROWS, 4.0)
    row = {"update": 1, "seconds_collecting": 2.0, "seconds_updating": 0.25}
    (run / "timings.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(row)}\n")
    assert pgjax.compare(run)["groups"][0]["seconds"] == 4.5


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    one = fake_run(tmp_path / "one", ROWS, 4.0)
    seeds = fake_seeds(tmp_path / "seeds", [ROWS] * 2, [1.0, None], updates=7)
    other = fake_run(tmp_path / "other", ROWS, 4.0, env_id="Pendulum-v1")
    with pytest.raises(pgjax.ConfigError, match="different tasks"):
        pgjax.compare(one, other)
    for missing in (seeds, seeds / "seed-1"):
        words = f"seed-1 has no evaluation.json: write it with pgjax evaluate {seeds} --save"
        with pytest.raises(pgjax.RunError, match=words):
            pgjax.compare(one, missing)
    path = seeds / "seed-1" / "evaluation.json"
    for text in ("{", "[]", "{}", '{"mean": "a", "episodes": 1}', '{"mean": NaN, "episodes": 1}'):
        path.write_text(text)
        with pytest.raises(pgjax.RunError, match="cannot be read"):
            pgjax.compare(one, seeds)
    path.write_text('{"mean": 1.0, "episodes": 2, "stochastic": true}')
    with pytest.raises(pgjax.ConfigError, match="evaluate them in one way"):
        pgjax.compare(one, seeds)


def test_the_command_prints_a_table_that_fits_or_json(tmp_path, capsys):
    high = fake_seeds(tmp_path / "high", [ROWS] * 5, HIGH, learning_rate=0.5)
    few = fake_seeds(tmp_path / "few", [ROWS] * 3, LOW)
    app.main(["compare", str(few), str(high)])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[:3] == ["CartPole-v1, evaluation", "1  learning_rate 0.02", "2  learning_rate 0.5"]
    rows = [line.split() for line in lines[5:7]]
    assert rows[0] == ["1", "3", "3.333*", "30", "1.0", "s"]
    low, high_end = (f"{interquartile_mean(HIGH)[name]:.3f}" for name in ("low", "high"))
    assert rows[1][:6] == ["2", "5", "6.667", low, "to", high_end]
    # 3, 8, 9, 7 and 5 against 1, 4 and 5: 4 and 5 beat 3, and 5 ties with 5.
    assert rows[1][6:] == ["30", "1.0", "s", f"{2.5 / 15:.2f}"]
    assert max(map(len, lines)) < 80
    app.main(["compare", str(few), str(high), "--json"])
    assert json.loads(capsys.readouterr().out) == pgjax.compare(few, high)
