"""Config to objects, once; then the loop."""

import contextlib
import functools
import itertools
import math
import multiprocessing
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import gymnasium as gym
import jax
import jax.numpy as jnp
import optax
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from pgjax import advantages, envs, runs, spaces
from pgjax.algorithms import reinforce
from pgjax.config import TrainConfig
from pgjax.engines import Engine, device_engine, python_engine
from pgjax.errors import ConfigError, DivergedError, PgjaxError
from pgjax.policies import ValueNetwork
from pgjax.types import Algorithm, TrainState

_SECONDS_A_DISPATCH = 0.25
_TOTALS = ("total_episodes", "total_env_steps")
_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"relu": nn.relu, "tanh": nn.tanh}


class Agent(NamedTuple):
    """The objects that a config stands for."""

    policy: nn.Module
    algorithm: Algorithm
    init: Callable[[], TrainState]


class Run(NamedTuple):
    """A run, finished or read back."""

    path: Path
    config: TrainConfig
    agent: Agent
    state: TrainState


class Progress(Protocol):
    """Whoever watches a run."""

    def start(self, config: TrainConfig, env: gym.Env | VectorEnv, policy: nn.Module) -> None: ...
    def update(self, metrics: dict[str, Any], timings: dict[str, float]) -> None: ...


def make_env(config: TrainConfig, num_envs: int | None = None, **kwargs: Any) -> Any:
    """The environment of a config: a VectorEnv for config.num_envs > 1, else a single Env.

    Args:
      num_envs: in place of config.num_envs.
      **kwargs: for gymnasium.make.

    Raises:
      ConfigError: if Gymnasium cannot make it.
    """
    num_envs = num_envs or config.num_envs
    if config.max_episode_steps is not None:
        kwargs["max_episode_steps"] = config.max_episode_steps
    # Gymnasium's checker would tell twice what collect_episodes checks, and slow every step.
    make_one = functools.partial(gym.make, config.env_id, disable_env_checker=True, **kwargs)
    try:
        if num_envs == 1:
            return make_one()
        if config.vectorization == "async":
            # Never a plain fork: JAX has threads, whose locks a forked child would inherit held.
            methods = multiprocessing.get_all_start_methods()
            return AsyncVectorEnv(
                [make_one] * num_envs,
                context="forkserver" if "forkserver" in methods else "spawn",
                autoreset_mode=AutoresetMode.DISABLED,
            )
        return SyncVectorEnv([make_one] * num_envs)
    except (gym.error.Error, ImportError, ValueError, TypeError) as e:
        reason = " ".join(str(e).split())
        raise ConfigError(f"cannot make the environment {config.env_id!r}: {reason}") from None


def make_functional_env(config: TrainConfig) -> envs.Env:
    """The functional environment of a config.

    Raises:
      ConfigError: if there is none.
    """
    return envs.make(config.env_id, config.max_episode_steps)


def make_agent(config: TrainConfig, env: gym.Env | VectorEnv) -> Agent:
    """The policy and the algorithm of a config, for an environment's spaces.

    Raises:
      SpaceError: for spaces that are not supported.
    """
    single: Any = env  # a vector's spaces are those of one of its environments, batched
    prefix = "single_" if isinstance(env, VectorEnv) else ""
    action_space = getattr(single, f"{prefix}action_space")
    observations = spaces.observations(getattr(single, f"{prefix}observation_space"))
    spaces.actions(action_space, config.squash)  # so that what cannot be sent is told at once
    activation = _ACTIVATIONS[config.activation]
    policy = spaces.policy_for(action_space, config.hidden_sizes, activation, config.squash)
    algorithm = reinforce(
        policy,
        make_optimizer(config),
        estimator=make_estimator(config),
        critic=ValueNetwork(config.hidden_sizes, activation) if config.critic else None,
        entropy_coef=config.entropy_coef,
        value_coef=config.value_coef,
        mean_over=config.mean_over,
        chunk_size=config.chunk_size,
        num_shards=config.num_shards,
    )

    def init() -> TrainState:
        obs = jnp.zeros(observations.size, observations.dtype)
        return algorithm.init(jax.random.key(config.seed), obs)

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


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Adam, at a constant or annealed rate, behind clipping by the global norm where asked for."""
    # Flattened, since a small network's Adam is otherwise mostly the overhead of its many leaves.
    rate: Any = config.learning_rate
    if config.anneal:
        rate = optax.linear_schedule(rate, 0.0, config.updates)
    adam = optax.flatten(optax.adam(rate))
    if config.max_grad_norm is None:
        return adam
    return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), adam)


def train(config: TrainConfig, progress: Progress | None = None) -> Run:
    """Train, and leave a run folder behind (see pgjax.runs).

    Nothing is written before the first update has succeeded. After that an interrupt (Ctrl-C) or an
    error ends the training early: what was learned is saved, and it is raised again.

    Args:
      config: the settings.
      progress: told what was found and how each update went.

    Returns:
      The run, with its final TrainState.

    Raises:
      ConfigError, SpaceError: before the first step.
      RolloutError: if the environment gives something unusable.
      DivergedError: if a loss or gradient is not finite.
      RunError: if the run folder is taken.
    """
    path = runs.new_run_dir(config)
    functional = make_functional_env(config) if config.on_device else None
    env = make_env(config, num_envs=1 if functional else None)
    try:
        agent = make_agent(config, env)
        if progress is not None:
            progress.start(config, env, agent.policy)
        if functional is None:
            engine = python_engine(config, env, agent.algorithm)
        else:
            engine = device_engine(config, functional, agent.algorithm)
        state, totals, stopped_by = _loop(config, engine, agent, path, progress)
        runs.save_state(path, state)
        runs.write_json(path / "manifest.json", runs.manifest(config, state, totals))
    finally:
        _close(env)
    if stopped_by is not None:
        saved = f"after {int(state.step)} updates; saved in {path}"
        raise type(stopped_by)(f"{stopped_by} ({saved})".lstrip()) from stopped_by
    return Run(path, config, agent, state)


def _close(env: gym.Env | VectorEnv) -> None:
    """Close an environment whose workers an interrupt may have ended, or who hand it on to us."""
    with warnings.catch_warnings(), contextlib.suppress(OSError, EOFError, KeyboardInterrupt):
        warnings.simplefilter("ignore")
        env.close()


def _loop(
    config: TrainConfig, engine: Engine, agent: Agent, path: Path, progress: Progress | None
) -> tuple[TrainState, dict[str, int], BaseException | None]:
    """All updates: (state, totals, what cut it short after the first)."""
    state, size = agent.init(), 1
    last: dict[str, Any] = {"update": 0, "total_episodes": 0, "total_env_steps": 0}
    stopped_by: BaseException | None = None
    try:
        while last["update"] < config.updates:
            size = min(size, engine.most, config.updates - last["update"])
            begun = time.perf_counter()
            new_state, infos, timings = engine.advance(state, size)
            finite = [all(map(math.isfinite, info.values())) for info in infos]
            if not all(finite):
                size = finite.index(False)  # nothing is kept of what came after
                if size == 0:
                    wrong = last["update"] + 1
                    raise DivergedError(f"update {wrong} is not finite: lower the learning rate")
                continue
            metrics = list(itertools.accumulate(infos, _add_up, initial=last))[1:]
            timings = [{"update": m["update"], **t} for m, t in zip(metrics, timings, strict=True)]
            if last["update"] == 0:
                path.mkdir(parents=True, exist_ok=True)
                runs.write_json(path / "config.json", config.to_json())
            runs.append_lines(path / "metrics.jsonl", metrics)
            runs.append_lines(path / "timings.jsonl", timings)
            state, last = new_state, metrics[-1]
            if progress is not None:
                for update in zip(metrics, timings, strict=True):
                    progress.update(*update)
            # Seldom enough to be quick, often enough to look at and to stop.
            seconds = (time.perf_counter() - begun) / size
            size = min(2 * size, max(1, round(_SECONDS_A_DISPATCH / seconds)))
    except (KeyboardInterrupt, PgjaxError) as e:
        if last["update"] == 0:
            raise
        stopped_by = e
    return state, {name: last[name] for name in _TOTALS}, stopped_by


def _add_up(last: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """The metrics of an update, from those of the one before."""
    return {
        "update": last["update"] + 1,
        "total_episodes": last["total_episodes"] + info["episodes"],
        "total_env_steps": last["total_env_steps"] + info["env_steps"],
        **info,
    }


def load(path: Path | str, *, allow_env_import: bool = False) -> Run:
    """Read a run back from its folder.

    Args:
      path: the folder.
      allow_env_import: let an env id of the form module:Name import that module, which runs its
        code: only for a folder whose writer you trust.

    Raises:
      RunError, ConfigError: if it is not one, or not whole.
    """
    path = Path(path)
    config = runs.load_config(path)
    if ":" in config.env_id and not allow_env_import:
        raise ConfigError(
            f"{path} names an environment in a module to import, {config.env_id!r}: if you trust "
            "it, say so with --allow-env-import"
        )
    env = make_env(config, num_envs=1)
    try:
        agent = make_agent(config, env)
    finally:
        env.close()
    return Run(path, config, agent, runs.load_state(path, agent.init))
