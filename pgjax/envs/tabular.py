"""Finite Markov decision processes that are small enough to solve exactly.

An `MDP` is a set of tables. With a policy, given as a table pi [S, A] of action probabilities, its
exact value is the solution of a linear system, which `jax.grad` differentiates. All its
trajectories up to a horizon can be listed, so that an expectation is a finite sum. `as_env`
converts it to a functional environment to train on.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from pgjax.envs.base import Box, Discrete, Env, Step
from pgjax.envs.mdp import MDP, layered_mdp, make_mdp, random_mdp, short_corridor, two_state_chain
from pgjax.envs.wrappers import time_limit
from pgjax.errors import ConfigError, check_count
from pgjax.types import Module, Params, Rollout

__all__ = [
    "MDP",
    "Trajectories",
    "action_probabilities",
    "as_env",
    "layered_mdp",
    "make_mdp",
    "objective",
    "occupancies",
    "random_mdp",
    "short_corridor",
    "state_values",
    "trajectories",
    "truncated_objective",
    "two_state_chain",
    "visits",
]

_MAX_TRAJECTORIES = 2**17  # listing and summing more would take too long


class Trajectories(NamedTuple):
    """All trajectories of an MDP, as columns of one Rollout.

    Use `trajectories` to list them.

    Example:
      >>> from pgjax.envs import tabular
      >>> listed = tabular.trajectories(tabular.short_corridor(), horizon=3)
      >>> listed.rollout.reward.shape, listed.probability.shape
      ((3, 8), (8,))
    """

    rollout: Rollout
    """[T, N, ...]: column n is trajectory n, padded with weight 0 after its end."""

    probability: np.ndarray
    """[N] float64: the environment's factor of the probability of each trajectory.

    The policy's factor is the exponential of the sum of its log-probabilities.
    """


def as_env(mdp: MDP, max_episode_steps: int | None = None) -> Env:
    """Convert an MDP to a functional environment.

    Use it to train on an MDP, or to compare sampled returns with exact values.

    Args:
      mdp: a finite MDP.
      max_episode_steps: a time limit in steps, at least 1; by default none.

    Returns:
      A functional environment whose state is the index of the MDP's state.

    Raises:
      ConfigError: if the limit is out of range.

    Example:
      >>> import jax
      >>> from pgjax.envs import tabular
      >>> env = tabular.as_env(tabular.short_corridor(), max_episode_steps=10)
      >>> key = jax.random.key(0)
      >>> state, obs = env.reset(key)
      >>> state, obs, reward, terminated, truncated = jax.jit(env.step)(key, state, 0)
      >>> obs.tolist(), float(reward), bool(terminated), bool(truncated)
      ([1.0], -1.0, False, False)
    """
    initial, transition = jnp.asarray(mdp.initial), jnp.asarray(mdp.transition)
    reward, obs, terminal = map(jnp.asarray, (mdp.reward, mdp.obs, mdp.terminal))

    def reset(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = jax.random.categorical(key, jnp.log(initial))
        return state, obs[state]

    def step(key: jax.Array, state: jax.Array, action: jax.Array) -> Step:
        after = jax.random.categorical(key, jnp.log(transition[state, action]))
        over = terminal[after]
        return after, obs[after], reward[state, action, after], over, jnp.zeros_like(over)

    low, high = mdp.obs.min(0), mdp.obs.max(0)
    space = Box(low, high, low.shape, obs.dtype)
    env = Env(reset, step, space, Discrete(mdp.transition.shape[1]))
    return env if max_episode_steps is None else time_limit(env, max_episode_steps)


def action_probabilities(mdp: MDP, policy: Module, params: Params) -> jax.Array:
    """Compute the table of a policy: the probability of each action in each state.

    Use it to evaluate a network exactly. Differentiable with respect to `params`.

    Args:
      mdp: a finite MDP.
      policy: a Flax module; policy.apply(params, obs) is a distribution over integer actions.
      params: its variables.

    Returns:
      pi [S, A] float.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import pgjax
      >>> from pgjax.envs import tabular
      >>> mdp = tabular.short_corridor()
      >>> policy = pgjax.SoftmaxPolicy(num_actions=2, hidden_sizes=())
      >>> params = policy.init(jax.random.key(0), jnp.ones(1))
      >>> pi = tabular.action_probabilities(mdp, policy, params)
      >>> pi.shape, jnp.round(pi.sum(1)).tolist()
      ((4, 2), [1.0, 1.0, 1.0, 1.0])
    """
    distribution: Any = policy.apply(params, jnp.asarray(mdp.obs))
    actions = jnp.arange(mdp.transition.shape[1])
    every = jnp.broadcast_to(actions[:, None], (len(actions), len(mdp.obs)))
    return jnp.exp(jax.vmap(distribution.log_prob)(every)).T


def state_values(mdp: MDP, pi: ArrayLike, gamma: float = 1.0) -> jax.Array:
    """Compute the values of a policy by solving v = r + gamma P v.

    Use it to know what a critic should learn. Differentiable with respect to `pi`.

    Args:
      mdp: a finite MDP.
      pi: action probabilities [S, A].
      gamma: discount, from 0 to 1. With 1, values are infinite or NaN if an episode may never end.

    Returns:
      v [S] float, 0 in terminal states.

    Source: Sutton & Barto, 2nd ed., eq. 4.4.

    Example:
      >>> import jax.numpy as jnp
      >>> from pgjax.envs import tabular
      >>> values = tabular.state_values(tabular.short_corridor(), jnp.full((4, 2), 0.5))
      >>> jnp.round(values[:3]).tolist()
      [-12.0, -10.0, -6.0]
    """
    p, r = _under(mdp, pi)
    return jnp.linalg.solve(jnp.eye(len(r)) - gamma * p, r)


def objective(mdp: MDP, pi: ArrayLike, gamma: float = 1.0) -> jax.Array:
    """Compute the expected discounted return of an episode without a time limit.

    Use it with `jax.grad` for the exact policy gradient.

    Args:
      mdp: a finite MDP.
      pi: action probabilities [S, A].
      gamma: discount, from 0 to 1; see `state_values`.

    Returns:
      J [] float.

    Example:
      >>> import jax.numpy as jnp
      >>> from pgjax.envs import tabular
      >>> round(float(tabular.objective(tabular.short_corridor(), jnp.full((4, 2), 0.5))), 3)
      -12.0
    """
    return jnp.asarray(mdp.initial) @ state_values(mdp, pi, gamma)


def visits(mdp: MDP, pi: ArrayLike, gamma: float = 1.0) -> jax.Array:
    """Compute the expected number of steps that act in each state, discounted by gamma^t.

    Use it to weight states as the policy gradient theorem does.

    Args:
      mdp: a finite MDP.
      pi: action probabilities [S, A].
      gamma: discount, from 0 to 1; see `state_values`.

    Returns:
      Counts [S] float, 0 in terminal states.

    Source: Sutton & Barto, 2nd ed., eq. 9.2.

    Example:
      >>> import jax.numpy as jnp
      >>> from pgjax.envs import tabular
      >>> counts = tabular.visits(tabular.short_corridor(), jnp.full((4, 2), 0.5))
      >>> jnp.round(counts[:3]).tolist()
      [6.0, 4.0, 2.0]
    """
    p, _ = _under(mdp, pi)
    return jnp.linalg.solve(jnp.eye(len(p)) - gamma * p.T, jnp.asarray(mdp.initial))


def occupancies(mdp: MDP, pi: ArrayLike, horizon: int) -> jax.Array:
    """Compute the probability of acting in each state at each time step.

    Use it for exact expectations under a time limit.

    Args:
      mdp: a finite MDP.
      pi: action probabilities [S, A].
      horizon: number of steps, at least 1.

    Returns:
      Probabilities [horizon, S] float. A row sums to less than 1 where episodes have ended.

    Raises:
      ConfigError: horizon is not an integer of at least 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from pgjax.envs import tabular
      >>> tabular.occupancies(tabular.short_corridor(), jnp.full((4, 2), 0.5), horizon=2).tolist()
      [[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]]
    """
    horizon = check_count("horizon", horizon)
    p, _ = _under(mdp, pi)
    steps = [jnp.asarray(mdp.initial)]
    for _ in range(horizon - 1):
        steps.append(steps[-1] @ p)
    return jnp.stack(steps)


def truncated_objective(mdp: MDP, pi: ArrayLike, gamma: float, horizon: int) -> jax.Array:
    """Compute the expected discounted return of the first steps of an episode.

    Use it in place of `objective` where a time limit truncates episodes.

    Args:
      mdp: a finite MDP.
      pi: action probabilities [S, A].
      gamma: discount, from 0 to 1.
      horizon: number of steps, at least 1.

    Returns:
      J [] float.

    Raises:
      ConfigError: horizon is not an integer of at least 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from pgjax.envs import tabular
      >>> mdp, pi = tabular.short_corridor(), jnp.full((4, 2), 0.5)
      >>> float(tabular.truncated_objective(mdp, pi, gamma=1.0, horizon=2))
      -2.0
    """
    horizon = check_count("horizon", horizon)
    _, r = _under(mdp, pi)
    return jnp.power(gamma, jnp.arange(horizon)) @ (occupancies(mdp, pi, horizon) @ r)


def _under(mdp: MDP, pi: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Return transitions [S, S] among states that are not terminal, and expected rewards [S]."""
    pi = jnp.asarray(pi)
    live = jnp.asarray(~mdp.terminal, pi.dtype)
    p = jnp.einsum("s,sa,sat->st", live, pi, jnp.asarray(mdp.transition))
    r = jnp.einsum("s,sa,sat,sat->s", live, pi, jnp.asarray(mdp.transition), mdp.reward)
    return p * live[None], r


def trajectories(mdp: MDP, horizon: int) -> Trajectories:
    """List every trajectory that a policy may take, truncated after `horizon` steps.

    Use it for expectations without sampling: weight column n by probability[n] times the policy's
    probability of its actions.

    Args:
      mdp: a finite MDP.
      horizon: number of steps, at least 1.

    Returns:
      All N trajectories and their probabilities.

    Raises:
      ConfigError: horizon is not an integer of at least 1, or there are more than 2**17
        trajectories.

    Example:
      >>> from pgjax.envs import tabular
      >>> rollout, probability = tabular.trajectories(tabular.short_corridor(), horizon=2)
      >>> rollout.action.T.tolist()
      [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    horizon = check_count("horizon", horizon)
    ongoing: list[Any] = [(mdp.initial[s], s, ()) for s in np.flatnonzero(mdp.initial)]
    ended: list[Any] = []
    for time in range(horizon):
        longer: list[Any] = []
        for probability, state, steps in ongoing:
            for action, after in np.argwhere(mdp.transition[state] > 0):
                chance = probability * mdp.transition[state, action, after]
                grown = chance, after, (*steps, (state, action, after))
                last = mdp.terminal[after] or time == horizon - 1
                (ended if last else longer).append(grown)
        ongoing = longer
        if len(ended) + len(ongoing) > _MAX_TRAJECTORIES:
            raise ConfigError(f"more than {_MAX_TRAJECTORIES} trajectories: shorten the horizon")
    rollout = _columns(mdp, horizon, [steps for _, _, steps in ended])
    return Trajectories(rollout, np.array([probability for probability, _, _ in ended]))


def _columns(mdp: MDP, horizon: int, episodes: list[Any]) -> Rollout:
    """Stack episodes of (state, action, next state) as columns of a rollout."""
    lengths = np.array([len(steps) for steps in episodes])
    table = np.zeros((3, horizon, len(episodes)), int)
    for column, steps in enumerate(episodes):
        table[:, : len(steps), column] = np.transpose(steps)
    state, action, after = table
    time = np.arange(horizon)[:, None]
    real, last = time < lengths, time == lengths - 1
    terminated = last & mdp.terminal[after]
    reward = np.where(real, mdp.reward[state, action, after], 0.0)
    truncated, weight = last & ~terminated, real.astype(np.float64)
    leaves = (mdp.obs[state], action, reward, terminated, truncated, mdp.obs[after], weight)
    return Rollout._make(leaves)
