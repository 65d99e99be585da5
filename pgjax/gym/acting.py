"""Act in an environment: from its observation to the action that its `step` takes."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import jax
import numpy as np
from gymnasium.vector.utils import batch_space, iterate

from pgjax.errors import ConfigError
from pgjax.gym.actions import actions
from pgjax.gym.spaces import observations
from pgjax.types import Params

Act = Callable[[Params, jax.Array, Any], Any]


def act_in(
    act: Act, observation_space: gym.Space, action_space: gym.Space, *, squash: bool = False
) -> Act:
    """Return an `act` that takes what an environment returns and returns what its `step` takes.

    Use it to run a policy in a loop of your own. It encodes observations, calls `act` (compiled),
    and maps raw actions to the action space. For one observation it returns one action; for the
    batch of a VectorEnv, the batch of actions.

    Args:
      act: (params, key, obs [n, d]) -> raw actions [n, ...], such as `algorithm.act`.
      observation_space, action_space: those of one environment (`env.single_observation_space` of
        a VectorEnv).
      squash: as for `pgjax.actions.actions`.

    Returns:
      (params, key, observation) -> action. It raises ConfigError for an observation that is neither
      in the space nor a batch.

    Raises:
      SpaceError: for spaces that are not supported.

    Example:
      >>> import gymnasium as gym, jax, numpy as np, optax, pgjax
      >>> env = gym.make("CartPole-v1")
      >>> algorithm = pgjax.reinforce(pgjax.SoftmaxPolicy(num_actions=2), optax.adam(0.01))
      >>> state = algorithm.init(jax.random.key(0), np.zeros(4, np.float32))
      >>> act = pgjax.act_in(algorithm.act, env.observation_space, env.action_space)
      >>> obs, _ = env.reset(seed=0)
      >>> act(state.params, jax.random.key(1), obs) in (0, 1)
      True
    """
    seen, sent = observations(observation_space), actions(action_space, squash)
    compiled = jax.jit(act)

    def act_in_env(params: Params, key: jax.Array, obs: Any) -> Any:
        rows, single = _rows(observation_space, seen.encode, obs)
        # A power of two, at least two rows: few shapes to compile, and one row rounds differently.
        width = max(2, 1 << (len(rows) - 1).bit_length())
        padded = np.concatenate([rows, np.repeat(rows[-1:], width - len(rows), axis=0)])
        raw = np.asarray(compiled(params, key, padded))[: len(rows)]
        return sent.send(raw)[0] if single else sent.send_batch(raw)

    return act_in_env


def _rows(
    space: gym.Space, encode: Callable[[Any], np.ndarray], obs: Any
) -> tuple[np.ndarray, bool]:
    """Encode one observation or a batch as rows [n, d], and say whether it was one."""
    try:
        return encode(obs)[None], True
    except ValueError as of_one:
        try:
            n = len(jax.tree.leaves(obs)[0])
            rows = [encode(one) for one in iterate(batch_space(space, n), obs)]
            return np.stack(rows), False
        except (ValueError, TypeError, KeyError, IndexError, StopIteration):
            raise ConfigError(f"{of_one}; nor is it a batch of observations") from None
