import numpy as np
import pytest
from fake_runs import fake_run, fake_seeds
from matplotlib.figure import Figure

import pgjax
from pgjax.cli import app
from pgjax.evaluation import curves
from pgjax.evaluation.groups import group_runs
from pgjax.evaluation.statistics import interquartile_mean


def curve_of(*paths, smooth=1):
    [group] = group_runs(paths)
    return curves.group_curve(group, smooth)


def at(curve, step):
    """Mean, low and high of a curve at an environment step."""
    return tuple(float(np.interp(step, curve.steps, of)) for of in curve[1:4])


def test_seeds_of_other_steps_are_interpolated_to_where_all_of_them_have_been(tmp_path):
    rows = [(10, 1.0), (30, 5.0), (70, 9.0)], [(20, 3.0), (50, 9.0)]
    curve = curve_of(fake_seeds(tmp_path / "a", rows))
    assert (curve.steps[0], curve.steps[-1]) == (10, 50)
    # At 10 steps the second seed has the return of its first update; at 20 and 50 the first one
    # lies halfway between two of its updates.
    assert at(curve, 10) == (2.0, 1.0, 3.0)
    assert at(curve, 20) == pytest.approx((3.0, 3.0, 3.0), abs=0.02)
    assert at(curve, 50) == (8.0, 7.0, 9.0)
    assert curve.meaning == "mean of 2 seeds, from the lowest to the highest seed"


def test_seeds_of_the_same_steps_keep_them(tmp_path):
    rows = [[(10, 1.0), (20, float(i))] for i in (3, 5)]
    curve = curve_of(fake_seeds(tmp_path / "a", rows))
    assert curve.steps.tolist() == [10, 20]
    assert curve.mean.tolist() == [1, 4]


def test_the_band_of_five_seeds_is_the_interval_of_their_interquartile_mean(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "_RESAMPLES", 20_000)
    returns = [1.0, 2.0, 6.0, 7.0, 50.0]
    rows = [[(10, 3.0), (20, of_seed)] for of_seed in returns]
    curve = curve_of(fake_seeds(tmp_path / "a", rows))
    expected = interquartile_mean(returns)
    assert at(curve, 20) == (expected["interquartile_mean"], expected["low"], expected["high"])
    assert at(curve, 10) == (3.0, 3.0, 3.0)
    assert curve.meaning == "interquartile mean of 5 seeds, with its 95 % bootstrap interval"


def test_a_seed_that_diverged_is_left_out_and_counted(tmp_path):
    a = fake_run(tmp_path / "a", [(10, 1.0), (20, 2.0)], seed=1)
    b = fake_run(tmp_path / "b", [], seed=2, diverged="the loss is not finite")
    curve = curve_of(a, b)
    assert curve.mean.tolist() == [1, 2]
    assert (curve.meaning, curve.left_out) == ("seed 1", 1)
    with pytest.raises(pgjax.ConfigError, match="all seeds diverged"):
        curve_of(b)


def test_a_moving_average_is_over_each_update_and_those_before_it(tmp_path):
    run = fake_run(tmp_path / "a", [(10, 2.0), (20, 4.0), (30, 9.0), (40, 20.0)])
    assert curve_of(run, smooth=3).mean.tolist() == [2, 3, 5, 11]
    assert curve_of(run, smooth=99).mean.tolist() == [2, 3, 5, 8.75]
    assert curve_of(run).mean.tolist() == [2, 4, 9, 20]


def test_the_plot_has_a_line_for_each_group_and_says_what_it_shows(tmp_path):
    rows = [(10, 1.0), (20, 2.0)]
    seeds = fake_seeds(tmp_path / "seeds", [rows, [(10, 3.0), (20, 4.0)]], updates=200)
    others = [fake_run(tmp_path / str(n), rows, updates=n) for n in range(1, 8)]
    axes = Figure().subplots()
    curves.draw_groups(axes, group_runs([seeds, *others]), 4)
    assert axes.get_title() == "CartPole-v1"
    assert "moving average over 4 updates" in axes.get_ylabel()
    labels = [line.get_label() for line in axes.lines]
    assert labels[:2] == [
        "updates 200: mean of 2 seeds, from the lowest to the highest seed",
        "updates 1: seed 0",
    ]
    assert len(axes.collections) == 1  # only several seeds have a band
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == 8


def test_a_single_update_is_visible(tmp_path):
    axes = Figure().subplots()
    runs = [fake_run(tmp_path / str(i), [(10, 1.0)], updates=i) for i in (1, 2)]
    curves.draw_groups(axes, group_runs(runs), 1)
    assert [line.get_marker() for line in axes.lines] == ["o", "o"]


def test_the_command_plots_several_runs_into_a_file_that_must_be_named(tmp_path, capsys):
    rows = [(10, 1.0), (20, 2.0)]
    paths = [str(fake_run(tmp_path / str(i), rows, updates=i)) for i in (1, 2)]
    with pytest.raises(pgjax.ConfigError, match="--out FILE"):
        pgjax.plot(paths)
    out = tmp_path / "all.png"
    app.main(["plot", *paths, "--out", str(out), "--smooth", "2"])
    assert capsys.readouterr().out == f"{out}\n"
    assert out.read_bytes().startswith(b"\x89PNG")
    assert pgjax.plot(paths, tmp_path / "b.png", smooth=2).read_bytes() == out.read_bytes()
    assert pgjax.plot(paths, out).read_bytes() != (tmp_path / "b.png").read_bytes()
