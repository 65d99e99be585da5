import numpy as np
import pytest
import torch_parity


@pytest.mark.parametrize("name", torch_parity.PAIRS)
@pytest.mark.parametrize("dtype", [pytest.param(np.float32, marks=pytest.mark.slow), np.float64])
def test_log_probs_loss_gradients_and_updates_are_torchs(name, dtype):
    gaps = torch_parity.compare(name, dtype)
    bound = torch_parity.BOUNDS[dtype]
    assert gaps["log-probabilities"].relative < bound
    assert gaps["loss"].relative < bound
    assert gaps["gradients"].relative < bound
    # Adam divides by the size of a gradient, and so makes more of a small one's rounding.
    assert gaps[torch_parity.AFTER].relative < 10 * bound
