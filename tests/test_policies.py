"""Sizes of networks are counts."""

import jax
import numpy as np
import pytest

import pgjax

OBS = np.zeros(4, np.float32)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (pgjax.SoftmaxPolicy(True), "num_actions must be an integer"),
        (pgjax.SoftmaxPolicy(2.0), "num_actions"),
        (pgjax.SoftmaxPolicy(2, (4, True)), "a hidden size .* got True"),
        (pgjax.SoftmaxPolicy(2, 16), r"hidden_sizes must be a tuple such as \(16, 16\)"),
        (pgjax.GaussianPolicy(0), "action_dim"),
        (pgjax.GaussianPolicy(1, init_std=0.0), "init_std must be finite and above 0, got 0.0"),
        (pgjax.GaussianPolicy(1, init_std=float("nan")), "init_std must be finite"),
        (pgjax.LessonGaussianPolicy(True), "action_dim"),
        (pgjax.MultiSoftmaxPolicy((2, True)), "nvec"),
        (pgjax.BernoulliPolicy(False), "num_coins"),
        (pgjax.ValueNetwork((True,)), "a hidden size"),
        (pgjax.JointPolicy((pgjax.SoftmaxPolicy(2, ()),), (0,)), "a hidden size"),
    ],
)
def test_sizes_must_be_counts(policy, words):
    with pytest.raises(pgjax.ConfigError, match=words):
        jax.eval_shape(policy.init, jax.random.key(0), OBS)


def test_numpy_integers_are_sizes():
    policy = pgjax.SoftmaxPolicy(np.int64(3), (np.int32(5),))
    params = jax.eval_shape(policy.init, jax.random.key(0), OBS)["params"]
    assert params["Dense_0"]["kernel"].shape == (4, 5)
    assert params["Dense_1"]["kernel"].shape == (5, 3)
