"""What a config stands for: environments, policy, estimator, optimiser, algorithm."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import gymnasium as gym
import jax
import jax.numpy as jnp
import optax
from gymnasium.vector import VectorEnv

from pgjax import advantages
from pgjax.algorithms.reinforce import reinforce
from pgjax.config.settings import TrainConfig
from pgjax.gym import spaces
from pgjax.gym.actions import policy_for
from pgjax.numerics.sums import Sharding
from pgjax.policies import ConvTorso, NormalizedObs, ValueNetwork
from pgjax.types import Algorithm, TrainState

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"relu": nn.relu, "tanh": nn.tanh}


class Agent(NamedTuple):
    """The objects that a config stands for."""

    policy: nn.Module
    algorithm: Algorithm
    init: Callable[[Any], TrainState]  # of a seed: an int, or [] uint32


def make_agent(
    config: TrainConfig, env: gym.Env | VectorEnv, axis_name: str | None = None
) -> Agent:
    """The policy and the algorithm of a config, for an environment's spaces.

    With `axis_name` its update is for the devices of that mapped axis; see `reinforce`.

    Raises:
      SpaceError: for spaces that are not supported.
    """
    single: Any = env  # a vector's spaces are those of one of its environments, batched
    prefix = "single_" if isinstance(env, VectorEnv) else ""
    action_space = getattr(single, f"{prefix}action_space")
    observation_space = getattr(single, f"{prefix}observation_space")
    observations = spaces.observations(observation_space)
    picture, torso = spaces.image_shape(observation_space), None
    if picture is not None:
        torso = ConvTorso(picture)
    activation = _ACTIVATIONS[config.activation]
    policy = policy_for(action_space, config.hidden_sizes, activation, config.squash, torso)
    critic: nn.Module | None = None
    if config.critic:
        critic = ValueNetwork(config.hidden_sizes, activation, torso)
    if config.normalize_obs and picture is None:  # which the torso scales
        policy, critic = NormalizedObs(policy), critic and NormalizedObs(critic)
    algorithm = reinforce(
        policy,
        make_optimizer(config),
        estimator=make_estimator(config),
        critic=critic,
        entropy_coef=_over_the_run(config, config.entropy_coef, config.anneal_entropy),
        value_coef=config.value_coef,
        mean_over=config.mean_over,
        chunk_size=config.chunk_size,
        normalize_rewards=config.gamma if config.scale_rewards else None,
        sharding=Sharding(config.num_shards if config.on_device else 1, axis_name),
    )

    def init(seed: int | jax.Array) -> TrainState:
        obs = jnp.zeros(observations.size, observations.dtype)
        return algorithm.init(jax.random.key(seed), obs)

    return Agent(policy, algorithm, init)


def make_estimator(config: TrainConfig) -> advantages.Estimator:
    """The estimator of a config, from the inside out."""
    if config.estimator == "gae":
        estimator = advantages.gae(
            config.gamma, config.gae_lambda, reward_scale=config.reward_scale
        )
    else:
        estimator = advantages.reward_to_go(config.gamma, reward_scale=config.reward_scale)
    if config.leave_one_out:
        estimator = advantages.leave_one_out(estimator)
    if config.normalize:
        estimator = advantages.normalized(estimator)
    if config.time_discount:
        estimator = advantages.time_discounted(estimator, config.gamma)
    return estimator


def _over_the_run(config: TrainConfig, value: float, anneal: bool) -> Any:
    """The value, or a schedule that brings it to zero with the last update."""
    return optax.linear_schedule(value, 0.0, config.updates) if anneal else value


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Adam, at a constant or annealed rate, behind clipping by the global norm where asked for."""
    # Flattened, since a small network's Adam is otherwise mostly the overhead of its many leaves.
    rate = _over_the_run(config, config.learning_rate, config.anneal)
    adam = optax.flatten(optax.adam(rate))
    if config.max_grad_norm is None:
        return adam
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), adam)
