"""Finite Markov decision processes as tables, and a few small tasks."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pgjax.errors import ConfigError, check_count


class MDP(NamedTuple):
    """A Markov decision process with S states and A actions, as tables.

    Use it for tasks that are small enough to solve exactly; `make_mdp` builds and checks one. An
    episode ends when it enters a terminal state.

    Example:
      >>> from pgjax.envs import tabular
      >>> mdp = tabular.short_corridor()
      >>> mdp.transition.shape, mdp.terminal.tolist()
      ((4, 2, 4), [False, False, False, True])
    """

    transition: np.ndarray
    """[S, A, S] float64: probability of the next state; ignored for terminal states."""

    reward: np.ndarray
    """[S, A, S] float64: reward of each transition."""

    initial: np.ndarray
    """[S] float64: probability of the first state."""

    terminal: np.ndarray
    """[S] bool: whether a state ends the episode."""

    obs: np.ndarray
    """[S, d] float64: what the policy observes in each state."""


def make_mdp(
    transition: ArrayLike,
    reward: ArrayLike,
    *,
    initial: ArrayLike | None = None,
    terminal: ArrayLike | None = None,
    obs: ArrayLike | None = None,
) -> MDP:
    """Build an MDP from its tables and check them.

    Use it for your own task, to compute its exact values and gradients.

    Args:
      transition: probabilities [S, A, S] of the next state; each row sums to 1, except in terminal
        states.
      reward: rewards, broadcastable to [S, A, S].
      initial: probabilities [S] of the first state; by default state 0 is certain.
      terminal: bool [S]; by default no state is terminal.
      obs: observations [S, d]; by default one-hot.

    Returns:
      The MDP, in float64.

    Raises:
      ConfigError: if a shape does not fit, a row is not a distribution, or an episode can start in
        a terminal state.

    Example:
      >>> from pgjax.envs import tabular
      >>> coin = [[[0.5, 0.5]], [[0.0, 1.0]]]  # one action: end the episode with probability 1/2
      >>> mdp = tabular.make_mdp(coin, reward=1.0, terminal=[False, True])
      >>> mdp.obs.tolist()
      [[1.0, 0.0], [0.0, 1.0]]
    """
    transition = np.asarray(transition, np.float64)
    if transition.ndim != 3 or transition.shape[0] != transition.shape[2]:
        raise ConfigError(f"transition must have shape [S, A, S], got {list(transition.shape)}")
    n = len(transition)
    try:
        reward = np.broadcast_to(np.asarray(reward, np.float64), transition.shape)
    except ValueError:
        raise ConfigError(
            f"reward must broadcast to shape {list(transition.shape)}, got {list(np.shape(reward))}"
        ) from None
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
            raise ConfigError(f"each row of {name} must hold probabilities that sum to 1")
    if initial[terminal].any():
        raise ConfigError("an episode cannot begin in a terminal state: set initial to 0 there")
    return MDP(transition, reward, initial, terminal, obs)


def short_corridor() -> MDP:
    """Sutton & Barto's short corridor: three states that look alike, then the goal.

    Use it to show that a stochastic policy can beat every deterministic one. The actions are left
    (0) and right (1), reversed in the second state; each step costs 1. The best policy goes right
    with probability 2 - sqrt(2) = 0.5858, and its value is -(6 + 4 sqrt(2)) = -11.657.

    Returns:
      The MDP, with S = 4 and A = 2; every observation is [1.0].

    Source: Sutton & Barto, 2nd ed., Example 13.1.

    Example:
      >>> from pgjax.envs import tabular
      >>> tabular.short_corridor().obs.tolist()
      [[1.0], [1.0], [1.0], [1.0]]
    """
    transition = np.zeros((4, 2, 4))
    for state, left, right in ((0, 0, 1), (1, 2, 0), (2, 1, 3)):
        transition[state, 0, left] = transition[state, 1, right] = 1.0
    return make_mdp(transition, -1.0, terminal=[False, False, False, True], obs=np.ones((4, 1)))


def two_state_chain(slip: float = 0.2) -> MDP:
    """A chain of two states: stay (0) for a reward of 0.3, or advance (1), which may fail.

    Use it to test time limits: a policy may stay forever. Advancing from the first state pays
    nothing, advancing from the second pays 1 and ends the episode.

    Args:
      slip: probability that advancing fails, from 0 to 1.

    Returns:
      The MDP, with S = 3 and A = 2; the last state is terminal.

    Raises:
      ConfigError: slip is out of range.

    Example:
      >>> from pgjax.envs import tabular
      >>> tabular.two_state_chain(slip=0.25).transition[0, 1].tolist()
      [0.25, 0.75, 0.0]
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
    """Draw a random MDP in which every transition is possible and the last state is terminal.

    Use it to test code on arbitrary tasks. Probabilities are uniform on the simplex (Dirichlet),
    rewards standard normal.

    Args:
      seed: seed of NumPy's random generator.
      num_states: S, at least 2; it includes the terminal state.
      num_actions: A, at least 1.

    Returns:
      The MDP, with one-hot observations.

    Raises:
      ConfigError: num_states or num_actions is out of range.

    Example:
      >>> from pgjax.envs import tabular
      >>> tabular.random_mdp(seed=0, num_states=5).transition.shape
      (5, 2, 5)
    """
    num_actions = check_count("num_actions", num_actions)
    if check_count("num_states", num_states) < 2:
        raise ConfigError("num_states must be at least 2: one of them is terminal")
    rng = np.random.default_rng(seed)
    shape = num_states, num_actions, num_states
    transition, reward = rng.dirichlet(np.ones(num_states), shape[:2]), rng.normal(size=shape)
    initial = np.append(rng.dirichlet(np.ones(num_states - 1)), 0.0)
    return make_mdp(transition, reward, initial=initial, terminal=np.eye(num_states)[-1])


def layered_mdp(seed: int, widths: tuple[int, ...] = (1, 2, 2), num_actions: int = 2) -> MDP:
    """Draw a random layered MDP: every episode ends within len(widths) steps.

    Use it where no time limit may cut off an episode. Each step leads to the next layer or to the
    terminal state.

    Args:
      seed: seed of NumPy's random generator.
      widths: the number of states in each layer, at least 1; at least one layer.
      num_actions: A, at least 1.

    Returns:
      The MDP, with S = sum(widths) + 1 and one-hot observations. The last state is terminal.

    Raises:
      ConfigError: widths or num_actions is out of range.

    Example:
      >>> from pgjax.envs import tabular
      >>> mdp = tabular.layered_mdp(seed=0, widths=(1, 2))
      >>> mdp.initial.tolist(), mdp.terminal.tolist()
      ([1.0, 0.0, 0.0, 0.0], [False, False, False, True])
    """
    widths = tuple(check_count("a width", width) for width in widths)
    if not widths:
        raise ConfigError("widths must have at least one layer")
    num_actions = check_count("num_actions", num_actions)
    rng = np.random.default_rng(seed)
    layer = np.repeat(np.arange(len(widths) + 1), (*widths, 1))  # the last layer is terminal
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
