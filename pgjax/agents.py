"""What a config stands for: environments, policy, estimator, optimiser, algorithm."""

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import optax
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from pgjax import advantages, envs, spaces
from pgjax.actions import actions, policy_for
from pgjax.algorithms import reinforce
from pgjax.chunks import Sharding
from pgjax.config import TrainConfig
from pgjax.errors import ConfigError, PgjaxError
from pgjax.policies import ConvTorso, NormalizedObs, ValueNetwork
from pgjax.stepping import said
from pgjax.types import Algorithm, TrainState

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"relu": nn.relu, "tanh": nn.tanh}


class Agent(NamedTuple):
    """The objects that a config stands for."""

    policy: nn.Module
    algorithm: Algorithm
    init: Callable[[Any], TrainState]  # of a seed: an int, or [] uint32


def make_env(config: TrainConfig, num_envs: int | None = None, **kwargs: Any) -> Any:
    """The environment of a config: a VectorEnv for config.num_envs > 1, else a single Env.

    Args:
      num_envs: in place of config.num_envs.
      **kwargs: for gymnasium.make.

    Raises:
      ConfigError: if Gymnasium cannot make it.
      SpaceError: for spaces that are not supported.
    """
    if config.vectorization == "envpool" and num_envs is None and not kwargs:
        return _make_envpool(config)
    num_envs = num_envs or config.num_envs
    if config.max_episode_steps is not None:
        kwargs["max_episode_steps"] = config.max_episode_steps
    kwargs["frame_stack"] = config.frame_stack
    make_one = functools.partial(_make_one, config.env_id, kwargs)
    try:
        if num_envs == 1:
            return make_one()
        if config.vectorization == "async":
            # Never a plain fork: JAX has threads, whose locks a forked child would inherit held.
            methods = multiprocessing.get_all_start_methods()
            return AsyncVectorEnv(
                [functools.partial(_make_in_process, make_one)] * num_envs,
                context="forkserver" if "forkserver" in methods else "spawn",
                autoreset_mode=AutoresetMode.DISABLED,
            )
        return SyncVectorEnv([make_one] * num_envs)
    except PgjaxError:
        raise
    except (Exception, SystemExit) as e:  # of its module and of its class, which are the user's
        of_gymnasium = isinstance(e, gym.error.Error)
        reason = " ".join(str(e).split()) if of_gymnasium else f"it {said(e)}"
        raise ConfigError(f"cannot make the environment {config.env_id!r}: {reason}") from e


def _make_envpool(config: TrainConfig) -> Any:
    try:
        import envpool
    except ImportError:
        raise ConfigError('envpool is missing: pip install "pgjax[envpool]"') from None
    # Its environments have the seeds from this one on: a hash keeps neighbouring runs apart.
    seed = int(np.random.SeedSequence(config.seed).generate_state(1)[0]) % 2**30
    options: dict[str, Any] = {"seed": seed}
    if config.max_episode_steps is not None:
        options["max_episode_steps"] = config.max_episode_steps
    try:
        env = envpool.make(config.env_id, env_type="gymnasium", num_envs=config.num_envs, **options)
    except Exception as e:
        reason = " ".join(str(e).split())
        raise ConfigError(f"envpool cannot make {config.env_id!r}: {reason}") from e
    try:
        ours = _shapes(env.single_observation_space, env.single_action_space)
        with contextlib.closing(make_env(config, 1)) as theirs:  # which evaluates what is learned
            if ours != _shapes(theirs.observation_space, theirs.action_space):
                raise ConfigError(
                    f"envpool's {config.env_id} has other spaces than Gymnasium's, which "
                    "evaluates: --vectorization sync or async"
                )
    except BaseException:
        env.close()
        raise
    return env


def _shapes(seen: gym.Space, acted: gym.Space) -> tuple[Any, ...]:
    """What a policy is made for."""
    observations, sends = spaces.observations(seen), actions(acted)
    boxes = [leaf for leaf in spaces.leaves("action", acted) if isinstance(leaf, gym.spaces.Box)]
    bounds = [(*box.low.ravel().tolist(), *box.high.ravel().tolist()) for box in boxes]
    return observations.size, observations.dtype, sends.shape, sends.choices, bounds


def _make_one(env_id: str, options: dict[str, Any]) -> gym.Env:
    kwargs = dict(options)
    # Gymnasium's checker would tell twice what collect_episodes checks, and slow every step.
    frames = kwargs.pop("frame_stack", 1)
    env = gym.make(env_id, disable_env_checker=True, **kwargs)
    if frames > 1:
        env = gym.wrappers.FrameStackObservation(env, frames)
    # Before Gymnasium copies them for a vector, or starts processes.
    seen: Any = getattr(env, "observation_space", None)
    acted: Any = getattr(env, "action_space", None)
    spaces.observations(seen), actions(acted)
    return env


@contextlib.contextmanager
def opened_env(config: TrainConfig, num_envs: int | None = None, **kwargs: Any) -> Iterator[Any]:
    """As make_env, but a single one where the run is on the device: only its spaces are wanted.

    Its processes end with the work on it, whatever becomes of them.
    """
    env = make_env(config, 1 if config.on_device else num_envs, **kwargs)
    try:
        yield env
    except BaseException:
        if processes := getattr(env, "processes", ()):
            for process in processes:
                process.kill()  # it may hang, or hold back what nobody will read
                process.join()
            env.closed = True
        raise
    finally:
        close(env)


def close(env: Any) -> None:
    """Close an environment that is done with, whatever it says to that."""
    with warnings.catch_warnings(), contextlib.suppress(Exception, KeyboardInterrupt):
        warnings.simplefilter("ignore")
        env.close()


def _make_in_process(make_one: Callable[[], gym.Env]) -> gym.Env:
    """Make an environment that leaves signals to the process that steps it, and ends with it."""
    if multiprocessing.parent_process() is not None:  # Gymnasium also makes one to look at it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    return make_one()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def make_functional_env(config: TrainConfig) -> envs.Env:
    """The functional environment of a config.

    Raises:
      ConfigError: if there is none.
    """
    return envs.make(config.env_id, config.max_episode_steps)


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
        scale_rewards=config.gamma if config.scale_rewards else None,
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
