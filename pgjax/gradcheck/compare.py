"""Compare estimators with exact gradients, without sampling error.

On a finite MDP with a short horizon, all possible batches of episodes can be listed with their
probabilities. The expectation and the variance of an algorithm's gradient are then finite sums, and
the gradient of J itself comes from a linear system. A `Case` says what the expectation of an
estimator is documented to be, and `check` compares. All computations are in float64.

To check an estimator of your own, use a task of `CASES`:

  case = Case(CASES[0].task, "mine", my_estimator, "grad J", CASES[0].expected_loss)
  print(check([case]))

To check an update rule of your own that takes the arguments of `reinforce`, use
check(make=my_reinforce).
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from pgjax.algorithms.reinforce import reinforce
from pgjax.envs.tabular import Trajectories, layered_mdp
from pgjax.errors import check_count
from pgjax.gradcheck.cases import CASES as ESTIMATOR_CASES
from pgjax.gradcheck.cases import CRITIC, LAYERS, Case, Loss, Task
from pgjax.gradcheck.updates import natural_gradients, ppo_cases
from pgjax.numerics.xla import fastest_compile
from pgjax.types import Algorithm, Params, Rollout

__all__ = ["CASES", "TOLERANCE", "Case", "Row", "Task", "check", "moments"]

CASES = (*ESTIMATOR_CASES, *ppo_cases(LAYERS, CRITIC))
TOLERANCE = 1e-10  # absolute, of an expectation; gradients are of the order of 1


class Row(NamedTuple):
    """Result of a case. Gradients are those of J with respect to the policy's parameters.

    Read `ok` first: it is True if the expectation is the documented one.

    Example:
      >>> from pgjax.gradcheck import Row
      >>> row = Row("layers", "mine", critic=False, meaning="grad J", error=1e-15, bias=0.0,
      ...           variance=2.0, cosine=1.0, num_episodes=2)
      >>> row.ok
      True
    """

    task: str
    estimator: str
    critic: bool
    meaning: str
    error: float  # largest absolute difference from the documented expectation, of any parameter
    bias: float  # |E g - grad J| / |grad J|
    variance: float  # E |g - E g|^2 / |grad J|^2, for one batch of num_episodes
    cosine: float  # between E g and grad J
    num_episodes: int

    @property
    def ok(self) -> bool:
        """Whether the expectation is the documented one."""
        return self.error <= TOLERANCE  # False for NaN


def check(
    cases: Iterable[Case] | None = None, make: Callable[..., Algorithm] = reinforce
) -> list[Row]:
    """Compare the expected gradient of each case with the documented one.

    Use it to find out which gradient an estimator or an update rule follows, and how noisy it is.

    Args:
      cases: by default all of `CASES` and a row for the natural gradient (whose bias is relative to
        the exact natural gradient), in half a minute; with another `make`, only those that do not
        bring an algorithm of their own.
      make: (policy, optimizer, *, estimator, critic, chunk_size) -> Algorithm, such as `reinforce`.

    Returns:
      One Row for each case; `row.ok` is True if the two agree.

    Example:
      >>> from pgjax.gradcheck import CASES, check
      >>> [row] = check(CASES[:1])
      >>> row.estimator, row.ok, round(row.cosine, 3)
      ('gamma^t reward_to_go', True, 1.0)
    """
    return [row() for row in deferred_rows(cases, make)]


def deferred_rows(
    cases: Iterable[Case] | None = None, make: Callable[..., Algorithm] = reinforce
) -> list[Callable[[], Row]]:
    """Return a function for each row of `check`, which computes it; takes the same arguments."""

    @functools.cache  # several cases share an objective or an expected loss
    def gradient(loss: Loss) -> Callable[[Params], Params]:
        return jax.jit(jax.grad(loss), compiler_options=fastest_compile())

    chosen = CASES if cases is None else cases
    if cases is None and make is not reinforce:
        # Cases of other algorithms would say nothing about it.
        chosen = [case for case in CASES if case.make is None]
    rows: list[Callable[[], Row]] = [
        functools.partial(_check, case, make, gradient) for case in chosen
    ]
    if cases is None and make is reinforce:
        rows.append(_natural_gradient_row)
    return [jax.enable_x64(True)(row) for row in rows]


def _natural_gradient_row() -> Row:
    """The natural gradient of a table of logits, compared with that of the exact Fisher matrix."""
    ours, exact = natural_gradients(layered_mdp(0), horizon=3)
    away = np.linalg.norm(ours - exact) / np.linalg.norm(exact)
    return Row(
        "layers",
        "npg",
        critic=False,
        meaning="exact Fisher",
        error=float(np.abs(ours - exact).max()),
        bias=float(away),
        variance=0.0,
        cosine=float(ours @ exact / (np.linalg.norm(ours) * np.linalg.norm(exact))),
        num_episodes=0,
    )


def _check(
    case: Case,
    make: Callable[..., Algorithm],
    gradient: Callable[[Loss], Callable[[Params], Params]],
) -> Row:
    task, critic = case.task, CRITIC if case.critic else None
    algorithm = (case.make or make)(  # chunks are short, so that a batch has several
        task.policy, optax.identity(), estimator=case.estimator, critic=critic, chunk_size=4
    )
    params = _some_params(algorithm, task.trajectories.rollout)
    mean, variance = moments(algorithm, task.policy, params, task.trajectories, case.num_episodes)
    exact, documented = gradient(task.objective)(params), gradient(case.expected_loss)(params)
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


def _some_params(algorithm: Algorithm, rollout: Rollout) -> Params:
    """Return arbitrary parameters in float64, the same in every call."""
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
    """Return expectation and variance of the gradient of `algorithm.loss`, over all batches.

    Use it for a task or an algorithm that `check` does not cover. The number of batches is the
    number of trajectories to the power of num_episodes.

    Args:
      algorithm: its `loss` is differentiated.
      policy: collects the batches; its log-probabilities weight them.
      params: where the gradient is taken.
      trajectories: all that can happen in an episode, as from `pgjax.envs.tabular.trajectories`.
      num_episodes: per batch, at least 1.

    Raises:
      ConfigError: num_episodes is not an integer of at least 1.

    Returns:
      (expectation, a tree like params; variance [] of the policy's part, summed over its
      parameters).

    Example:
      A choice between rewards 0 and 1, each with probability 1/2:

      >>> import jax
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> import optax
      >>> import pgjax
      >>> from pgjax.envs import tabular
      >>> end = np.broadcast_to([0.0, 1.0], (2, 2, 2))  # both actions lead to the terminal state
      >>> mdp = tabular.make_mdp(end, [[[0.0], [1.0]]], terminal=[False, True])
      >>> policy = pgjax.SoftmaxPolicy(num_actions=2, hidden_sizes=())
      >>> algorithm = pgjax.reinforce(
      ...     policy, optax.sgd(1.0), estimator=pgjax.advantages.reward_to_go()
      ... )
      >>> params = jax.tree.map(jnp.zeros_like, policy.init(jax.random.key(0), mdp.obs))
      >>> mean, variance = pgjax.gradcheck.moments(
      ...     algorithm, policy, params, tabular.trajectories(mdp, horizon=1), num_episodes=1
      ... )
      >>> mean["params"]["Dense_0"]["bias"].round(3).tolist(), round(float(variance), 3)
      ([0.25, -0.25], 0.25)
    """
    num_episodes = check_count("num_episodes", num_episodes)
    rollout, env_probability = trajectories
    index = np.indices((len(env_probability),) * num_episodes).reshape(num_episodes, -1).T

    @functools.partial(jax.jit, compiler_options=fastest_compile())
    def over_batches(params: Params, index: jax.Array) -> tuple[Params, jax.Array]:
        # From the policy, since algorithm.log_prob may be wrong.
        distribution: Any = policy.apply(params, rollout.obs)
        log_prob = jnp.where(rollout.weight > 0, distribution.log_prob(rollout.action), 0.0)
        probability = (env_probability * jnp.exp(log_prob.sum(0)))[index].prod(1)

        def gradient(columns: jax.Array) -> Params:
            batch = jax.tree.map(lambda x: jnp.asarray(x)[:, columns], rollout)
            return jax.grad(lambda p: algorithm.loss(p, batch)[0])(params)

        every = jax.vmap(gradient)(index)
        mean = jax.tree.map(lambda g: jnp.tensordot(probability, g, 1), every)
        of_policy = [
            probability @ ((g - m[None]) ** 2).reshape(len(index), -1)
            for g, m in zip(*map(jax.tree.leaves, (every["params"], mean["params"])))  # noqa: B905
        ]
        return mean, sum((x.sum() for x in of_policy), jnp.zeros(()))

    return over_batches(params, index)
