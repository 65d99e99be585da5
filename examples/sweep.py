"""Train CartPole-v1 with 16 learning rates and 8 seeds each, in one compiled program.

    python examples/sweep.py

Prints the mean and the worst return of each learning rate and draws a heat map of all runs.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import pgjax


def main() -> None:
    pgjax.enable_compile_cache()  # later runs start faster
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--learning-rates", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--out", default="sweep.png")
    args = parser.parse_args()
    env = pgjax.envs.make("CartPole-v1")
    rates = np.geomspace(1e-3, 0.3, args.learning_rates)

    # With inject_hyperparams, the learning rate is an array in the optimiser's state, so vmap can
    # run over it like any other array.
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=0.0)
    algorithm = pgjax.reinforce(pgjax.SoftmaxPolicy(num_actions=2), optimizer)
    step = pgjax.training_step(algorithm, env, num_episodes=8)

    def final_return(rate: jax.Array, seed: jax.Array) -> jax.Array:
        """Train one run and return its mean return over the last 10 updates."""
        state = pgjax.init_on_device(algorithm, env, jax.random.key(seed))
        state.opt_state.hyperparams["learning_rate"] = rate
        _, info = jax.lax.scan(lambda state, _: step(state), state, None, length=args.updates)
        return info["mean_return"][-10:].mean()

    over_seeds = jax.vmap(final_return, in_axes=(None, 0))
    sweep = jax.jit(jax.vmap(over_seeds, in_axes=(0, None)))
    start = time.perf_counter()
    returns = np.asarray(sweep(jnp.asarray(rates, jnp.float32), jnp.arange(args.seeds)))
    print(f"{returns.size} runs in {time.perf_counter() - start:.1f} s, including compilation")
    for rate, row in zip(rates, returns, strict=True):
        print(f"learning rate {rate:.4f}  mean {row.mean():6.1f}  worst seed {row.min():6.1f}")

    figure = Figure(figsize=(5, 6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(returns, aspect="auto", origin="lower", vmin=0, vmax=500)
    axes.set_yticks(range(len(rates)), [f"{rate:.4f}" for rate in rates])
    axes.set(xlabel="seed", ylabel="learning rate", title="CartPole-v1, mean of the last returns")
    figure.colorbar(image, label="return")
    figure.savefig(args.out, dpi=120)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
