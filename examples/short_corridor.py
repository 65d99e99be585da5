"""Reproduce Example 13.1 and Figures 13.1 and 13.2 of Sutton & Barto over 100 runs.

    python examples/short_corridor.py

The short corridor has three states that look alike, and the second reverses the actions. No
deterministic policy reaches the goal; the best policy goes right with probability
2 - sqrt(2) = 0.5858, and its value is -11.657.

After each episode, the book updates the parameters once per step. Here an episode is one update,
whose gradient sums over the steps at the same parameters, so that a long episode changes policy and
baseline more. With the baseline, the step sizes are therefore smaller than the book's 2^-9 and
2^-6, with which the episodes of some runs never end.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import pgjax
from pgjax.envs import tabular

MDP = tabular.short_corridor()
BEST = 2 - np.sqrt(2), -(6 + 4 * np.sqrt(2))  # the best p(right), and its value J
GOAL = 3  # the terminal state
MAX_STEPS = 1024  # longer episodes are cut off
INITIAL_WEIGHT = 1.47  # goes left with probability 0.95, as in the book


class Policy(nn.Module):
    """A softmax policy with two weights, one per action; the same in every state."""

    @nn.compact
    def __call__(self, obs: jax.Array) -> pgjax.distributions.Categorical:
        return pgjax.distributions.Categorical(nn.Dense(2, use_bias=False)(obs))


class Baseline(nn.Module):
    """A critic with one weight: the value of all states."""

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        return nn.Dense(1, use_bias=False, kernel_init=nn.initializers.zeros)(obs).squeeze(-1)


def collect(act: Callable[..., jax.Array], params: Any, keys: jax.Array) -> pgjax.Rollout:
    """Collect one episode for each of R runs, each with its own parameters.

    Returns:
      A Rollout with leaves [R, T, 1, ...].
    """
    table = jnp.asarray(MDP.transition.argmax(-1))  # transitions are deterministic
    obs, terminal = jnp.asarray(MDP.obs, jnp.float32), jnp.asarray(MDP.terminal)

    def step(carry):
        t, state, states, actions = carry
        noise = jax.vmap(jax.random.fold_in, (0, None))(keys, t)
        action = jax.vmap(act)(params, noise, obs[state])
        after = jnp.where(terminal[state], state, table[state, action])
        return t + 1, after, states.at[t + 1].set(after), actions.at[t].set(action)

    def any_running(carry):
        t, state, *_ = carry
        return (t < MAX_STEPS) & ~terminal[state].all()

    first = jnp.zeros(len(keys), jnp.int32)
    states = jnp.full((MAX_STEPS + 1, len(keys)), GOAL).at[0].set(first)
    actions = jnp.zeros((MAX_STEPS, len(keys)), jnp.int32)
    _, _, states, actions = jax.lax.while_loop(any_running, step, (0, first, states, actions))
    before, after = states[:-1], states[1:]
    real = (before != GOAL).astype(jnp.float32)
    rollout = pgjax.Rollout(
        obs=obs[before],
        action=actions,
        reward=-real,
        terminated=after == GOAL,
        truncated=jnp.zeros(after.shape, bool),
        next_obs=obs[after],
        weight=real,
    )
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1)[:, :, None], rollout)


def train(
    rate: float, baseline_rate: float | None, episodes: int, runs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Train R runs; return their returns [episodes, R] and final probabilities of right [R]."""
    rates = {"params": optax.sgd(rate), "critic": optax.sgd(baseline_rate or 0.0)}
    algorithm = pgjax.reinforce(
        Policy(),
        optax.partition(rates, lambda params: {name: name for name in params}),
        estimator=pgjax.advantages.reward_to_go(gamma=1.0),
        critic=Baseline() if baseline_rate else None,
        value_coef=1.0,
    )

    def init(key):
        state = algorithm.init(key, jnp.ones(1))
        weights = {"Dense_0": {"kernel": jnp.array([[INITIAL_WEIGHT, -INITIAL_WEIGHT]])}}
        return state._replace(params={**state.params, "params": weights})

    def update(state, _):
        keys = jax.vmap(jax.random.fold_in)(state.key, state.step)
        rollout = collect(algorithm.act, state.params, keys)
        state, info = jax.vmap(algorithm.update)(state, rollout)
        return state, info["mean_return"]

    @jax.jit
    def run(keys):
        return jax.lax.scan(update, jax.vmap(init)(keys), None, length=episodes)

    state, returns = run(jax.random.split(jax.random.key(0), runs))
    pi = jax.vmap(lambda params: tabular.action_probabilities(MDP, Policy(), params))(state.params)
    return np.asarray(returns), np.asarray(pi[:, 0, 1])


@jax.jit
@jax.vmap
def value(p: jax.Array) -> jax.Array:
    """Compute the exact value of going right with probability p."""
    return tabular.objective(MDP, jnp.broadcast_to(jnp.stack([1 - p, p])[None], (4, 2)))


def main() -> None:
    pgjax.enable_compile_cache()  # later runs start faster
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--out", default="short_corridor.png")
    args = parser.parse_args()
    start = time.perf_counter()
    curves = {}
    for label, rate, baseline_rate in (
        ("REINFORCE, step size 2^-12", 2**-12, None),
        ("REINFORCE, step size 2^-13", 2**-13, None),
        ("REINFORCE, step size 2^-14", 2**-14, None),
        ("with baseline, 2^-10 and 2^-9", 2**-10, 2**-9),
    ):
        curves[label] = train(rate, baseline_rate, args.episodes, args.runs)
        _, p = curves[label]
        j = value(p).mean()
        print(f"{label:30}  p(right) {p.mean():.4f} +- {p.std():.3f}  J {j:.3f}")
    print(f"{'best possible':30}  p(right) {BEST[0]:.4f}           J {BEST[1]:.3f}")
    print(f"{len(curves) * args.runs} runs in {time.perf_counter() - start:.1f} s")
    draw(curves, args.out)
    print(f"wrote {args.out}")


def draw(curves: dict[str, tuple[np.ndarray, np.ndarray]], out: str) -> None:
    """Draw Example 13.1, Figure 13.1 and Figure 13.2 side by side."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    example, plain, baseline = figure.subplots(1, 3)
    p = np.linspace(0.02, 0.98, 97)
    example.plot(p, value(p))
    for name, greedy in (("left", np.array([0.05])), ("right", np.array([0.95]))):
        j = value(greedy)
        example.plot(greedy, j, "o", label=f"epsilon-greedy {name} {j[0]:.1f}")
    example.plot(*BEST, "k*", label=f"best {BEST[1]:.1f} at {BEST[0]:.2f}")
    example.set(
        title="Example 13.1", xlabel="probability of going right", ylabel="J", ylim=(-100, 0)
    )
    for label, (returns, _) in curves.items():
        mean = returns.mean(1)
        if "baseline" not in label:
            plain.plot(mean, linewidth=0.8, label=label)
        if "baseline" in label or "2^-13" in label:
            baseline.plot(mean, linewidth=0.8, label=label)
    for axes, title in ((plain, "Figure 13.1"), (baseline, "Figure 13.2")):
        axes.axhline(BEST[1], color="black", linestyle="--", linewidth=0.8, label="best")
        axes.set(title=title, xlabel="episode", ylabel="return, mean over runs", ylim=(-90, -8))
    for axes in (example, plain, baseline):
        axes.legend(frameon=False, loc="lower right" if axes is not example else "lower center")
        axes.grid(alpha=0.3)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
