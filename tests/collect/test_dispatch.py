import jax
import numpy as np
import optax
import pytest
from conftest import assert_trees_equal, make_rollout

import pgjax
from pgjax import advantages
from pgjax.collect import dispatch

OBS = np.zeros(4, np.float32)


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        pytest.param(pgjax.SoftmaxPolicy(2, (8,)), {}, marks=pytest.mark.slow),
        pytest.param(
            pgjax.SoftmaxPolicy(2, (8,)),
            {"chunk_size": None, "entropy_coef": 0.01},
            marks=pytest.mark.slow,
        ),
        (
            pgjax.GaussianPolicy(2, (8,)),
            {"critic": pgjax.ValueNetwork((8,)), "estimator": advantages.gae(0.9, 0.9)},
        ),
    ],
)
def test_updater_is_bit_identical_to_the_algorithms_update(rng, policy, options):
    algorithm = pgjax.reinforce(policy, optax.adam(0.01), **options)
    gaussian = isinstance(policy, pgjax.GaussianPolicy)
    action = (lambda shape: rng.normal(size=(*shape, 2))) if gaussian else None
    state = algorithm.init(jax.random.key(0), OBS)
    rollout = make_rollout(rng, [13, 16, 4, 9] * 3, action=action)
    expected, info = algorithm.update(state, rollout)
    new_state, values = dispatch.updater(algorithm.update)(state, rollout)
    assert_trees_equal(new_state, expected)
    assert list(values) == sorted(info)
    for name, value in values.items():
        assert type(value) is (int if name in ("episodes", "env_steps") else float)
        # Metrics are compiled together with other code, which may change their last bit.
        np.testing.assert_allclose(value, info[name], rtol=1e-6, err_msg=name)
