"""Cases of PPO and NPG: the gradient of a first and of a later step, and the natural gradient.

Expectations are sums over all batches of formulas written out here, from the papers; they share no
code with the algorithms.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.flatten_util import ravel_pytree

from pgjax.advantages import Estimator, gae, reward_to_go
from pgjax.algorithms import actor_critic, batches
from pgjax.algorithms.epochs import Sample
from pgjax.algorithms.fisher import natural_gradient
from pgjax.algorithms.npg import npg
from pgjax.algorithms.ppo import Options, chunk_loss, ppo
from pgjax.envs import tabular
from pgjax.gradcheck.cases import GAMMA, VALUE_COEF, Case, Loss, Task
from pgjax.numerics.sums import sum_chunks
from pgjax.policies import SoftmaxPolicy
from pgjax.types import Algorithm, Params, Rollout

_CLIP, _LAMBDA, _STEP, _DAMPING = 0.2, 0.9, 0.3, 0.1


def moved(params: Params) -> Params:
    """Return parameters some way off, as after steps of an optimiser."""
    return jax.tree.map(lambda x: x + _STEP * jnp.cos(jnp.arange(x.size).reshape(x.shape)), params)


def later_step_of_ppo(
    policy: nn.Module, optimizer: optax.GradientTransformation, *, recompute: bool, **parts: Any
) -> Algorithm:
    """PPO whose loss is that of `moved` parameters, on what the given parameters have collected.

    With `recompute`, advantages are those of the moved critic.
    """
    algorithm = ppo(policy, optimizer, clip=_CLIP, **parts)
    objective: Any = actor_critic.objective_of(algorithm)
    options = Options(clip=_CLIP)

    def loss(params: Params, rollout: Rollout) -> tuple[jax.Array, dict[str, jax.Array]]:
        given, new = lax.stop_gradient(params), moved(params)
        chunks, n, info = batches.prepare(objective, new if recompute else given, rollout)
        distribution: Any = policy.apply(given, chunks.obs)
        sample = Sample(chunks, distribution.log_prob(chunks.action))

        def each(chunk: Sample) -> Any:
            return chunk_loss(options, objective, new, 0.0, _CLIP, chunk)

        return sum_chunks(each, sample)[0] / n, info

    return algorithm._replace(loss=loss)


def _ppo_loss(
    task: Task,
    critic: nn.Module | None = None,
    *,
    later: bool = False,
    recompute: bool = False,
    num_episodes: int = 2,
) -> Loss:
    """Mean over all batches of PPO's loss: the mean over steps of -min(r A, clip(r) A).

    A is the discounted return or, with a critic, the sum of (gamma lambda)^k of the TD errors.
    """
    rollout, env_probability = task.trajectories
    real = rollout.weight > 0
    index = np.indices((len(env_probability),) * num_episodes).reshape(num_episodes, -1).T
    # 1 / N for each step of each episode of a batch; a batch may hold an episode twice.
    steps = rollout.weight.sum(0)[index].sum(1)

    def values(params: Params, obs: Any) -> Any:
        found: Any = critic.apply({"params": params["critic"]}, obs) if critic else 0.0
        return found * jnp.ones(rollout.reward.shape)

    def advantages(params: Params) -> jax.Array:
        value, after = values(params, rollout.obs), values(params, rollout.next_obs)
        after = jnp.where(rollout.terminated, 0.0, after)
        error = jnp.where(real, rollout.reward + GAMMA * after - value, 0.0)
        rate, found = GAMMA * (_LAMBDA if critic else 1.0), []
        total = jnp.zeros(error.shape[1])
        for t in reversed(range(len(error))):
            total = error[t] + rate * total  # an episode ends at the end of its column
            found.append(total)
        return jnp.stack(found[::-1])

    def loss(params: Params) -> jax.Array:
        given = lax.stop_gradient(params)
        new = moved(params) if later else params
        before, after = (
            jnp.where(real, task.policy.apply(p, rollout.obs).log_prob(rollout.action), 0.0)  # type: ignore[union-attr]
            for p in (given, new)
        )
        advantage = lax.stop_gradient(advantages(moved(given) if recompute else given))
        ratio = jnp.exp(after - before)
        least = jnp.where(advantage > 0, 0.0, 1.0 - _CLIP)  # what the minimum leaves free
        most = jnp.where(advantage > 0, 1.0 + _CLIP, jnp.inf)
        each = -jnp.where(real, advantage * jnp.clip(ratio, least, most), 0.0)
        if critic is not None:
            known = values(moved(given) if recompute else given, rollout.obs)
            wrong = values(new, rollout.obs) - (advantage + known)
            each += jnp.where(real, VALUE_COEF * 0.5 * wrong**2, 0.0)
        p = (env_probability * jnp.exp(before.sum(0)))[index].prod(1)
        return (p / steps * each.sum(0)[index].sum(1)).sum()

    return loss


def ppo_cases(task: Task, critic: nn.Module) -> list[Case]:
    """Cases of a task whose episodes end by themselves."""

    def make(recompute: bool) -> Callable[..., Algorithm]:
        def later(*args: Any, **parts: Any) -> Algorithm:
            return later_step_of_ppo(*args, recompute=recompute, **parts)

        return later

    def objective(params: Params) -> jax.Array:
        return task.objective(moved(params))

    after = task._replace(objective=objective)
    returns: Estimator = reward_to_go(GAMMA)
    lambdas: Estimator = gae(GAMMA, _LAMBDA)
    return [
        Case(task, "ppo, 1st step", returns, "mean over steps", _ppo_loss(task), make=ppo),
        Case(
            after,
            "ppo, later step",
            returns,
            "clipped",
            _ppo_loss(task, later=True),
            make=make(False),
        ),
        Case(
            after,
            "ppo, recomputed",
            lambdas,
            "A of new V",
            _ppo_loss(task, critic, later=True, recompute=True),
            critic=True,
            make=make(True),
        ),
    ]


def natural_gradients(mdp: tabular.MDP, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the natural gradient of NPG, and the one by the exact Fisher matrix, as vectors.

    The policy is a table. NPG sees every trajectory, weighted by its probability; the exact Fisher
    matrix is the sum over states of their visits times diag(pi) - pi pi^T, by the logits.
    """
    policy = SoftmaxPolicy(mdp.transition.shape[1], ())
    algorithm = npg(policy, estimator=reward_to_go(GAMMA), damping=_DAMPING, chunk_size=4)
    objective: Any = actor_critic.objective_of(algorithm)
    rollout, env_probability = tabular.trajectories(mdp, horizon)
    shapes = jax.eval_shape(algorithm.init, jax.random.key(0), rollout.obs[0, 0]).params
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), shapes)
    distribution: Any = policy.apply(params, rollout.obs)
    log_prob = jnp.where(rollout.weight > 0, distribution.log_prob(rollout.action), 0.0)
    weight = rollout.weight * (env_probability * jnp.exp(log_prob.sum(0)))[None]
    rollout = rollout._replace(weight=weight)
    chunks, n, _ = batches.prepare(objective, params, rollout)
    gradient, _ = jax.grad(algorithm.loss, has_aux=True)(params, rollout)
    gradient, _ = ravel_pytree(gradient["params"])
    ours, _ = natural_gradient(
        objective, params, chunks, gradient, n, damping=_DAMPING, cg_steps=4 * len(gradient)
    )

    flat, unravel = ravel_pytree(params["params"])

    def logits(flat: jax.Array) -> jax.Array:
        found: Any = policy.apply({"params": unravel(flat)}, jnp.asarray(mdp.obs))
        return found.logits

    pi = jax.nn.softmax(logits(flat))
    seen = tabular.occupancies(mdp, pi, horizon).sum(0)
    value = tabular.state_values(mdp, pi, GAMMA)
    q = (mdp.transition * (mdp.reward + GAMMA * value[None, None])).sum(-1)
    jacobian = jax.jacobian(logits)(flat)  # [S, A, P]
    by_logits = jax.vmap(lambda p: jnp.diag(p) - jnp.outer(p, p))(pi)
    fisher = jnp.einsum("s,sai,sab,sbj->ij", seen, jacobian, by_logits, jacobian) / n
    of_q = jnp.einsum("s,sai,sab,sb->i", seen, jacobian, by_logits, q) / n
    exact = jnp.linalg.solve(fisher + _DAMPING * jnp.eye(len(flat)), -of_q)
    return np.asarray(ours), np.asarray(exact)
