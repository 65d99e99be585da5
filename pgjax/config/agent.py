"""The agent made from a TrainConfig: policy, critic, estimator, optimiser and algorithm."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from pgjax import advantages
from pgjax.algorithms.reinforce import reinforce
from pgjax.config.env import OpenEnv
from pgjax.config.settings import TrainConfig
from pgjax.gym.actions import policy_for
from pgjax.gym.spaces import image_shape, observations
from pgjax.numerics.sums import Sharding
from pgjax.policies import ConvTorso, NormalizedObs, ValueNetwork
from pgjax.types import Algorithm, TrainState

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


def make_agent(config: TrainConfig, env: OpenEnv) -> Agent:
    """Make the policy and the algorithm of a config for the spaces of an environment.

    Raises:
      SpaceError: for spaces that are not supported.
    """
    seen = observations(env.observation_space)
    image, torso = image_shape(env.observation_space), None
    if image is not None:
        torso = ConvTorso(image)
    activation = _ACTIVATIONS[config.activation]
    policy = policy_for(env.action_space, config.hidden_sizes, activation, config.squash, torso)
    critic: nn.Module | None = None
    if config.critic:
        critic = ValueNetwork(config.hidden_sizes, activation, torso)
    if config.normalize_obs and image is None:  # the torso scales images itself
        policy, critic = NormalizedObs(policy), critic and NormalizedObs(critic)
    shard = functools.partial(_reinforce, config, policy, critic)
    algorithm = shard(Sharding(config.num_shards if config.on_device else 1))

    def init(seed: int | jax.Array) -> TrainState:
        obs = jnp.zeros(seen.size, seen.dtype)
        return algorithm.init(jax.random.key(seed), obs)

    return Agent(policy, algorithm, init, shard)


def _reinforce(
    config: TrainConfig, policy: nn.Module, critic: nn.Module | None, sharding: Sharding
) -> Algorithm:
    return reinforce(
        policy,
        make_optimizer(config),
        estimator=make_estimator(config),
        critic=critic,
        entropy_coef=_schedule(config, config.entropy_coef, config.anneal_entropy),
        value_coef=config.value_coef,
        mean_over=config.mean_over,
        chunk_size=config.chunk_size,
        normalize_rewards=config.gamma if config.normalize_rewards else None,
        sharding=sharding,
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
    rate = _schedule(config, config.learning_rate, config.anneal_lr)
    # Flattened, since with small networks most of Adam's time is overhead per parameter array.
    adam = optax.flatten(optax.adam(rate))
    if config.max_grad_norm is None:
        return adam
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), adam)


def _schedule(config: TrainConfig, value: float, anneal: bool) -> Any:
    """Return a constant, or a linear schedule that reaches zero after the last update."""
    return optax.linear_schedule(value, 0.0, config.updates) if anneal else value
