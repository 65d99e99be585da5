"""One measurement of on-device training, in a separate process; on_device.py runs this script.

Prints one line of JSON.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec

import pgjax
from pgjax.config.agent import make_agent
from pgjax.config.env import open_env
from pgjax.evaluation.evaluate import compile_evaluation, evaluate
from pgjax.numerics.xla import fastest_compile
from pgjax.runs.run import Run
from pgjax.training.engines import AXIS, device_engine

jax.config.update("jax_cpu_enable_async_dispatch", False)  # as the command line does

UPDATES = 20  # per dispatch


def threshold(args: argparse.Namespace) -> dict[str, Any]:
    """Train the preset until it evaluates at 475 (acting by the mode, 20 episodes)."""
    config = pgjax.TrainConfig.preset("CartPole-v1", seed=args.seed, on_device=True)
    with open_env(config) as env:
        agent = make_agent(config, env)
    mesh = Mesh(np.array(jax.devices()[:1]), (AXIS,))
    sharding = pgjax.Sharding(config.num_shards)
    engine = device_engine(config, env.env, agent.algorithm, sharding, mesh)
    compile_evaluation(config, 20)
    init = jax.jit(agent.init, compiler_options=fastest_compile())
    states, score, steps = engine.begin([init(np.uint32(config.seed))]), 0.0, 0
    while score < 475 and int(states.step[0]) < config.updates:
        states, records = engine.advance(states, 2 * UPDATES)
        steps += sum(info["env_steps"] for info in records.metrics[0])
        run = Run(Path(), config, agent, engine.end(states)[0])
        score = evaluate(run, 20)["mean"]
    return {"evaluation": score, "steps": steps}


def throughput(args: argparse.Namespace) -> dict[str, Any]:
    """Real steps per second of training, after compilation and two dispatches of updates."""
    env = pgjax.envs.make(args.env)
    if args.env == "CartPole-v1":
        policy: Any = pgjax.SoftmaxPolicy(2)
    else:
        policy = pgjax.GaussianPolicy(1, (64, 64), jnp.tanh)
    share_episodes = args.devices > 1 and args.seeds == 1  # devices share either episodes or seeds
    sharding = pgjax.Sharding(8, AXIS if share_episodes else None)
    optimizer = optax.flatten(optax.adam(0.01))
    algorithm = pgjax.reinforce(policy, optimizer, sharding=sharding)
    if args.no_learning:
        step: Any = lambda s: stepping(env, algorithm, s, args.envs)  # noqa: E731
    else:
        step = pgjax.training_step(algorithm, env, args.envs, sharding=sharding)

    def advance(state: Any) -> Any:
        return jax.lax.scan(lambda s, _: step(s), state, None, length=UPDATES)

    if args.seeds > 1:
        advance = jax.vmap(advance)
    if args.devices > 1:
        mesh = Mesh(np.array(jax.devices()[: args.devices]), (AXIS,))
        spec = PartitionSpec() if share_episodes else PartitionSpec(AXIS)
        advance = jax.shard_map(advance, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    advance = jax.jit(advance)
    states = [
        pgjax.init_on_device(algorithm, env, jax.random.key(args.seed + i))
        for i in range(args.seeds)
    ]
    state = jax.tree.map(lambda *x: jnp.stack(x), *states) if args.seeds > 1 else states[0]
    for _ in range(2):  # the result lies on all devices, so the second call compiles again
        state, info = jax.block_until_ready(advance(state))
    steps, dispatches, begun = 0, 0, time.perf_counter()
    while (
        dispatches * UPDATES < args.updates
        if args.updates
        else time.perf_counter() - begun < args.seconds
    ):
        state, info = advance(state)
        steps, dispatches = steps + int(np.asarray(info["env_steps"]).sum()), dispatches + 1
    seconds = time.perf_counter() - begun
    return {
        "steps_per_second": steps / seconds,
        "updates_per_second": dispatches * UPDATES / seconds,
    }


def stepping(env: Any, algorithm: Any, state: Any, num_envs: int) -> Any:
    """Step environment and policy 500 times without learning, ignoring ends of episodes."""
    env = pgjax.envs.flatten_observations(env)
    keys = jax.random.split(jax.random.fold_in(state.key, state.step), num_envs)
    env_state, obs = jax.vmap(env.reset)(keys)

    def one(carry: Any, t: Any) -> Any:
        env_state, obs = carry
        action = algorithm.act(state.params, jax.random.fold_in(keys[0], t), obs)
        env_state, obs, reward, _, _ = jax.vmap(env.step)(keys, env_state, action)
        return (env_state, obs), reward.sum()

    (_, obs), rewards = jax.lax.scan(one, (env_state, obs), jnp.arange(500))
    info = {"env_steps": jnp.int32(500 * num_envs), "sum": rewards.sum() + obs.sum()}
    return state._replace(step=state.step + 1), info


def versions(args: argparse.Namespace) -> dict[str, Any]:
    names = f"Python {platform.python_version()}, jax {jax.__version__} on {jax.devices()[0]}"
    return {"details": {"versions": names}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=["threshold", "throughput", "versions"])
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--envs", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--updates", type=int, help="number of updates, instead of --seconds")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-learning", action="store_true")
    args = parser.parse_args()
    print(json.dumps(globals()[args.mode](args)))


if __name__ == "__main__":
    main()
