"""The metrics of a run by column, and as CSV."""

import csv
import sys

import numpy as np
import pytest

import pgjax
from pgjax.runs.folder import read_lines

ROWS = [{"update": 1, "mean_return": 2.5}, {"update": 2, "mean_return": 4, "entropy": 0.5}]


def test_columns_hold_one_number_per_update_and_nan_where_there_is_none():
    metrics = pgjax.runs.Metrics(ROWS)
    assert list(metrics) == ["update", "mean_return", "entropy"]
    assert metrics["update"].dtype.kind == "i"
    np.testing.assert_array_equal(metrics["mean_return"], [2.5, 4.0])
    np.testing.assert_array_equal(metrics["entropy"], [np.nan, 0.5])
    assert repr(metrics) == "Metrics of 2 updates: update, mean_return, entropy"
    assert len(pgjax.runs.Metrics([])) == 0


def test_to_pandas_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(pgjax.ConfigError, match="pip install pandas"):
        pgjax.runs.Metrics(ROWS).to_pandas()


def test_to_pandas_passes_the_columns(monkeypatch):
    frames = type("pandas", (), {"DataFrame": dict})
    monkeypatch.setitem(sys.modules, "pandas", frames)
    assert list(pgjax.runs.Metrics(ROWS).to_pandas()["update"]) == [1, 2]


def test_csv_has_a_line_per_update(run_dir, tmp_path):
    out = pgjax.export(run_dir, tmp_path / "new" / "m.csv", format="csv")
    rows = list(csv.DictReader(out.read_text().splitlines()))
    logged = read_lines(run_dir / "metrics.jsonl")
    assert [{k: float(v) for k, v in row.items()} for row in rows] == logged


def test_csv_of_something_else_is_refused(tmp_path):
    with pytest.raises(pgjax.RunError, match="choose a run folder"):
        pgjax.export(tmp_path, format="csv")
    assert not list(tmp_path.iterdir())
