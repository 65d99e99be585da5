import shutil

import pytest

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
