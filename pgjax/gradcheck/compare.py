"""Estimators held against the exact gradient, without sampling error.

On a finite MDP with a short horizon every batch of episodes can be listed, with its probability. So
what an algorithm's gradient is in expectation, and how it varies, are finite sums, and the gradient
of J itself comes from a linear system. A `Case` says what an estimator's expectation is documented
to be; `check` compares. All in float64.

One of your own, on a task of `CASES`:

  case = Case(CASES[0].task, "mine", my_estimator, "grad J", CASES[0].expected_loss)
  print(check([case]))

and an update rule of your own that takes the arguments of `reinforce`: check(make=my_reinforce).
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from pgjax.algorithms.reinforce import reinforce
from pgjax.envs.tabular import Trajectories
from pgjax.gradcheck.cases import CASES, CRITIC, Case, Loss, Task
from pgjax.numerics.xla import fastest_compile
from pgjax.types import Algorithm, Params, Rollout

__all__ = ["CASES", "TOLERANCE", "Case", "Row", "Task", "check", "moments"]

TOLERANCE = 1e-10  # of an expectation, absolute; gradients are of the order of 1


class Row(NamedTuple):
    """What came of a case. Gradients are of J, with respect to the policy's parameters."""

    task: str
    estimator: str
    critic: bool
    meaning: str
    error: float  # largest difference of the expectation from the documented one, of any parameter
    bias: float  # |E g - grad J| / |grad J|
    variance: float  # E |g - E g|^2 / |grad J|^2, for one batch of num_episodes
    cosine: float  # between E g and grad J
    num_episodes: int

    @property
    def ok(self) -> bool:
        """Is it what is documented?"""
        return self.error <= TOLERANCE  # not so for NaN


def check(
    cases: Iterable[Case] | None = None, make: Callable[..., Algorithm] = reinforce
) -> list[Row]:
    """Compare the expectation of each case, by default of all of `CASES`, with the documented one.

    Args:
      cases: what is compared.
      make: (policy, optimizer, *, estimator, critic, chunk_size) -> Algorithm, as `reinforce`.

    Returns:
      A Row for each; `row.ok` tells whether it holds.
    """
    with jax.enable_x64(True):
        return [_check(case, make) for case in (CASES if cases is None else cases)]


def _check(case: Case, make: Callable[..., Algorithm]) -> Row:
    task, critic = case.task, CRITIC if case.critic else None
    algorithm = make(  # chunks that are short enough for there to be several
        task.policy, optax.identity(), estimator=case.estimator, critic=critic, chunk_size=4
    )
    params = _some_params(algorithm, task.trajectories.rollout)
    mean, variance = moments(algorithm, task.policy, params, task.trajectories, case.num_episodes)
    exact, documented = _gradients(task.objective, case.expected_loss, params)
    wrong = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (mean, documented)))]  # noqa: B905
    grad, g = (ravel_pytree(tree["params"])[0] for tree in (exact, mean))
    g, size = -g, jnp.linalg.norm(grad)
    return Row(
        task.name,
        case.name,
        case.critic,
        case.meaning,
        error=float(np.max(wrong)),
        bias=float(jnp.linalg.norm(g - grad) / size),
        variance=float(variance / size**2),
        cosine=float(g @ grad / (size * jnp.linalg.norm(g))),
        num_episodes=case.num_episodes,
    )


def _gradients(objective: Loss, loss: Loss, params: Params) -> tuple[Params, Params]:
    both = jax.jit(
        lambda p: (jax.grad(objective)(p), jax.grad(loss)(p)), compiler_options=fastest_compile()
    )
    return both(params)


def _some_params(algorithm: Algorithm, rollout: Rollout) -> Params:
    """Parameters that are nothing special, float64; the same ones always."""
    shapes = jax.eval_shape(algorithm.init, jax.random.key(0), rollout.obs[0, 0]).params
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(0.7 * rng.normal(size=x.shape)), shapes)


def moments(
    algorithm: Algorithm,
    policy: nn.Module,
    params: Params,
    trajectories: Trajectories,
    num_episodes: int = 2,
) -> tuple[Params, jax.Array]:
    """Of the gradient of algorithm.loss, over every batch that `policy` may collect.

    Returns:
      (expectation, as a tree like params; variance of the policy's part, summed over its
      parameters).
    """
    rollout, theirs = trajectories
    index = np.indices((len(theirs),) * num_episodes).reshape(num_episodes, -1).T
    # By the policy itself: what the algorithm takes log_prob for is to be found out.
    distribution: Any = policy.apply(params, rollout.obs)
    log_prob = jnp.where(rollout.weight > 0, distribution.log_prob(rollout.action), 0.0)
    probability = (theirs * jnp.exp(log_prob.sum(0)))[index].prod(1)

    def gradient(columns: jax.Array) -> Params:
        batch = jax.tree.map(lambda x: jnp.asarray(x)[:, columns], rollout)
        return jax.grad(lambda p: algorithm.loss(p, batch)[0])(params)

    every = jax.jit(jax.vmap(gradient), compiler_options=fastest_compile())(index)
    mean = jax.tree.map(lambda g: jnp.tensordot(probability, g, 1), every)
    of_policy = [
        probability @ ((g - m[None]) ** 2).reshape(len(index), -1)
        for g, m in zip(*map(jax.tree.leaves, (every["params"], mean["params"])))  # noqa: B905
    ]
    return mean, sum((x.sum() for x in of_policy), jnp.zeros(()))
