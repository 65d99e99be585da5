"""rejax's PPO on CartPole-v1: `threshold` trains to an evaluation of 475, `throughput` times it.

Prints one line of JSON.
"""

import argparse
import json
import time

import jax
from rejax import PPO

SETTINGS = dict(num_steps=64, num_epochs=4, num_minibatches=4, learning_rate=1e-3, ent_coef=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=["threshold", "throughput"])
    parser.add_argument("--envs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=SETTINGS["num_steps"])
    parser.add_argument("--hidden", type=int, default=None, help="two tanh layers; rejax's if none")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    settings = {**SETTINGS, "num_steps": args.steps}
    if args.hidden:
        sizes = (args.hidden, args.hidden)
        settings["agent_kwargs"] = dict(hidden_layer_sizes=sizes, activation="tanh")
    algorithm = PPO.create(env="CartPole-v1", num_envs=args.envs, **settings)
    steps = 20 * args.envs * args.steps

    @jax.jit
    def train(state):
        return jax.lax.scan(
            lambda s, _: (algorithm.train_iteration(s), None), state, None, length=20
        )[0]

    evaluate = jax.jit(lambda s, rng: algorithm.eval_callback(algorithm, s, rng)[1].mean())
    state = jax.jit(algorithm.init_state)(jax.random.PRNGKey(args.seed))
    if args.mode == "throughput":
        state, trained = jax.block_until_ready(train(state)), 0
        begun = time.perf_counter()
        while time.perf_counter() - begun < args.seconds:
            state, trained = jax.block_until_ready(train(state)), trained + steps
        print(json.dumps({"steps_per_second": trained / (time.perf_counter() - begun)}))
        return
    trained, score = 0, 0.0
    while score < 475 and trained < 2_000_000:
        state, trained = train(state), trained + steps
        score = float(evaluate(state, jax.random.PRNGKey(trained)))
    print(json.dumps({"evaluation": score, "steps": trained}))


if __name__ == "__main__":
    main()
