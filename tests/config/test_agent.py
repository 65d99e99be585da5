import numpy as np

import pgjax
from pgjax.config.agent import make_optimizer


def test_annealing_ends_at_a_learning_rate_of_zero():
    config = pgjax.TrainConfig("CartPole-v1", learning_rate=0.5, anneal_lr=True, updates=4)
    optimizer = make_optimizer(config)
    state, sizes = optimizer.init(np.zeros(1)), []
    for _ in range(5):
        # With the same gradient each time, Adam's step is the rate itself.
        update, state = optimizer.update(np.ones(1), state)
        sizes.append(-float(update[0]))
    np.testing.assert_allclose(sizes, [0.5, 0.375, 0.25, 0.125, 0.0], rtol=1e-4)
