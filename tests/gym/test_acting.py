"""From the observation of an environment to the action that its step takes."""

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

import pgjax
from pgjax.gym.spaces import observations

KEY = jax.random.key(0)
SEEN = {
    "box": spaces.Box(-1.0, 1.0, (2, 3)),
    "scalar": spaces.Box(-1.0, 1.0, ()),
    "discrete": spaces.Discrete(4, start=2),
    "multi_discrete": spaces.MultiDiscrete([3, 2]),
    "image": spaces.Box(0, 255, (8, 8), np.uint8),
    "dict": spaces.Dict(a=spaces.Box(-1.0, 1.0, (3,)), b=spaces.Discrete(3)),
    "tuple": spaces.Tuple((spaces.Discrete(3), spaces.Dict(c=spaces.MultiBinary(2)))),
}
SENT = {
    "discrete": spaces.Discrete(5, start=-1),
    "box": spaces.Box(-0.5, 0.5, (2, 2)),
    "multi_binary": spaces.MultiBinary(3),
    "dict": spaces.Dict(a=spaces.Box(-1.0, 1.0, (2,)), b=spaces.Discrete(3)),
}


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("sent", SENT)
def test_one_observation_gives_an_action_and_a_batch_gives_a_batch(seen, sent):
    seen, sent = SEEN[seen], SENT[sent]
    policy = pgjax.actions.policy_for(sent, hidden_sizes=(3,))
    encoded = observations(seen)
    params = policy.init(KEY, jnp.zeros(encoded.size))
    act = pgjax.act_in(lambda params, key, obs: policy.apply(params, obs).mode(), seen, sent)
    for n in (1, 2, 3, 5):
        batch = batch_space(seen, n)
        batch.seed(n)
        observed = batch.sample()
        actions = act(params, KEY, observed)
        assert batch_space(sent, n).contains(actions)
        for i, one in enumerate(gym.vector.utils.iterate(batch, observed)):
            action = act(params, KEY, one)
            assert sent.contains(action)
            of_batch = list(gym.vector.utils.iterate(batch_space(sent, n), actions))[i]
            assert jax.tree.all(jax.tree.map(np.allclose, action, of_batch))


def test_actions_follow_from_the_row_and_the_key():
    box, to = spaces.Box(-9.0, 9.0, (2,)), spaces.Box(-1.0, 3.0, (2,))
    act = pgjax.act_in(lambda params, key, obs: params * obs, box, to)
    np.testing.assert_array_equal(act(2.0, KEY, np.array([0.5, 4.0], np.float32)), [1.0, 3.0])
    squashed = pgjax.act_in(lambda params, key, obs: obs, box, to, squash=True)
    expected = -1.0 + 2.0 * (np.tanh([0.5, -1.0]) + 1.0)
    found = squashed(None, KEY, np.array([0.5, -1.0], np.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    coin = pgjax.act_in(
        lambda params, key, obs: jax.random.bernoulli(key, 0.5, (len(obs),)).astype(int),
        box,
        spaces.Discrete(2),
    )
    drawn = [coin(None, jax.random.key(i), np.zeros(2, np.float32)) for i in range(20)]
    assert set(drawn) == {0, 1}
    assert coin(None, KEY, np.zeros(2, np.float32)) == drawn[0]


@pytest.mark.parametrize(
    "obs", [np.zeros(3, np.float32), "left", None, np.zeros((2, 3), np.float32), [[0.0], [1.0]], {}]
)
def test_an_observation_that_does_not_fit_is_refused(obs):
    act = pgjax.act_in(lambda params, key, obs: obs, spaces.Box(-1.0, 1.0, (2,)), SENT["box"])
    with pytest.raises(pgjax.ConfigError, match="the observation"):
        act(None, KEY, obs)
