"""Compiled functions for the Python loops, with little overhead per call.

Calling a compiled function takes longer than the arithmetic of a small policy; each argument and
result adds to it. So the policy acts in a compiled loop that calls Python (see `HostLoop`),
parameters are passed as one flat vector, the noise of many steps is drawn in one call, and noise
and observation share one row for each dtype.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from pgjax.collect.noise import episode_keys, noise_at, reset_seeds, split_noise
from pgjax.collect.policy_fit import Choices, choices_of
from pgjax.numerics.host_loop import HostLoop
from pgjax.numerics.packing import Layout, lay_out, split
from pgjax.numerics.xla import fast_compile, single_thread
from pgjax.types import Algorithm, Params, TrainState

# Policies always act on this many rows at a time, since a batch of another size is computed, and
# so rounded, differently. Eight rows take no longer than two.
ROWS = 8
BLOCK = 128  # steps of noise drawn in one call: drawing too many costs less than calling again


class NoiseBlocks:
    """The noise of an update's episodes, drawn a block of steps at a time."""

    def __init__(self, first_block: Any, draw: Callable[[int], Any]):
        self._blocks, self._draw = [[np.asarray(x) for x in first_block]], draw

    def block(self, t: int) -> list[np.ndarray]:
        """Return the noise of BLOCK steps of all episodes from t, a multiple of BLOCK.

        The arrays are [num_episodes, BLOCK, ...]. Request blocks in order.
        """
        if t // BLOCK == len(self._blocks):
            self._blocks.append([np.asarray(x) for x in self._draw(t // BLOCK)])
        return self._blocks[t // BLOCK]

    def __call__(self, column: int, t: int) -> list[np.ndarray]:
        """Return the noise of BLOCK steps of an episode from t: [BLOCK, ...]."""
        return [x[column] for x in self.block(t)]


@dataclasses.dataclass(frozen=True)
class CompiledAct:
    """Compiled functions for an algorithm and the shapes of its parameters and observations."""

    layout: Layout  # of the rows that `act` reads: noise, followed by the observation
    like: Any  # shape and dtype of one action
    choices: Choices  # how many values each of its numbers may take
    act: HostLoop  # of (flat, rows [n, width] of each dtype) -> actions [n, ...]
    _begin: Callable[..., Any]

    def begin(
        self, state: TrainState, num_episodes: int
    ) -> tuple[jax.Array, list[int], NoiseBlocks]:
        """Return flat parameters, and the reset seeds and the noise of an update's episodes."""

        def begin(block: int) -> Any:
            args = state.params, state.key, state.step, np.uint32(block)
            return self._begin(*args, num_episodes)

        flat, seeds, first_block = begin(0)
        noise = NoiseBlocks(first_block, lambda block: begin(block)[2])
        return flat, np.asarray(seeds).tolist(), noise


def compile_for(
    algorithm: Algorithm, state: TrainState, obs: np.ndarray, rows: int = ROWS
) -> CompiledAct:
    """Compile for an algorithm, or reuse what was compiled for the same shapes.

    Args:
      algorithm: `act` is used.
      state: for the shapes and dtypes of `params` and `key`.
      obs: one observation [d].
      rows: how many the policy acts on at a time.
    """
    leaves, treedef = jax.tree.flatten(state.params)
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    return _compiled(algorithm.act, treedef, shapes, obs.shape, obs.dtype, state.key.dtype, rows)


@functools.lru_cache(maxsize=16)
def _compiled(
    act: Callable[..., jax.Array],
    treedef: Any,
    shapes: Any,
    obs_shape: tuple[int, ...],
    obs_dtype: Any,
    key_dtype: Any,
    rows: int,
) -> CompiledAct:
    # Only shapes are traced here: each operation on arrays would be a program to compile.
    params = treedef.unflatten([jax.ShapeDtypeStruct(*shape) for shape in shapes])
    key, obs = jax.ShapeDtypeStruct((), key_dtype), jax.ShapeDtypeStruct(obs_shape, obs_dtype)
    draw_one, act_on = split_noise(act, params, key, obs)
    drawn = [(x.shape, x.dtype) for x in jax.eval_shape(draw_one, key)]
    layout = lay_out([*drawn, (obs_shape, obs_dtype)])

    def act_on_flat(flat: jax.Array, *slots: jax.Array) -> jax.Array:
        _, unravel = ravel_pytree(treedef.unflatten([jnp.zeros(*shape) for shape in shapes]))
        params = unravel(flat)

        def act_on_row(row: list[jax.Array]) -> jax.Array:
            *noise, obs = split(layout, row)
            return act_on(params, tuple(noise), obs)

        blocks = [x.reshape(x.shape[0] // rows, rows, x.shape[1]) for x in slots]
        action = lax.map(jax.vmap(act_on_row), blocks)
        return action.reshape((-1,) + action.shape[2:])

    def begin(
        params: Params, key: jax.Array, step: jax.Array, block: jax.Array, num_episodes: int
    ) -> Any:
        """Return flat parameters, reset seeds, and noise: arrays [num_episodes, BLOCK, ...]."""
        first = jnp.asarray(step).astype(jnp.uint32) * num_episodes
        keys = episode_keys(key, first + jnp.arange(num_episodes, dtype=jnp.uint32))
        times = block * BLOCK + jnp.arange(BLOCK, dtype=jnp.uint32)
        noise = noise_at(draw_one, keys, times, time_axis=1)
        return ravel_pytree(params)[0], reset_seeds(keys), noise

    jit = functools.partial(jax.jit, compiler_options={**single_thread(), **fast_compile()})
    return CompiledAct(
        layout,
        *choices_of(act, params, key, obs),
        HostLoop(act_on_flat),
        jit(begin, static_argnums=4),
    )
