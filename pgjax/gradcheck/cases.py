"""The cases that `gradcheck` compares: estimators, and their exact expected gradients.

The expected gradient of an estimator is written as a loss: a function of the parameters whose
gradient is the expectation of the gradient of `Algorithm.loss`, as documented. These losses are
computed from the tables of an MDP, by linear systems, and share no code with the estimators.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from pgjax.advantages import (
    Estimator,
    gae,
    group_normalized,
    leave_one_out,
    normalized,
    reward_to_go,
    time_discounted,
)
from pgjax.envs import tabular
from pgjax.envs.tabular import MDP, Trajectories
from pgjax.policies import GaussianPolicy, SoftmaxPolicy, ValueNetwork
from pgjax.types import Algorithm, Params, Rollout

GAMMA = 0.9  # discount of all cases
VALUE_COEF = 0.5  # the default of `reinforce`
CRITIC = ValueNetwork((4,))

Loss = Callable[[Params], jax.Array]  # params -> []


class Task(NamedTuple):
    """A policy, all trajectories that it can take, and its exact objective.

    Use the tasks of `CASES`, or make one from a small MDP.

    Example:
      >>> import pgjax
      >>> from pgjax.envs import tabular
      >>> from pgjax.gradcheck import Task
      >>> mdp, policy = tabular.layered_mdp(seed=0), pgjax.SoftmaxPolicy(num_actions=2)
      >>> def objective(params):
      ...     return tabular.objective(mdp, tabular.action_probabilities(mdp, policy, params), 0.9)
      >>> task = Task("layers", policy, tabular.trajectories(mdp, horizon=3), objective)
      >>> task.trajectories.rollout.reward.shape  # 3 steps, 42 trajectories
      (3, 42)
    """

    name: str
    policy: nn.Module
    trajectories: Trajectories
    objective: Loss  # J(params), exact


class Case(NamedTuple):
    """An estimator, and the gradient that it is documented to have in expectation.

    Use it to check an estimator of your own with `check`.

    Example:
      A case that claims the gradient of J for `reward_to_go`; `check([case])` refutes it:

      >>> import pgjax
      >>> from pgjax.gradcheck import CASES, Case
      >>> estimator = pgjax.advantages.reward_to_go(gamma=0.9)
      >>> case = Case(CASES[0].task, "mine", estimator, "grad J", CASES[0].expected_loss)
      >>> case.critic, case.num_episodes
      (False, 2)
    """

    task: Task
    name: str  # of the estimator, for tables
    estimator: Estimator
    meaning: str  # of the expected gradient, for tables
    expected_loss: Loss  # its gradient is the expected gradient of Algorithm.loss
    critic: bool = False  # whether CRITIC is used; the estimator must then declare a value_target
    num_episodes: int = 2  # per batch
    make: Callable[..., Algorithm] | None = None  # of the algorithm; None: what `check` is given


def expected_loss(
    mdp: MDP,
    policy: nn.Module,
    horizon: int,
    *,
    lambda_: float = 1.0,
    critic: nn.Module | None = None,
    gamma: float = GAMMA,
) -> Loss:
    """Loss whose gradient is the expected one of time_discounted(gae(gamma, lambda_)).

    Use it as `expected_loss` of a Case. With lambda_=1 it is also that of
    time_discounted(reward_to_go(gamma)), with or without a critic. The expected advantage of action
    a in state s at time t is

      A_t(s, a) = E[r + gamma V(s') - V(s) + gamma lambda sum_a' pi(a' | s') A_{t+1}(s', a')],

    where V and A are 0 in terminal states, A is 0 after the horizon, and V is the critic, right or
    wrong, or 0 without one. The gradient is -sum_t gamma^t sum_s d_t(s) sum_a grad pi A_t, where
    d_t is the distribution of states at time t. The critic's gradient is that of its squared
    distance from V + A.

    Args:
      mdp: the MDP.
      policy: a policy over the actions of the MDP.
      horizon: steps after which episodes are truncated, at least 1.
      lambda_: λ in [0, 1].
      critic: the critic, or None.
      gamma: discount in [0, 1].

    Returns:
      A function: parameters -> loss [].

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import pgjax
      >>> from pgjax.envs import tabular
      >>> from pgjax.gradcheck.cases import expected_loss
      >>> mdp, policy = tabular.two_state_chain(), pgjax.SoftmaxPolicy(2, hidden_sizes=())
      >>> loss = expected_loss(mdp, policy, horizon=3)
      >>> params = policy.init(jax.random.key(0), jnp.asarray(mdp.obs))
      >>> gradient = jax.jit(jax.grad(loss))(params)
      >>> [x.shape for x in jax.tree.leaves(gradient)]
      [(2,), (3, 2)]
    """

    def loss(params: Params) -> jax.Array:
        pi = tabular.action_probabilities(mdp, policy, params)
        fixed, seen = jax.lax.stop_gradient((pi, tabular.occupancies(mdp, pi, horizon)))
        value = jnp.zeros(len(seen[0]))
        if critic is not None:
            # V of a terminal state must never be used: it counts as 0.
            value = _value(critic, params, mdp)
        known = jax.lax.stop_gradient(value)
        after = jnp.zeros_like(known)  # sum_a' pi A
        total = jnp.zeros(())
        for t in reversed(range(horizon)):
            gain = mdp.reward + (gamma * known + gamma * lambda_ * after)[None, None]
            advantage = (mdp.transition * gain).sum(-1) - known[:, None]
            expected = jnp.where(mdp.terminal, 0.0, (fixed * advantage).sum(-1))
            total -= gamma**t * seen[t] @ (pi * advantage).sum(-1)
            if critic is not None:
                total += VALUE_COEF * seen[t] @ (0.5 * (value - known - expected) ** 2)
            after = expected
        return total

    return loss


def _value(critic: nn.Module, params: Params, mdp: MDP) -> jax.Array:
    """V of each state [S], 0 in terminal states."""
    value: Any = critic.apply({"params": params["critic"]}, jnp.asarray(mdp.obs))
    return jnp.where(mdp.terminal, 0.0, value)


def _with_critic_loss(mdp: MDP, policy: nn.Module, policy_loss: Loss) -> Loss:
    """Add the squared distance of the critic from the true values, weighted by visits."""

    def loss(params: Params) -> jax.Array:
        pi = jax.lax.stop_gradient(tabular.action_probabilities(mdp, policy, params))
        wrong = _value(CRITIC, params, mdp) - tabular.state_values(mdp, pi, GAMMA)
        return policy_loss(params) + VALUE_COEF * tabular.visits(mdp, pi) @ (0.5 * wrong**2)

    return loss


def _surrogate(mdp: MDP, policy: nn.Module) -> Loss:
    """Loss that estimators without gamma^t follow: -sum_s d(s) sum_a pi(a | s) q(s, a).

    The visits d and the action values q are constants. Only q is discounted, so that this is not
    the gradient of any objective.
    """

    def loss(params: Params) -> jax.Array:
        pi = tabular.action_probabilities(mdp, policy, params)
        fixed = jax.lax.stop_gradient(pi)
        value = tabular.state_values(mdp, fixed, GAMMA)
        q = (mdp.transition * (mdp.reward + GAMMA * value[None, None])).sum(-1)
        return -tabular.visits(mdp, fixed) @ (pi * q).sum(-1)

    return loss


def _normalized_loss(task: Task, num_episodes: int = 2, *, of_episodes: bool = False) -> Loss:
    """Mean over all batches of -sum_t log pi (G_t - mean) / (std + 1e-9) / num_episodes, in NumPy.

    Mean and standard deviation are those of the batch, which includes the episode itself: every
    return is shrunk, by a factor that differs from batch to batch. With `of_episodes`, G_0 stands
    for every G_t, and counts once for each episode.
    """
    rollout, env_probability = task.trajectories
    returns = np.zeros_like(rollout.reward)
    for t in reversed(range(len(returns))):
        returns[t] = rollout.reward[t] + (GAMMA * returns[t + 1] if t + 1 < len(returns) else 0.0)
    batches = np.indices((len(env_probability),) * num_episodes).reshape(num_episodes, -1).T
    weight = np.zeros((len(batches), *returns.shape))  # of log pi of each step, in each batch
    for i, columns in enumerate(batches):
        real = rollout.weight[:, columns] > 0
        x = returns[:1, columns] if of_episodes else returns[:, columns]
        counted = x[real[: len(x)]]
        std = counted.std(ddof=1) if np.ptp(counted) else 1.0
        shared = np.where(real, (x - counted.mean()) / (std + 1e-9), 0.0) / num_episodes
        np.add.at(weight[i].T, columns, shared.T)  # a batch may hold an episode twice

    def loss(params: Params) -> jax.Array:
        distribution: Any = task.policy.apply(params, rollout.obs)
        log_prob = jnp.where(rollout.weight > 0, distribution.log_prob(rollout.action), 0.0)
        p = jax.lax.stop_gradient(env_probability * jnp.exp(log_prob.sum(0)))[batches].prod(1)
        return -(jnp.tensordot(p, weight, 1) * log_prob).sum()

    return loss


def _task(name: str, mdp: MDP, horizon: int) -> Task:
    policy = SoftmaxPolicy(mdp.transition.shape[1], (3,), nn.tanh)

    def objective(params: Params) -> jax.Array:
        pi = tabular.action_probabilities(mdp, policy, params)
        return tabular.objective(mdp, pi, GAMMA)

    return Task(name, policy, tabular.trajectories(mdp, horizon), objective)


def _clipped_task(low: float = -0.5, high: float = 1.0) -> Task:
    """One step whose reward is the clipped action; the actions are the nodes of a quadrature."""
    policy = GaussianPolicy(1, (3,), nn.tanh)
    ends = [-12.0, low, high, 12.0]  # between two of them the reward is smooth
    nodes, weights = np.polynomial.legendre.leggauss(80)
    half = np.diff(ends)[:, None] / 2
    action = (half * (nodes[None] + 1) + np.array(ends[:-1])[:, None]).reshape(1, -1, 1)
    row = np.ones_like(action[..., 0])
    rollout = Rollout(
        obs=np.ones_like(action),
        action=action,
        reward=action[..., 0].clip(low, high),
        terminated=row > 0,
        truncated=row < 0,
        next_obs=np.ones_like(action),
        weight=row,
    )

    def objective(params: Params) -> jax.Array:
        distribution: Any = policy.apply(params, jnp.ones(1))
        mean, std = distribution.mean[0], distribution.std[0]
        a, b = (low - mean) / std, (high - mean) / std
        inside = mean * (norm.cdf(b) - norm.cdf(a)) - std * (norm.pdf(b) - norm.pdf(a))
        return low * norm.cdf(a) + high * norm.cdf(-b) + inside

    return Task("clipped", policy, Trajectories(rollout, (half * weights).ravel()), objective)


def _minus(objective: Loss) -> Loss:
    return lambda params: -objective(params)


def _discounted(estimator: Estimator) -> Estimator:
    return time_discounted(estimator, GAMMA)


LAYERS = _task("layers", tabular.layered_mdp(0), 3)


def _whole_episodes() -> list[Case]:
    """Cases whose episodes all end by themselves, within 3 steps."""
    mdp, task = tabular.layered_mdp(0), LAYERS
    to_go = reward_to_go(GAMMA)
    grad_j = _minus(task.objective)
    fitted = _with_critic_loss(mdp, task.policy, grad_j)
    surrogate, own_batch = _surrogate(mdp, task.policy), _normalized_loss(task)
    own_group = _normalized_loss(task, of_episodes=True)

    def biased(lambda_: float) -> Case:
        loss = expected_loss(mdp, task.policy, 3, lambda_=lambda_, critic=CRITIC)
        name, estimator = f"gamma^t gae({lambda_:g})", _discounted(gae(GAMMA, lambda_))
        return Case(task, name, estimator, "biased by V", loss, critic=True)

    return [
        Case(task, "gamma^t reward_to_go", _discounted(to_go), "grad J", grad_j),
        Case(task, "gamma^t leave_one_out", _discounted(leave_one_out(to_go)), "grad J", grad_j),
        Case(task, "gamma^t reward_to_go", _discounted(to_go), "grad J", fitted, critic=True),
        Case(task, "gamma^t gae(1)", _discounted(gae(GAMMA, 1.0)), "grad J", fitted, critic=True),
        *map(biased, (0.95, 0.5, 0.0)),
        Case(task, "reward_to_go", to_go, "no gamma^t", surrogate),
        Case(task, "normalized", normalized(to_go), "own batch", own_batch),
        Case(task, "group_normalized", group_normalized(to_go), "own batch", own_group),
    ]


def _truncated_episodes() -> list[Case]:
    """Cases with a time limit, without and with a critic to bootstrap from."""
    chain, random = tabular.two_state_chain(), tabular.random_mdp(1)
    cut, mixed = _task("chain", chain, 3), _task("random", random, 2)
    to_go, by_gae = _discounted(reward_to_go(GAMMA)), _discounted(gae(GAMMA, 0.95))

    def grad_j(params: Params) -> jax.Array:
        pi = tabular.action_probabilities(chain, cut.policy, params)
        return -tabular.truncated_objective(chain, pi, GAMMA, 3)

    chain_loss = expected_loss(chain, cut.policy, 3, critic=CRITIC)
    random_loss = expected_loss(random, mixed.policy, 2, lambda_=0.95, critic=CRITIC)
    return [
        Case(cut, "gamma^t reward_to_go", to_go, "grad J, 3 steps", grad_j),
        Case(cut, "gamma^t reward_to_go", to_go, "V at the cut", chain_loss, critic=True),
        Case(mixed, "gamma^t gae(0.95)", by_gae, "V at the cut", random_loss, critic=True),
    ]


def _clipped_actions() -> list[Case]:
    """A case of continuous actions that the environment clips."""
    task, estimator = _clipped_task(), reward_to_go(GAMMA)
    loss = _minus(task.objective)
    return [Case(task, "reward_to_go", estimator, "grad J", loss, num_episodes=1)]


CASES = (*_whole_episodes(), *_truncated_episodes(), *_clipped_actions())
