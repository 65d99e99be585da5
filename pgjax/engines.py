"""What makes the updates of a run: the Python loop over Gymnasium, or a program on the device."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector import VectorEnv
from jax import lax

from pgjax import envs
from pgjax.config import TrainConfig
from pgjax.dispatch import updater
from pgjax.gym_rollout import collect_episodes
from pgjax.rollout import training_step
from pgjax.types import Algorithm, Info, TrainState

_MOST = 256  # updates in one dispatch


class Engine(NamedTuple):
    """Makes updates, one or several in a call."""

    # (state, how many) -> (state, metrics of each update, timings of each)
    advance: Callable[[TrainState, int], tuple[TrainState, list[dict[str, Any]], list[Any]]]
    most: int  # updates in one call


def python_engine(config: TrainConfig, env: gym.Env | VectorEnv, algorithm: Algorithm) -> Engine:
    """The Python loop: an update at a time."""
    update = updater(algorithm.update)

    def advance(state: TrainState, count: int) -> Any:
        begun = time.perf_counter()
        rollout = collect_episodes(
            env, algorithm, state, config.episodes_per_update, squash=config.squash
        )
        collected = time.perf_counter()
        state, info = update(state, rollout)
        updated = time.perf_counter()
        timing = {
            "seconds_collecting": collected - begun,
            "seconds_updating": updated - collected,
            "steps_per_second": info["env_steps"] / (updated - begun),
        }
        return state, [info], [timing]

    return Engine(advance, 1)


def device_engine(config: TrainConfig, env: envs.Env, algorithm: Algorithm) -> Engine:
    """Environment and learner in one compiled program, which makes many updates in a dispatch."""
    step = training_step(algorithm, env, config.episodes_per_update, squash=config.squash)

    @jax.jit
    def run(state: TrainState, count: jax.Array) -> tuple[TrainState, Info]:
        def one_more(i: jax.Array, carry: tuple[TrainState, Info]) -> tuple[TrainState, Info]:
            state, info = step(carry[0])
            return state, jax.tree.map(lambda all_, x: all_.at[i].set(x), carry[1], info)

        like = jax.eval_shape(step, state)[1]
        infos = jax.tree.map(lambda x: jnp.zeros((_MOST, *x.shape), x.dtype), like)
        return lax.fori_loop(0, count, one_more, (state, infos))

    def advance(state: TrainState, count: int) -> Any:
        begun = time.perf_counter()
        state, log = run(state, jnp.int32(count))
        columns = {name: np.asarray(x)[:count].tolist() for name, x in sorted(log.items())}
        infos = [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
        seconds = (time.perf_counter() - begun) / count
        timings = [
            {"seconds": seconds, "steps_per_second": info["env_steps"] / seconds} for info in infos
        ]
        return state, infos, timings

    return Engine(advance, _MOST)
