"""Finite Markov decision processes, small enough for everything about them to be exact.

An `MDP` is a few tables. From them, and a policy as a table pi [S, A], come its value, by solving a
linear system, and so its gradient, by `jax.grad` of that; and all trajectories up to a horizon, so
that an expectation is a finite sum. `as_env` makes it a functional environment to train on.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pgjax.envs import base
from pgjax.errors import ConfigError
from pgjax.types import Params, Rollout

_MOST = 2**17  # trajectories: beyond that they are not few enough to sum over


class MDP(NamedTuple):
    """S states and A actions. An episode ends when it enters a terminal state."""

    transition: np.ndarray  # [S, A, S] probability of the next state; ignored for terminal states
    reward: np.ndarray  # [S, A, S] on the way to the next state
    initial: np.ndarray  # [S] probability of the first state
    terminal: np.ndarray  # [S] bool
    obs: np.ndarray  # [S, d] what a policy sees of a state


class Trajectories(NamedTuple):
    """Ways that episodes can go, as columns of one Rollout."""

    rollout: Rollout  # [T, N, ...]
    probability: np.ndarray  # [N] the environment's part: the policy's is exp(sum of log_prob)


def make_mdp(
    transition: Any, reward: Any, *, initial: Any = None, terminal: Any = None, obs: Any = None
) -> MDP:
    """An MDP from its tables, checked.

    Args:
      transition: [S, A, S] float, each row of a state that is not terminal a distribution.
      reward: broadcastable to [S, A, S].
      initial: [S], a distribution; by default all in state 0.
      terminal: [S] bool; by default none.
      obs: [S, d] float; by default one-hot.

    Raises:
      ConfigError: for shapes that do not fit, or rows that are not distributions.
    """
    transition = np.asarray(transition, np.float64)
    if transition.ndim != 3 or transition.shape[0] != transition.shape[2]:
        raise ConfigError(f"transition must have shape [S, A, S], got {list(transition.shape)}")
    n = len(transition)
    try:
        reward = np.broadcast_to(np.asarray(reward, np.float64), transition.shape)
    except ValueError:
        raise ConfigError(f"reward {np.shape(reward)} does not fit {transition.shape}") from None
    initial = np.eye(n)[0] if initial is None else np.asarray(initial, np.float64)
    terminal = np.zeros(n, bool) if terminal is None else np.asarray(terminal, bool)
    obs = np.eye(n) if obs is None else np.asarray(obs, np.float64)
    for name, table, shape in (
        ("initial", initial, (n,)),
        ("terminal", terminal, (n,)),
        ("obs", obs, (n, *obs.shape[-1:])),
    ):
        if table.shape != shape:
            raise ConfigError(f"{name} must have shape {list(shape)}, got {list(table.shape)}")
    for name, rows in (("transition", transition[~terminal]), ("initial", initial)):
        if (rows < 0).any() or not np.allclose(rows.sum(-1), 1, rtol=0, atol=1e-12):
            raise ConfigError(f"the rows of {name} must be probabilities that sum to 1")
    if initial[terminal].any():
        raise ConfigError("an episode cannot begin in a terminal state")
    return MDP(transition, reward, initial, terminal, obs)


def short_corridor() -> MDP:
    """Three states in a row that look alike, -1 a step, left (0) and right (1); the goal is beyond.

    In the second the actions are reversed. The best policy goes right with probability
    2 - sqrt(2) = 0.5858, worth -(6 + 4 sqrt(2)) = -11.657.

    Source: Sutton & Barto, 2nd ed., Example 13.1.
    """
    transition = np.zeros((4, 2, 4))
    for state, left, right in ((0, 0, 1), (1, 2, 0), (2, 1, 3)):
        transition[state, 0, left] = transition[state, 1, right] = 1.0
    return make_mdp(transition, -1.0, terminal=[False, False, False, True], obs=np.ones((4, 1)))


def two_state_chain(slip: float = 0.2) -> MDP:
    """Stay (0) for 0.3, or go on (1) for nothing, which slips; 1 for leaving the second state.

    No policy has to come to the end: time limits matter.
    """
    transition = np.zeros((3, 2, 3))
    for state in (0, 1):
        transition[state, 0, state] = 1.0
        transition[state, 1, [state, state + 1]] = slip, 1 - slip
    reward = np.zeros((3, 2, 3))
    reward[[0, 1], 0, [0, 1]] = 0.3
    reward[1, 1, 2] = 1.0
    return make_mdp(transition, reward, terminal=[False, False, True])


def random_mdp(seed: int, num_states: int = 3, num_actions: int = 2) -> MDP:
    """Dense random transitions among states of which the last is terminal, and normal rewards."""
    rng = np.random.default_rng(seed)
    shape = num_states, num_actions, num_states
    transition, reward = rng.dirichlet(np.ones(num_states), shape[:2]), rng.normal(size=shape)
    initial = np.append(rng.dirichlet(np.ones(num_states - 1)), 0.0)
    return make_mdp(transition, reward, initial=initial, terminal=np.eye(num_states)[-1])


def layered_mdp(seed: int, widths: tuple[int, ...] = (1, 2, 2), num_actions: int = 2) -> MDP:
    """As random_mdp, but each step leads to the next layer, or to the end: every episode ends.

    At the latest after len(widths) steps, so that no horizon cuts anything off.
    """
    rng = np.random.default_rng(seed)
    layer = np.repeat(np.arange(len(widths) + 1), (*widths, 1))  # the end is a layer of its own
    end = layer == len(widths)
    weight = rng.gamma(1.0, size=(len(layer), num_actions, len(layer)))
    weight = weight * ((layer == layer[:, None] + 1) | end)[:, None]
    initial = np.where(layer == 0, rng.gamma(1.0, size=len(layer)), 0.0)
    return make_mdp(
        weight / weight.sum(-1, keepdims=True),
        rng.normal(size=weight.shape),
        initial=initial / initial.sum(),
        terminal=end,
    )


def as_env(mdp: MDP, max_episode_steps: int | None = None) -> base.Env:
    """A functional environment (see pgjax.envs); with a time limit where one is given."""
    initial, transition = jnp.asarray(mdp.initial), jnp.asarray(mdp.transition)
    reward, obs, terminal = map(jnp.asarray, (mdp.reward, mdp.obs, mdp.terminal))

    def reset(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = jax.random.categorical(key, jnp.log(initial))
        return state, obs[state]

    def step(key: jax.Array, state: jax.Array, action: jax.Array) -> base.Step:
        after = jax.random.categorical(key, jnp.log(transition[state, action]))
        over = terminal[after]
        return after, obs[after], reward[state, action, after], over, jnp.zeros_like(over)

    low, high = mdp.obs.min(0), mdp.obs.max(0)
    seen = base.Box(low, high, low.shape, obs.dtype)
    env = base.Env(reset, step, seen, base.Discrete(mdp.transition.shape[1]))
    return env if max_episode_steps is None else base.time_limit(env, max_episode_steps)


def action_probabilities(mdp: MDP, policy: Any, params: Params) -> jax.Array:
    """The table pi [S, A] of what a policy over integer actions does in each state."""
    distribution = policy.apply(params, jnp.asarray(mdp.obs))
    actions = jnp.arange(mdp.transition.shape[1])
    every = jnp.broadcast_to(actions[:, None], (len(actions), len(mdp.obs)))
    return jnp.exp(jax.vmap(distribution.log_prob)(every)).T


def state_values(mdp: MDP, pi: jax.Array, gamma: float = 1.0) -> jax.Array:
    """Values [S] of a policy pi [S, A], solving v = r + gamma P v; 0 in terminal states.

    With gamma = 1 infinite or NaN for a policy that may never come to an end.

    Source: Sutton & Barto, 2nd ed., eq. 4.4.
    """
    p, r = _under(mdp, pi)
    return jnp.linalg.solve(jnp.eye(len(r)) - gamma * p, r)


def objective(mdp: MDP, pi: jax.Array, gamma: float = 1.0) -> jax.Array:
    """J []: the expected discounted return of an episode, without any time limit."""
    return jnp.asarray(mdp.initial) @ state_values(mdp, pi, gamma)


def visits(mdp: MDP, pi: jax.Array, gamma: float = 1.0) -> jax.Array:
    """[S]: how often an episode acts in each state, step t counting gamma^t.

    Source: Sutton & Barto, 2nd ed., eq. 9.2.
    """
    p, _ = _under(mdp, pi)
    return jnp.linalg.solve(jnp.eye(len(p)) - gamma * p.T, jnp.asarray(mdp.initial))


def occupancies(mdp: MDP, pi: jax.Array, horizon: int) -> jax.Array:
    """[horizon, S]: the probability of acting in each state at each time."""
    p, _ = _under(mdp, pi)
    steps = [jnp.asarray(mdp.initial)]
    for _ in range(horizon - 1):
        steps.append(steps[-1] @ p)
    return jnp.stack(steps)


def truncated_objective(mdp: MDP, pi: jax.Array, gamma: float, horizon: int) -> jax.Array:
    """J []: the expected discounted return of the first `horizon` steps of an episode."""
    _, r = _under(mdp, pi)
    return jnp.power(gamma, jnp.arange(horizon)) @ (occupancies(mdp, pi, horizon) @ r)


def _under(mdp: MDP, pi: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Transitions [S, S] among states that are not terminal, and expected rewards [S]."""
    live = jnp.asarray(~mdp.terminal, pi.dtype)
    p = jnp.einsum("s,sa,sat->st", live, pi, jnp.asarray(mdp.transition))
    r = jnp.einsum("s,sa,sat,sat->s", live, pi, jnp.asarray(mdp.transition), mdp.reward)
    return p * live[None], r


def trajectories(mdp: MDP, horizon: int) -> Trajectories:
    """Every trajectory that some policy may take, truncated after `horizon` steps.

    Raises:
      ConfigError: if they are more than 2**17.
    """
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
        if len(ended) + len(ongoing) > _MOST:
            raise ConfigError(f"more than {_MOST} trajectories: shorten the horizon")
    rollout = _columns(mdp, horizon, [steps for _, _, steps in ended])
    return Trajectories(rollout, np.array([probability for probability, _, _ in ended]))


def _columns(mdp: MDP, horizon: int, episodes: list[Any]) -> Rollout:
    """Episodes of (state, action, next state) side by side."""
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
