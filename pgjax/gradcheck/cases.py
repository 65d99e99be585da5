"""What each estimator's gradient is in expectation, exactly: the cases that `gradcheck` compares.

A loss here is a function of the parameters whose gradient is the expectation of the gradient of
`Algorithm.loss`, as documented. They are made of an MDP's tables and linear systems, and share
nothing with the estimators.
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
    leave_one_out,
    normalized,
    reward_to_go,
    time_discounted,
)
from pgjax.envs import tabular
from pgjax.envs.tabular import MDP, Trajectories
from pgjax.policies import GaussianPolicy, SoftmaxPolicy, ValueNetwork
from pgjax.types import Params, Rollout

GAMMA = 0.9  # of the cases
VALUE_COEF = 0.5  # the default of `reinforce`
CRITIC = ValueNetwork((4,))

Loss = Callable[[Params], jax.Array]  # params -> []


class Task(NamedTuple):
    """A policy, what can happen to it, and what it is worth."""

    name: str
    policy: nn.Module
    trajectories: Trajectories
    objective: Loss  # J, exactly


class Case(NamedTuple):
    """An estimator, and what its expectation is documented to be."""

    task: Task
    name: str  # of the estimator, for a person
    estimator: Estimator
    meaning: str  # of the expectation, for a person
    expected_loss: Loss  # its gradient is the expectation of the gradient of Algorithm.loss
    critic: bool = False
    num_episodes: int = 2  # of a batch


def expected_loss(
    mdp: MDP,
    policy: nn.Module,
    horizon: int,
    *,
    lambda_: float = 1.0,
    critic: nn.Module | None = None,
    gamma: float = GAMMA,
) -> Loss:
    """What time_discounted(gae(gamma, lambda_)) follows, truncated after `horizon` steps.

    With lambda_ = 1 what time_discounted(reward_to_go(gamma)) follows, with a critic or without.
    The advantage of action a in state s at time t is expected to be

      A_t(s, a) = E[r + gamma V(s') - V(s) + gamma lambda sum_a' pi(a' | s') A_{t+1}(s', a')],

    where V and A are 0 in terminal states, and A beyond the horizon; V is the critic, even where
    it is wrong, or 0 without one. The gradient is -sum_t gamma^t sum_s d_t(s) sum_a grad pi A_t,
    with d_t the states at time t; the critic's is that of its squared distance to V + A.
    """

    def loss(params: Params) -> jax.Array:
        pi = tabular.action_probabilities(mdp, policy, params)
        fixed, seen = jax.lax.stop_gradient((pi, tabular.occupancies(mdp, pi, horizon)))
        value = jnp.zeros(len(seen[0]))
        if critic is not None:
            # A terminal state's value must not be used, wherever it is looked up.
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
    value: Any = critic.apply({"params": params["critic"]}, jnp.asarray(mdp.obs))
    return jnp.where(mdp.terminal, 0.0, value)


def _and_critic(mdp: MDP, policy: nn.Module, policy_loss: Loss) -> Loss:
    """With a critic's distance to the true values, each state as often as it is visited."""

    def loss(params: Params) -> jax.Array:
        pi = jax.lax.stop_gradient(tabular.action_probabilities(mdp, policy, params))
        wrong = _value(CRITIC, params, mdp) - tabular.state_values(mdp, pi, GAMMA)
        return policy_loss(params) + VALUE_COEF * tabular.visits(mdp, pi) @ (0.5 * wrong**2)

    return loss


def _surrogate(mdp: MDP, policy: nn.Module) -> Loss:
    """What is left of the gradient of J without gamma^t: -sum_s d(s) sum_a pi(a | s) q(s, a).

    d(s) counts visits without a discount, and q with one: it is the gradient of nothing.
    """

    def loss(params: Params) -> jax.Array:
        pi = tabular.action_probabilities(mdp, policy, params)
        fixed = jax.lax.stop_gradient(pi)
        value = tabular.state_values(mdp, fixed, GAMMA)
        q = (mdp.transition * (mdp.reward + GAMMA * value[None, None])).sum(-1)
        return -tabular.visits(mdp, fixed) @ (pi * q).sum(-1)

    return loss


def _of_normalized(task: Task, num_episodes: int = 2) -> Loss:
    """The mean over all batches of -sum_t log pi (G_t - mean) / (std + 1e-9) / episodes, in numpy.

    Mean and deviation are the batch's own, so that an episode is compared with itself: every return
    is shrunk, in each batch by another factor.
    """
    rollout, theirs = task.trajectories
    returns = np.zeros_like(rollout.reward)
    for t in reversed(range(len(returns))):
        returns[t] = rollout.reward[t] + (GAMMA * returns[t + 1] if t + 1 < len(returns) else 0.0)
    batches = np.indices((len(theirs),) * num_episodes).reshape(num_episodes, -1).T
    weight = np.zeros((len(batches), *returns.shape))  # of each step's log pi in each batch
    for i, columns in enumerate(batches):
        real = rollout.weight[:, columns] > 0
        x = returns[:, columns]
        std = x[real].std(ddof=1) if np.ptp(x[real]) else 1.0
        shared = np.where(real, (x - x[real].mean()) / (std + 1e-9), 0.0) / num_episodes
        np.add.at(weight[i].T, columns, shared.T)  # an episode may be there twice

    def loss(params: Params) -> jax.Array:
        distribution: Any = task.policy.apply(params, rollout.obs)
        log_prob = jnp.where(rollout.weight > 0, distribution.log_prob(rollout.action), 0.0)
        p = jax.lax.stop_gradient(theirs * jnp.exp(log_prob.sum(0)))[batches].prod(1)
        return -(jnp.tensordot(p, weight, 1) * log_prob).sum()

    return loss


def _task(name: str, mdp: MDP, horizon: int) -> Task:
    policy = SoftmaxPolicy(mdp.transition.shape[1], (3,), nn.tanh)

    def objective(params: Params) -> jax.Array:
        pi = tabular.action_probabilities(mdp, policy, params)
        return tabular.objective(mdp, pi, GAMMA)

    return Task(name, policy, tabular.trajectories(mdp, horizon), objective)


def _clipped_task(low: float = -0.5, high: float = 1.0) -> Task:
    """One step; the reward is the action, clipped to bounds. Actions are nodes of a quadrature."""
    policy = GaussianPolicy(1, (3,), nn.tanh)
    ends = [-12.0, low, high, 12.0]  # the reward is smooth between them
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


def _cases() -> list[Case]:
    """What is documented of pgjax's own estimators."""
    layers, chain, random = tabular.layered_mdp(0), tabular.two_state_chain(), tabular.random_mdp(1)
    whole = _task("layers", layers, 3)  # no episode is longer
    cut, mixed = _task("chain", chain, 3), _task("random", random, 2)
    clipped = _clipped_task()
    to_go = reward_to_go(GAMMA)

    def discounted(estimator: Estimator) -> Estimator:
        return time_discounted(estimator, GAMMA)

    def grad_j(params: Params) -> jax.Array:
        return -whole.objective(params)

    def grad_j_clipped(params: Params) -> jax.Array:
        return -clipped.objective(params)

    def grad_j_cut(params: Params) -> jax.Array:
        pi = tabular.action_probabilities(chain, cut.policy, params)
        return -tabular.truncated_objective(chain, pi, GAMMA, 3)

    def gae_case(lambda_: float) -> Case:
        loss = expected_loss(layers, whole.policy, 3, lambda_=lambda_, critic=CRITIC)
        name, estimator = f"gamma^t gae({lambda_:g})", discounted(gae(GAMMA, lambda_))
        return Case(whole, name, estimator, "biased by V", loss, critic=True)

    fitted = _and_critic(layers, whole.policy, grad_j)
    surrogate, own_batch = _surrogate(layers, whole.policy), _of_normalized(whole)
    of_chain = expected_loss(chain, cut.policy, 3, critic=CRITIC)
    of_random = expected_loss(random, mixed.policy, 2, lambda_=0.95, critic=CRITIC)
    left_out = discounted(leave_one_out(to_go))
    bootstrap = "V at the cut"
    return [
        Case(whole, "gamma^t reward_to_go", discounted(to_go), "grad J", grad_j),
        Case(whole, "gamma^t leave_one_out", left_out, "grad J", grad_j),
        Case(whole, "gamma^t reward_to_go", discounted(to_go), "grad J", fitted, critic=True),
        Case(whole, "gamma^t gae(1)", discounted(gae(GAMMA, 1.0)), "grad J", fitted, critic=True),
        *map(gae_case, (0.95, 0.5, 0.0)),
        Case(whole, "reward_to_go", to_go, "no gamma^t", surrogate),
        Case(whole, "normalized", normalized(to_go), "own batch", own_batch),
        Case(cut, "gamma^t reward_to_go", discounted(to_go), "grad J, 3 steps", grad_j_cut),
        Case(cut, "gamma^t reward_to_go", discounted(to_go), bootstrap, of_chain, critic=True),
        Case(
            mixed,
            "gamma^t gae(0.95)",
            discounted(gae(GAMMA, 0.95)),
            bootstrap,
            of_random,
            critic=True,
        ),
        Case(clipped, "reward_to_go", to_go, "grad J", grad_j_clipped, num_episodes=1),
    ]


CASES = tuple(_cases())
