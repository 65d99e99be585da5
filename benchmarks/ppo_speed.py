"""Compare the speed of PPO with rejax on the device, and with Stable-Baselines3 over Gymnasium.

    python benchmarks/ppo_speed.py --peers peers/bin/python

`--peers` is the Python of a virtual environment with benchmarks/peers/requirements.txt. Contenders
take turns for several rounds, each in a separate process, with equal networks (tanh), environments,
steps, epochs and minibatches; each ratio is the median of the ratios within a round. On the device:
CartPole-v1, 64 environments x 128 steps, 4 epochs of 4 minibatches, timed after compilation. Over
Gymnasium: HalfCheetah-v5, 8 environments x 256 steps, 10 epochs of minibatches of 64, 64-64
networks, training end to end (collecting, updating, and for pgjax reading the metrics). "To 475" is
the time from the start of a process with an empty compilation cache until PPO, trained on the
device with the preset, evaluates at 475 (20 episodes). Writes ppo_speed.json beside this file and
the table into README.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import readme

HERE = Path(__file__).parent
ENVS, STEPS, EPOCHS, MINIBATCHES = 64, 128, 4, 4


def on_device(hidden: int, devices: int, seconds: float) -> float:
    """Steps per second of training CartPole on the device."""
    import flax.linen as nn
    import jax
    import optax
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    import pgjax

    jax.config.update("jax_cpu_enable_async_dispatch", False)  # as the command line does
    env = pgjax.envs.make("CartPole-v1")
    sharding = pgjax.Sharding(devices, "devices" if devices > 1 else None)
    algorithm = pgjax.ppo(
        pgjax.SoftmaxPolicy(2, (hidden, hidden), nn.tanh),
        optax.flatten(optax.adam(1e-3)),
        critic=pgjax.ValueNetwork((hidden, hidden)),
        num_epochs=EPOCHS,
        minibatch_size=ENVS * STEPS // MINIBATCHES,
        sharding=sharding,
    )
    step = pgjax.training_step(algorithm, env, num_envs=ENVS, num_steps=STEPS)

    def ten(state: pgjax.TrainState, stream: pgjax.DeviceStream) -> Any:
        return jax.lax.fori_loop(0, 10, lambda _, carry: step(*carry)[:2], (state, stream))

    state = pgjax.init_on_device(algorithm, env, jax.random.key(0))
    stream = pgjax.init_stream(env, state.key, ENVS)
    if devices > 1:
        mesh = jax.make_mesh((devices,), ("devices",))
        specs = (P(), P("devices"))
        ten = jax.shard_map(ten, mesh=mesh, in_specs=specs, out_specs=specs, check_vma=False)
        state, stream = (
            jax.device_put(x, NamedSharding(mesh, spec))
            for x, spec in zip((state, stream), specs, strict=True)
        )
    compiled, done = jax.jit(ten), 0
    state, stream = jax.block_until_ready(compiled(state, stream))
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        state, stream = jax.block_until_ready(compiled(state, stream))
        done += 10 * ENVS * STEPS
    return done / (time.perf_counter() - begun)


def over_gymnasium(seconds: float) -> float:
    """Steps per second of training HalfCheetah over Gymnasium, metrics included."""
    import flax.linen as nn
    import gymnasium as gym
    import jax
    import numpy as np
    import optax

    import pgjax

    jax.config.update("jax_cpu_enable_async_dispatch", False)
    stream = pgjax.Stream(gym.make_vec("HalfCheetah-v5", 8, vectorization_mode="sync"))
    algorithm = pgjax.ppo(
        pgjax.GaussianPolicy(6, (64, 64), nn.tanh),
        optax.flatten(optax.adam(3e-4)),
        critic=pgjax.ValueNetwork((64, 64)),
        num_epochs=10,
        minibatch_size=64,
    )
    state = algorithm.init(jax.random.key(0), np.zeros(17, np.float32))
    done, begun = -2 * 2048, time.perf_counter()
    while done <= 0 or time.perf_counter() - begun < seconds:
        rollout = pgjax.collect_steps(stream, algorithm, state, 256)
        state, info = algorithm.update(state, rollout)
        _ = {name: x.item() for name, x in info.items()}
        done += 2048
        if done == 0:  # compiled
            begun = time.perf_counter()
    return done / (time.perf_counter() - begun)


def to_475() -> float:
    """Train the preset of PPO on the device until it evaluates at 475; return the evaluation."""
    import jax
    import numpy as np
    from jax.sharding import Mesh

    import pgjax
    from pgjax.config.agent import make_agent
    from pgjax.config.env import open_env
    from pgjax.evaluation.evaluate import compile_evaluation, evaluate
    from pgjax.runs.run import Run
    from pgjax.runs.states import train_state
    from pgjax.training.engines import AXIS, device_engine
    from pgjax.training.train import states_at

    jax.config.update("jax_cpu_enable_async_dispatch", False)
    config = pgjax.TrainConfig.preset("CartPole-v1", algorithm="ppo", on_device=True)
    with open_env(config) as env:
        agent = make_agent(config, env)
    mesh = Mesh(np.array(jax.devices()[:1]), (AXIS,))
    sharding = pgjax.Sharding(config.num_shards)
    engine = device_engine(config, env.env, agent.algorithm, sharding, mesh)
    compile_evaluation(config, 20)
    states, score, done = engine.begin(states_at([config], env.env, agent, [None])), 0.0, 0
    while score < 475 and done < config.updates:
        states, _ = engine.advance(states, 15)
        done += 15
        run = Run(Path(), config, agent, train_state(engine.end(states)[0]))
        score = evaluate(run, 20)["mean"]
    return score


def run(command: list[str], devices: int = 1) -> dict[str, Any]:
    """Run one turn in a process; return what it prints, and its seconds."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
        if devices > 1:
            environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
        begun = time.perf_counter()
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        seconds = time.perf_counter() - begun
    return json.loads(done.stdout.splitlines()[-1]) | {"seconds": seconds}


def turns(peers: str, seconds: float) -> dict[str, tuple[list[str], int]]:
    """Return the command and the number of devices of each contender."""
    own, time_ = [sys.executable, str(HERE / "ppo_speed.py")], ["--seconds", str(seconds)]
    table = {}
    for hidden in (64, 16):
        for n in (1, 2):
            options = ["--one", "device", "--hidden", str(hidden), "--devices", str(n)]
            table[f"pgjax, {hidden}-{hidden}, {n} device(s)"] = [*own, *options, *time_], n
        options = ["throughput", "--envs", str(ENVS), "--steps", str(STEPS)]
        rejax = [peers, str(HERE / "peers" / "rejax_ppo.py"), *options, "--hidden", str(hidden)]
        table[f"rejax, {hidden}-{hidden}"] = [*rejax, *time_], 1
    table["pgjax, HalfCheetah-v5"] = [*own, "--one", "gymnasium", *time_], 1
    sb3 = str(HERE / "peers" / "sb3.py")
    table["SB3, HalfCheetah-v5"] = [peers, sb3, "halfcheetah", *time_], 1
    return table


def table_of(rates: dict[str, list[float]], to_threshold: list[float]) -> list[str]:
    """Return the table of medians, and of the ratios within a round."""
    lines = ["| contender | steps/s | times its peer | in the rounds |", "|---|---|---|---|"]
    for name, mine in rates.items():
        ours = name.startswith("pgjax")
        peer = name.replace("pgjax", "SB3" if "HalfCheetah" in name else "rejax")
        peer = peer.partition(", 1 dev")[0].partition(", 2 dev")[0]
        cells = f"| {name} | {statistics.median(mine):,.0f} |"
        if ours:
            ratios = [x / y for x, y in zip(mine, rates[peer], strict=True)]
            cells += f" {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |"
        lines.append(cells if ours else f"{cells} | |")
    each = ", ".join(f"{x:.1f}" for x in to_threshold)
    middle = statistics.median(to_threshold)
    return [*lines, "", f"To 475, cold: {middle:.1f} s ({each})"]


def main() -> None:
    parser = readme.parser(__doc__)
    parser.add_argument("--peers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--one", choices=["device", "gymnasium", "475"], help=argparse.SUPPRESS)
    parser.add_argument("--hidden", type=int, default=64, help=argparse.SUPPRESS)
    parser.add_argument("--devices", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one == "475":
        print(json.dumps({"evaluation": to_475()}))
        return
    if args.one:
        if args.one == "device":
            rate = on_device(args.hidden, args.devices, args.seconds)
        else:
            rate = over_gymnasium(args.seconds)
        print(json.dumps({"steps_per_second": rate}))
        return
    if not args.peers:
        parser.error("--peers PYTHON is needed")
    table = turns(args.peers, args.seconds)
    rates: dict[str, list[float]] = {name: [] for name in table}
    to_threshold = []
    for i in range(args.rounds):
        for name, (command, devices) in table.items():
            rates[name].append(run(command, devices)["steps_per_second"])
        one = run([sys.executable, str(HERE / "ppo_speed.py"), "--one", "475"])
        if one["evaluation"] < 475:
            raise SystemExit(f"PPO ended at {one['evaluation']}, below 475")
        to_threshold.append(one["seconds"])
        last = {name: round(x[-1]) for name, x in rates.items()}
        print(f"round {i + 1}: {json.dumps(last)}, to 475 {to_threshold[-1]:.1f} s", flush=True)
    (HERE / "ppo_speed.json").write_text(
        json.dumps({"steps_per_second": rates, "seconds_to_475": to_threshold}, indent=1) + "\n"
    )
    readme.put_measured("ppo_speed", table_of(rates, to_threshold))


if __name__ == "__main__":
    main()
