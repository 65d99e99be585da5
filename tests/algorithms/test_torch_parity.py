import numpy as np
import pytest
from conftest import import_with_torch

torch_parity = import_with_torch("torch_parity")


@pytest.mark.parametrize("name", torch_parity.PAIRS)
@pytest.mark.parametrize("dtype", [pytest.param(np.float32, marks=pytest.mark.slow), np.float64])
def test_log_probs_loss_gradients_and_updates_equal_torch(name, dtype):
    gaps = torch_parity.compare(name, dtype)
    bound = torch_parity.BOUNDS[dtype]
    assert gaps["log-probabilities"].relative < bound
    assert gaps["loss"].relative < bound
    assert gaps["gradients"].relative < bound
    # Adam divides by the size of a gradient, which magnifies the rounding of a small one.
    assert gaps[torch_parity.AFTER].relative < 10 * bound
