"""Compare log-probabilities, loss, gradients and updates of pgjax with those of PyTorch.

    python examples/torch_parity.py

Both compute on one batch of one episode, from the same parameters, and then make ten Adam updates
on it. The relative difference of a quantity is its largest difference divided by torch's largest
value. The terms of the loss nearly cancel, so its difference is divided by the sum of their
absolute values. Exits with 1 if a difference is too large.
"""

import sys
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import torch
import torch_lesson as lesson

import pgjax

OBS_DIM, LENGTH, UPDATES = 4, 200, 10
AFTER = f"parameters after {UPDATES} updates"
BOUNDS = {np.float32: 1e-5, np.float64: 1e-10}
PAIRS: dict[str, tuple[Any, Any]] = {
    "softmax": (pgjax.SoftmaxPolicy(3), lesson.Softmax(OBS_DIM, 3)),
    "lesson's Gaussian": (pgjax.LessonGaussianPolicy(2), lesson.LessonGaussian(OBS_DIM, 2)),
    "well-posed Gaussian": (pgjax.GaussianPolicy(2), lesson.Gaussian(OBS_DIM, 2)),
}


class Difference(NamedTuple):
    """The difference between two arrays, or two lists of arrays."""

    absolute: float  # the largest absolute difference
    relative: float  # the same divided by the largest absolute value


def difference(ours: list[Any], theirs: list[Any]) -> Difference:
    """Compute the largest difference over all pairs of arrays."""
    rows = []
    for x, y in zip(ours, theirs, strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if x.shape != y.shape:
            raise ValueError(f"shapes {x.shape} and {y.shape} differ")
        gap = float(np.abs(x - y).max())
        rows.append((gap, gap / float(np.abs(y).max())))
    return Difference(*(max(column) for column in zip(*rows, strict=True)))


def torch_leaves(module: torch.nn.Module, gradients: bool = False) -> list[np.ndarray]:
    """Return parameters or gradients in the order of the Flax tree: bias, kernel, ..., log_std."""
    leaves = []
    for layer in (m for m in module.net if isinstance(m, torch.nn.Linear)):
        leaves += [layer.bias, layer.weight]
    if hasattr(module, "log_std"):
        leaves.append(module.log_std)
    arrays = [(p.grad if gradients else p).detach().numpy() for p in leaves]
    return [a.T if a.ndim == 2 else a for a in arrays]


def random_episode(discrete: bool, dtype: type[np.floating]) -> pgjax.Rollout:
    """Draw one episode of LENGTH steps that terminates, with leaves [LENGTH, 1, ...]."""
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(LENGTH, 1, OBS_DIM)).astype(dtype)
    reward = rng.normal(1.0, 1.0, (LENGTH, 1)).astype(dtype)
    if discrete:
        action: np.ndarray = rng.integers(3, size=(LENGTH, 1))
    else:
        action = rng.normal(size=(LENGTH, 1, 2)).astype(dtype)
    terminated = np.arange(LENGTH)[:, None] == LENGTH - 1
    truncated = np.zeros_like(terminated)
    weight = np.ones((LENGTH, 1), dtype)
    return pgjax.Rollout(obs, action, reward, terminated, truncated, obs, weight)


def compare(name: str, dtype: type[np.floating]) -> dict[str, Difference]:
    """Compare one policy in the two libraries, in float32 or float64."""
    with jax.enable_x64(dtype is np.float64):
        policy, module = PAIRS[name]
        torch.manual_seed(0)
        discrete = name == "softmax"
        module = type(module)(OBS_DIM, 3 if discrete else 2).to(
            torch.float64 if dtype is np.float64 else torch.float32
        )
        if not discrete:
            with torch.no_grad():  # so that the lesson's last ReLU is active for some rows only
                module.net[-1].bias += 0.3
        rollout = random_episode(discrete, dtype)
        obs, action, reward = rollout.obs[:, 0], rollout.action[:, 0], rollout.reward[:, 0]

        algorithm = pgjax.reinforce(policy, optax.adam(0.01))
        state = algorithm.init(jax.random.key(0), obs[0])
        treedef = jax.tree.structure(state.params)
        params = treedef.unflatten([jax.numpy.array(x) for x in torch_leaves(module)])
        state = state._replace(params=params, opt_state=optax.adam(0.01).init(params))

        log_prob = module(torch.from_numpy(obs)).log_prob(torch.from_numpy(action))
        advantage = lesson.normalized_returns(reward.tolist(), dtype=log_prob.dtype)
        loss = lesson.reinforce_loss(list(log_prob), advantage)
        size = (log_prob * advantage).abs().sum().item()
        module.zero_grad()
        loss.backward()

        differentiate = jax.jit(jax.value_and_grad(algorithm.loss, has_aux=True))
        (our_loss, _), gradients = differentiate(params, rollout)
        result = {
            "log-probabilities": difference(
                [algorithm.log_prob(params, obs, action)], [log_prob.detach()]
            ),
            "loss": Difference(gap := abs(float(our_loss) - loss.item()), gap / size),
            "gradients": difference(jax.tree.leaves(gradients), torch_leaves(module, True)),
        }

        optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
        for _ in range(UPDATES):
            state, _ = algorithm.update(state, rollout)
            log_prob = module(torch.from_numpy(obs)).log_prob(torch.from_numpy(action))
            optimizer.zero_grad()
            lesson.reinforce_loss(list(log_prob), advantage).backward()
            optimizer.step()
        after = difference(jax.tree.leaves(state.params), torch_leaves(module))
        return result | {AFTER: after}


def main() -> int:
    print(f"{'policy':21}{'dtype':10}{'quantity':30}{'absolute':>10}{'relative':>10}")
    too_large = False
    for name in PAIRS:
        for dtype, bound in BOUNDS.items():
            for quantity, gap in compare(name, dtype).items():
                row = f"{name:21}{dtype.__name__:10}{quantity:30}"
                print(f"{row}{gap.absolute:10.1e}{gap.relative:10.1e}")
                # Adam divides by the size of the gradient, which magnifies rounding.
                too_large |= gap.relative > bound * (10 if quantity == AFTER else 1)
    print(
        "DIFFERENCES ARE TOO LARGE"
        if too_large
        else "log-probabilities, loss and gradients within 1e-5 (float32) and 1e-10 (float64)"
    )
    return int(too_large)


if __name__ == "__main__":
    sys.exit(main())
