"""Documented fields of the shared types, and the handling of padding and episode ends."""

import re

import numpy as np
import pytest
from conftest import make_rollout

import pgjax
from pgjax import types


@pytest.mark.parametrize("cls", [pgjax.Rollout, pgjax.TrainState, pgjax.Algorithm])
def test_every_field_is_documented(cls):
    for name in cls._fields:
        doc = getattr(cls, name).__doc__
        assert not doc.startswith("Alias for field"), name
        assert doc == doc.strip()
        assert len(doc) > 20


def test_rollout_fields_state_their_shape():
    for name in pgjax.Rollout._fields:
        assert re.match(r"\[T, B(, \.\.\.)?\] ", getattr(pgjax.Rollout, name).__doc__), name


def test_fields_keep_their_default_doc_without_source():
    namespace = {"__name__": "no_such_module", "document": types._document_fields}
    source = """
from typing import NamedTuple
@document
class Point(NamedTuple):
    x: int
    '''Not found.'''
"""
    exec(source, namespace)
    assert namespace["Point"](3).x == 3
    assert namespace["Point"].x.__doc__.startswith("Alias for field")


def test_repeat_first_replaces_only_padded_rows(rng):
    x, real = rng.normal(size=(4, 3, 2)), rng.integers(2, size=(4, 3)).astype(bool)
    real[0] = [False, True, True]
    x = np.where(real[..., None], x, np.nan).astype(np.float32)
    filled = np.asarray(types.repeat_first(real, x))
    np.testing.assert_array_equal(filled[real], x[real])
    np.testing.assert_array_equal(filled[~real], np.broadcast_to(x[0, 1], filled[~real].shape))


def test_segments_end_at_flags_at_gaps_and_with_the_column():
    flags = np.zeros((5, 2), bool)
    terminated, truncated, weight = flags.copy(), flags.copy(), np.ones((5, 2), np.float32)
    terminated[1, 0] = truncated[3, 0] = True
    weight[2:, 1] = 0
    terminated[4, 1] = True  # in the padding
    rollout = pgjax.Rollout(weight, weight, weight, terminated, truncated, weight, weight)
    ends = np.asarray(types.segment_ends(rollout))
    np.testing.assert_array_equal(np.flatnonzero(ends[:, 0]), [1, 3, 4])
    np.testing.assert_array_equal(np.flatnonzero(ends[:, 1]), [1])


@pytest.mark.parametrize("padding", [np.nan, 1e30])
def test_zero_padding_changes_only_padding(rng, padding):
    rollout = make_rollout(rng, [3, 8], padding=padding)
    clean = types.zero_padding(rollout)
    real = rollout.weight > 0
    for before, after in zip(rollout, clean, strict=True):
        np.testing.assert_array_equal(np.asarray(before)[real], np.asarray(after)[real])
        np.testing.assert_array_equal(np.asarray(after)[~real], 0)


@pytest.mark.parametrize(
    ("field", "change", "words"),
    [
        ("reward", lambda x: x.astype(int), "reward must be floating, got int64"),
        ("weight", lambda x: x > 0, "weight must be floating, got bool"),
        ("truncated", lambda x: x.astype(int), "truncated must be bool, got int64"),
        ("next_obs", lambda x: x[..., :3], r"next_obs has shape \(3, 2, 3\), but rollout.obs"),
        ("next_obs", lambda x: x.astype(np.uint8), "next_obs has dtype uint8, .*float32"),
        ("obs", lambda x: {"a": x}, "obs must be one array, got a value of type dict"),
        ("reward", lambda x: x[:0], r"reward has shape \(0, 2\)"),
        ("action", lambda x: x[:, 0], r"action has shape \(3,\).*must be \(3, 2, ...\)"),
    ],
)
def test_a_rollout_is_refused_by_the_name_of_a_field(rng, field, change, words):
    rollout = make_rollout(rng, [3, 2])
    types.check_rollout(rollout)
    with pytest.raises(pgjax.ConfigError, match=words):
        types.check_rollout(rollout._replace(**{field: change(getattr(rollout, field))}))


def test_padding_is_not_cleared_by_a_weight_of_another_shape(rng):
    """It would broadcast: estimators called by hand rely on zero_padding."""
    rollout = make_rollout(rng, [3, 2])
    for weight in (rollout.weight[:, 0], rollout.weight[:, :1], rollout.weight[..., None]):
        for fn in (types.zero_padding, pgjax.advantages.reward_to_go()):
            with pytest.raises(pgjax.ConfigError, match="weight has shape"):
                fn(rollout._replace(weight=weight))
