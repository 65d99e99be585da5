"""Sutton & Barto's short corridor: Example 13.1 and Figures 13.1 and 13.2, over 100 runs.

python examples/short_corridor.py

Three states that look alike, the actions reversed in the second: no deterministic policy is any
good, and the best goes right with probability 2 - sqrt(2) = 0.5858, worth -11.657. Each episode is
one update, as in the book, though its steps are summed first and then taken; so a long episode
moves policy and baseline further at once, and with the baseline their step sizes are smaller here
than the book's, 2^-9 and 2^-6, with which some of the runs never come to an end.
"""

import argparse
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import pgjax
from pgjax.envs import tabular

MDP = tabular.short_corridor()
BEST = 2 - np.sqrt(2), -(6 + 4 * np.sqrt(2))  # p, J
LONGEST = 1024  # steps of an episode
START = 1.47  # left with probability 0.95, as in the book


class Policy(nn.Module):
    """Two weights, one for each action: the same in every state."""

    @nn.compact
    def __call__(self, obs):
        return pgjax.distributions.Categorical(nn.Dense(2, use_bias=False)(obs))


class Baseline(nn.Module):
    """One weight: the value of every state alike."""

    @nn.compact
    def __call__(self, obs):
        return nn.Dense(1, use_bias=False, kernel_init=nn.initializers.zeros)(obs).squeeze(-1)


def collect(act, params, keys):
    """An episode for each run, [R, T, 1, ...], with parameters of its own."""
    table = jnp.asarray(MDP.transition.argmax(-1))  # nothing is left to chance
    obs, terminal = jnp.asarray(MDP.obs, jnp.float32), jnp.asarray(MDP.terminal)

    def step(carry):
        t, state, states, actions = carry
        noise = jax.vmap(jax.random.fold_in, (0, None))(keys, t)
        action = jax.vmap(act)(params, noise, obs[state])
        after = jnp.where(terminal[state], state, table[state, action])
        return t + 1, after, states.at[t + 1].set(after), actions.at[t].set(action)

    def going_on(carry):
        t, state, *_ = carry
        return (t < LONGEST) & ~terminal[state].all()

    first = jnp.zeros(len(keys), jnp.int32)
    logs = jnp.full((LONGEST + 1, len(keys)), 3), jnp.zeros((LONGEST, len(keys)), jnp.int32)
    begin = 0, first, logs[0].at[0].set(first), logs[1]
    _, _, states, actions = jax.lax.while_loop(going_on, step, begin)
    before, after = states[:-1], states[1:]
    real = (before != 3).astype(jnp.float32)
    leaves = obs[before], actions, -real, after == 3, after < -1, obs[after], real
    return pgjax.Rollout(*(jnp.moveaxis(x, 0, 1)[:, :, None] for x in leaves))


def train(rate, baseline_rate, episodes, runs):
    """Returns of each episode [episodes, R], and probabilities of going right in the end [R]."""
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
        weights = {"Dense_0": {"kernel": jnp.array([[START, -START]])}}
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
def value(p):
    """J of going right with probability p, exactly."""
    return tabular.objective(MDP, jnp.broadcast_to(jnp.stack([1 - p, p])[None], (4, 2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--out", default="short_corridor.png")
    args = parser.parse_args()
    begun = time.perf_counter()
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
    print(f"{'the best there is':30}  p(right) {BEST[0]:.4f}           J {BEST[1]:.3f}")
    print(f"{len(curves) * args.runs} runs in {time.perf_counter() - begun:.1f} s")
    draw(curves, args.out)
    print(args.out)


def draw(curves, out) -> None:
    """Example 13.1, Figure 13.1, Figure 13.2."""
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
