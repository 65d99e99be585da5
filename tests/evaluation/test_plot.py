import json
import shutil

import pytest
from matplotlib.figure import Figure

import pgjax
from pgjax.cli import app
from pgjax.evaluation import plot
from pgjax.training import verify


@pytest.mark.parametrize("line", ["", "[1]", "null", '{"mean_return": "a"}', "[" * 10**5])
def test_unreadable_metrics_are_reported(line, run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text(line)
    with pytest.raises(pgjax.RunError, match="no readable metrics.jsonl"):
        plot.plot(tmp_path / "run")
    with pytest.raises(pgjax.RunError, match="no readable logs"):
        verify.verify(tmp_path / "run")


def test_plot(run_dir, tmp_path):
    app.main(["plot", str(run_dir), "--out", str(tmp_path / "curve.png")])
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_failed_plot_leaves_no_file(run_dir, tmp_path):
    (tmp_path / "curve.png").mkdir()
    with pytest.raises(pgjax.RunError, match="another --out"):
        plot.plot(run_dir, tmp_path / "curve.png")
    assert [p.name for p in tmp_path.iterdir()] == ["curve.png"]
    assert plot.plot(run_dir, tmp_path / "new" / "curve.png").exists()


def folder_with(run_dir, path, rows):
    """A run folder with the given (environment steps, mean return) of its updates."""
    shutil.copytree(run_dir, path)
    with (path / "metrics.jsonl").open("w") as file:
        for i, (steps, mean) in enumerate(rows):
            row = {"total_env_steps": steps, "mean_return": mean, "total_episodes": 4 * (i + 1)}
            print(json.dumps(row | {"min_return": mean - 1, "max_return": mean + 1}), file=file)
    return path


def test_a_single_update_is_visible(run_dir, tmp_path):
    axes = Figure().subplots()
    plot._draw_run(axes, folder_with(run_dir, tmp_path / "one", [(40, 10.0)]))
    [line] = axes.lines
    assert line.get_marker() == "o"
    assert line.get_xydata().tolist() == [[40.0, 10.0]]
    [segment] = axes.collections[0].get_segments()  # from the worst to the best episode
    assert segment.tolist() == [[40.0, 9.0], [40.0, 11.0]]
    assert plot.plot(tmp_path / "one").exists()


def test_the_curve_of_several_seeds_is_drawn_against_environment_steps(run_dir, tmp_path):
    rows = [(10, 1.0), (30, 5.0), (70, 9.0)], [(20, 3.0), (50, 7.0)]
    folders = [folder_with(run_dir, tmp_path / f"seed-{i}", of) for i, of in enumerate(rows)]
    axes = Figure().subplots()
    plot._draw_seeds(axes, folders)
    *seeds, mean = [line.get_xydata().tolist() for line in axes.lines]
    assert seeds == [[[10, 1], [30, 5], [70, 9]], [[20, 3], [50, 7]]]
    # From the first update of any to the last of the seed that ends first, where the other is
    # halfway between its second and its third.
    assert (mean[0], mean[-1]) == ([10, 2], [50, 7])
    [band] = axes.collections
    assert band.get_paths()[0].get_extents().ymin == 1.0  # the lowest seed, at the start
    assert axes.get_legend_handles_labels()[1] == [
        "each seed",
        "mean of 2 seeds, from the lowest to the highest seed",
    ]
    assert axes.get_xlabel() == "environment steps"
    axes = Figure().subplots()
    folders[1] = folder_with(run_dir, tmp_path / "short", rows[1][:1])
    plot._draw_seeds(axes, folders)
    assert [line.get_marker() for line in axes.lines] == ["None", "o", "None"]
