"""The agent made from a TrainConfig: policy, critic, estimator, optimiser and algorithm."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import optax

from pgjax import advantages
from pgjax.algorithms.gradients import scale_by_updates
from pgjax.algorithms.npg import npg
from pgjax.algorithms.ppo import ppo
from pgjax.algorithms.reinforce import reinforce
from pgjax.config.env import OpenEnv
from pgjax.config.settings import TrainConfig
from pgjax.gym.actions import policy_for
from pgjax.gym.masks import mask_size
from pgjax.gym.spaces import image_parts, leaves, observations
from pgjax.numerics.sums import Sharding
from pgjax.policies import MaskedPolicy, NormalizedObs, ValueNetwork
from pgjax.torsos import ConvTorso, MixedTorso
from pgjax.types import Algorithm, TrainState

_MANY_INPUTS = 10_000  # of a dense layer
_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"relu": nn.relu, "tanh": nn.tanh}


class Agent(NamedTuple):
    """The policy and the algorithm made from a TrainConfig."""

    policy: nn.Module
    """The Flax module; it maps observations to a distribution of actions."""
    algorithm: Algorithm
    """The algorithm for a single device."""
    init: Callable[[Any], TrainState]
    """(seed) -> the initial TrainState; the seed is an int or a uint32 scalar."""
    shard: Callable[[Sharding], Algorithm]
    """(sharding) -> the algorithm for devices that share the episodes of an update."""
    observation_space: gym.Space
    """Observation space of one environment."""
    action_space: gym.Space
    """Action space of one environment."""


def make_agent(config: TrainConfig, env: OpenEnv) -> Agent:
    """Make the policy and the algorithm of a config for the spaces of an environment.

    Raises:
      SpaceError: for spaces that are not supported.
    """
    seen = observations(env.observation_space)
    parts = image_parts(env.observation_space)
    torso = _torso(parts)
    activation = _ACTIVATIONS[config.activation]
    init_hidden = nn.initializers.orthogonal(2**0.5)
    layers: dict[str, Any] = {"kernel_init": init_hidden} if config.orthogonal_init else {}
    layers |= {"hidden_sizes": config.hidden_sizes, "activation": activation, "torso": torso}
    policy = policy_for(env.action_space, squash=config.squash, init_std=config.init_std, **layers)
    critic: nn.Module | None = ValueNetwork(**layers) if config.critic else None
    if config.action_mask:
        size = mask_size(env.action_space)
        policy = MaskedPolicy(policy, size)
        # The mask, which begins the first part, passes unchanged, as images do.
        (numbers, _), *others = parts
        parts = [(size, (size,)), (numbers - size, None), *others]
    if config.normalize_obs and any(shape is None for _, shape in parts):
        mixed = tuple(parts) if torso or config.action_mask else ()
        policy, critic = NormalizedObs(policy, mixed), critic and NormalizedObs(critic, mixed)
    shard = functools.partial(_algorithm, config, policy, critic)
    algorithm = shard(Sharding(config.shards))

    def init(seed: int | jax.Array) -> TrainState:
        obs = jnp.zeros(seen.size, seen.dtype)
        return algorithm.init(jax.random.key(seed), obs)

    return Agent(policy, algorithm, init, shard, env.observation_space, env.action_space)


def _torso(parts: list[tuple[int, tuple[int, ...] | None]]) -> nn.Module | None:
    """Return what reads the images among the parts of an observation; None if there are none."""
    if all(shape is None for _, shape in parts):
        return None
    if len(parts) == 1:
        [(_, shape)] = parts
        return ConvTorso(shape or ())
    return MixedTorso(tuple(parts))


def doubts(config: TrainConfig, env: OpenEnv) -> list[str]:
    """Return why an agent may not learn in an environment, and what to do, a line each."""
    found = []
    if env.time_limit is None and config.collect == "episodes":
        found.append(
            "the environment has no time limit, so an episode may never end: --max-episode-steps N "
            "truncates it"
        )
    if not config.action_mask and _offers_mask(env.observation_space):
        found.append("observations hold an action_mask: --action-mask rules out actions by it")
    flat = sum(size for size, shape in image_parts(env.observation_space) if shape is None)
    if flat > _MANY_INPUTS:
        found.append(
            f"a dense layer reads {flat:,} numbers of an observation: make it smaller with a "
            "wrapper (gymnasium.wrappers.ResizeObservation), or an image of uint8 from 0 to 255, "
            "at least 8 by 8, which goes through convolutions"
        )
    boxes = [
        leaf for leaf in leaves("action", env.action_space) if isinstance(leaf, gym.spaces.Box)
    ]
    if not config.squash and any(map(_is_far, boxes)):
        space = next(filter(_is_far, boxes))
        found.append(
            f"the bounds of the actions, {space.low.min():g} to {space.high.max():g}, are far from "
            "those that a new policy explores, -1 to 1: add --squash, or wrap the environment in "
            "gymnasium.wrappers.RescaleAction"
        )
    return found


def _offers_mask(space: gym.Space) -> bool:
    return isinstance(space, gym.spaces.Dict) and "action_mask" in space.spaces


def _is_far(space: gym.spaces.Box) -> bool:
    """Whether a new policy, which samples from about N(0, 1), can hardly explore the bounds.

    In some dimension its actions nearly all lie outside, or within a tenth of the range.
    """
    low, high = space.low.astype(np.float64).ravel(), space.high.astype(np.float64).ravel()
    bounded = np.isfinite(low) & np.isfinite(high) & (high > low)
    low, high = low[bounded], high[bounded]
    reached = np.clip(high, -2.0, 2.0) - np.clip(low, -2.0, 2.0)
    return bool(((reached < 0.1 * (high - low)) | (reached < 0.2)).any())


def _algorithm(
    config: TrainConfig, policy: nn.Module, critic: nn.Module | None, sharding: Sharding
) -> Algorithm:
    shared: dict[str, Any] = dict(
        estimator=make_estimator(config),
        critic=critic,
        entropy_coef=_schedule(config, config.entropy_coef, config.anneal_entropy),
        chunk_size=config.chunk_size,
        normalize_rewards=config.gamma if config.normalize_rewards else None,
        reward_clip=config.reward_clip,
        sharding=sharding,
    )
    epochs: dict[str, Any] = {
        "num_epochs": config.num_epochs,
        "minibatch_size": config.minibatch_size,
    }
    optimizer = make_optimizer(config)
    if config.algorithm == "reinforce":
        return reinforce(
            policy,
            optimizer,
            mean_over=config.mean_over,
            value_coef=config.value_coef,
            **shared,
        )
    if config.algorithm == "ppo":
        return ppo(
            policy,
            optimizer,
            clip=_schedule(config, config.clip, config.anneal_clip),
            value_coef=config.value_coef,
            value_clip=config.value_clip,
            recompute_advantages=config.recompute_advantages,
            target_kl=config.target_kl,
            **epochs,
            **shared,
        )
    return npg(
        policy,
        critic_optimizer=None if critic is None else optimizer,
        max_kl=config.max_kl,
        damping=config.damping,
        cg_steps=config.cg_steps,
        line_search=config.line_search,
        **epochs,
        **shared,
    )


def make_estimator(config: TrainConfig) -> advantages.Estimator:
    """Compose the estimator of a config, innermost first."""
    if config.estimator == "gae":
        estimator = advantages.gae(
            config.gamma, config.gae_lambda, reward_scale=config.reward_scale
        )
    else:
        estimator = advantages.reward_to_go(config.gamma, reward_scale=config.reward_scale)
    if config.leave_one_out:
        estimator = advantages.leave_one_out(estimator)
    if config.normalize_advantages:
        estimator = advantages.normalized(estimator)
    if config.time_discount:
        estimator = advantages.time_discounted(estimator, config.gamma)
    return estimator


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Make Adam with a constant or annealed learning rate, preceded by clipping if configured."""
    schedule = optax.linear_schedule(config.learning_rate, 0.0, config.updates)
    rate = (
        scale_by_updates(schedule)
        if config.anneal_lr
        else optax.scale_by_learning_rate(config.learning_rate)
    )
    # Flattened, since with small networks most of Adam's time is overhead per parameter array.
    adam = optax.flatten(optax.chain(optax.scale_by_adam(eps=config.adam_eps), rate))
    if config.max_grad_norm is None:
        return adam
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), adam)


def _schedule(config: TrainConfig, value: float, anneal: bool) -> Any:
    """Return a constant, or a linear schedule that reaches zero after the last update."""
    return optax.linear_schedule(value, 0.0, config.updates) if anneal else value
