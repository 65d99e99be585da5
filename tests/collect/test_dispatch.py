import jax
import numpy as np
import optax
import pytest
from conftest import assert_trees_equal, make_rollout

import pgjax
from pgjax import advantages
from pgjax.collect import dispatch
from pgjax.collect.packing import lay_out, split
from pgjax.numerics import xla

OBS = np.zeros(4, np.float32)


def test_arrays_of_one_dtype_lie_side_by_side():
    layout = lay_out([((2,), np.float32), ((), np.uint32), ((1, 3), np.float32)])
    assert layout.widths == (5, 1)
    floats, ints = np.arange(10, dtype=np.float32).reshape(2, 5), np.array([[7], [8]], np.uint32)
    first, second, third = split(layout, [floats, ints])
    np.testing.assert_array_equal(first, [[0, 1], [5, 6]])
    np.testing.assert_array_equal(second, [7, 8])
    np.testing.assert_array_equal(third, [[[2, 3, 4]], [[7, 8, 9]]])


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
def test_the_loops_update_is_the_algorithms_to_the_bit(rng, policy, options):
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
        # Numbers for people: what is compiled beside them may round their last bit otherwise.
        np.testing.assert_allclose(value, info[name], rtol=1e-6, err_msg=name)


def test_an_xla_without_an_option_is_left_as_it_is():
    with_it = xla.cpu_options(xla_backend_optimization_level="1")
    assert with_it == {"xla_backend_optimization_level": "1"}
    assert xla.cpu_options(xla_backend_optimization_level="1", no_such_option=True) == {}
