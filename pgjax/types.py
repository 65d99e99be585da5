"""The values that flow between the parts: the types are the specification."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Params = Any  # Flax variables: {"params": ..., and "critic": ... where there is one}
Info = dict[str, jax.Array]  # flat, scalars only, under the names of metrics.jsonl


class Rollout(NamedTuple):
    """Experience, time-major. A column is one episode, or one stream of steps.

    No result depends on what stands in padded slots (weight 0), NaN included.
    """

    obs: jax.Array  # [T, B, ...] what the policy saw
    action: jax.Array  # [T, B, ...] raw, as sampled: before any clip, squash or offset
    reward: jax.Array  # [T, B] float32
    terminated: jax.Array  # [T, B] bool: the task ended; nothing follows
    truncated: jax.Array  # [T, B] bool: cut off from outside, e.g. by a time limit
    next_obs: jax.Array  # [T, B, ...] the true successor, also at the end of an episode
    weight: jax.Array  # [T, B] float32: 1.0 for a real step, 0.0 for padding


class TrainState(NamedTuple):
    """All that the next iteration needs, and all that a checkpoint holds."""

    params: Params  # policy.apply(params, obs) works; params["critic"] is the critic's, if any
    opt_state: Any  # the optax state
    key: jax.Array  # typed key []: the root of every draw of the run; never changes
    step: jax.Array  # [] int32: updates made so far


class Algorithm(NamedTuple):
    """Five pure, jitted functions."""

    init: Callable[[jax.Array, jax.Array], TrainState]  # (key, obs) -> TrainState
    act: Callable[[Params, jax.Array, jax.Array], jax.Array]  # (params, key, obs) -> action
    log_prob: Callable[[Params, jax.Array, jax.Array], jax.Array]  # (params, obs, action) -> [...]
    loss: Callable[[Params, Rollout], tuple[jax.Array, Info]]  # (params, rollout) -> (scalar, Info)
    update: Callable[[TrainState, Rollout], tuple[TrainState, Info]]


def zero_padding(rollout: Rollout) -> Rollout:
    """The same rollout with zeros in every padded slot.

    By `where`, not by multiplying: 0 * nan is nan, in values and in gradients alike.
    """
    real = rollout.weight > 0

    def clear(leaf: jax.Array) -> jax.Array:
        leaf = jnp.asarray(leaf)
        mask = real.reshape(real.shape + (1,) * (leaf.ndim - real.ndim))
        return jnp.where(mask, leaf, jnp.zeros_like(leaf))

    return Rollout(*(clear(leaf) for leaf in rollout))


def repeat_first(real: jax.Array, x: jax.Array) -> jax.Array:
    """X [..., *rest] with its first real row in place of those that are not real [...].

    For observations and actions: zeros need not be possible ones, and what is undefined there would
    give NaN gradients, however it is weighted.
    """
    first = x.reshape((-1, *x.shape[real.ndim :]))[jnp.argmax(real.ravel())]
    mask = real.reshape(real.shape + (1,) * (x.ndim - real.ndim))
    return jnp.where(mask, x, jnp.broadcast_to(first, x.shape))


def segment_ends(rollout: Rollout) -> jax.Array:
    """[T, B] bool: the last real step of each episode, or of each column that stops unended.

    `rollout` is without NaN in its padding (see `zero_padding`).
    """
    real = rollout.weight > 0
    followed = jnp.concatenate([real[1:], jnp.zeros_like(real[:1])])
    return real & (rollout.terminated | rollout.truncated | ~followed)
