"""Evaluate an agent on new episodes, with random keys that are independent of training."""

import dataclasses
import functools
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pgjax.collect.episodes import collect_episodes
from pgjax.collect.on_device import collect_episodes_on_device
from pgjax.config.agent import Agent, make_agent
from pgjax.config.env import open_env
from pgjax.config.settings import TrainConfig
from pgjax.errors import ConfigError, RunError, check_count
from pgjax.numerics.xla import compile_in_background, fastest_compile
from pgjax.runs.run import Run, RunLike, as_run
from pgjax.types import Algorithm, Params, TrainState

_EVALUATION = 2**32 - 2  # keeps evaluation keys distinct from training keys
_MAX_ENVS = 16  # environments stepped in parallel; affects only speed


def evaluate(
    run: RunLike,
    episodes: int = 100,
    seed: int = 1000,
    *,
    stochastic: bool = False,
    allow_env_import: bool = False,
) -> dict[str, Any]:
    """Compute statistics of the returns and lengths of new episodes.

    Use it to measure how well a trained agent performs.

    Args:
      run: a run or its folder.
      episodes: number of episodes, at least 1.
      seed: random seed, independent of training, 0 to 2**32 - 1.
      stochastic: sample actions instead of taking the mode of the policy.
      allow_env_import: as for `pgjax.load`.

    Returns:
      `mean`, `std` (with ddof 0), `min` and `max` of the undiscounted return, `mean_length` in
      steps, and `episodes`.

    Raises:
      ConfigError: if an argument is out of range.
      RunError: if memory runs out, since an on-device run evaluates all episodes together.
      Otherwise as for `pgjax.load`.

    Example:
      >>> import pgjax, pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp())
      >>> config = pgjax.TrainConfig("CartPole-v1", updates=1, episodes_per_update=2, run_dir=path)
      >>> run = pgjax.train(config)
      >>> sorted(pgjax.evaluate(run, episodes=2))
      ['episodes', 'max', 'mean', 'mean_length', 'min', 'std']
    """
    episodes = check_episodes(episodes)
    run = as_run(run, allow_env_import=allow_env_import)
    if run.config.on_device:
        reward, weight = _evaluate_on_device(run, episodes, seed, stochastic)
    else:
        reward, weight = _evaluate_in_python(run, episodes, seed, stochastic)
    returns = np.sum(reward, 0, dtype=np.float64)
    return {
        "mean": float(returns.mean()),
        "std": float(returns.std()),
        "min": float(returns.min()),
        "max": float(returns.max()),
        "mean_length": float(np.sum(weight, 0).mean()),
        "episodes": episodes,
    }


def evaluation_sentence(result: dict[str, Any]) -> str:
    """Format the result of `evaluate` as one line."""
    return (
        "mean {mean:.1f}  std {std:.1f}  min {min:.1f}  max {max:.1f}  "
        "mean length {mean_length:.1f}  over {episodes} episodes"
    ).format(**result)


def check_episodes(episodes: int) -> int:
    """Return `episodes`; raise ConfigError unless it is an integer from 1 to 2**31 - 1."""
    return check_count("--episodes", episodes, 2**31 - 1)


def _evaluate_in_python(
    run: Run, episodes: int, seed: int, stochastic: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return rewards and weights [T, episodes], zero where padded."""
    algorithm = run.agent.algorithm if stochastic else greedy(run.agent)
    state = evaluation_state(run, seed)
    config = run.config
    with open_env(config, min(_MAX_ENVS, episodes)) as env:
        rollout = collect_episodes(
            env.env,
            algorithm,
            state,
            episodes,
            squash=config.squash,
            step_timeout=config.step_timeout,
        )
    return np.asarray(rollout.reward), np.asarray(rollout.weight)


def _evaluate_on_device(
    run: Run, episodes: int, seed: int, stochastic: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and weights [T, episodes], zero where padded."""
    collect = compile_evaluation(run.config, episodes, stochastic=stochastic)
    try:
        return jax.device_get(collect.result()(run.state.params, _checked(seed)))
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        raise RunError(f"out of memory: evaluate fewer than {episodes} episodes") from None


_Compiled = Callable[[Params, np.uint32], tuple[jax.Array, jax.Array]]


def compile_evaluation(
    config: TrainConfig, episodes: int, *, stochastic: bool = False
) -> Future[_Compiled]:
    """Start compiling `evaluate` for an on-device run with these settings."""
    config = dataclasses.replace(config, seed=0, run_dir=None)  # the program depends on neither
    return _compile_once(config, episodes, stochastic)


@functools.lru_cache(maxsize=16)
def _compile_once(config: TrainConfig, episodes: int, stochastic: bool) -> Future[_Compiled]:
    """Compile (params, seed) -> rewards and weights [T, episodes], zero where padded."""

    def compile_() -> Any:
        with open_env(config) as env:
            agent = make_agent(config, env)
        algorithm = agent.algorithm if stochastic else greedy(agent)

        def collect(params: Params, seed: jax.Array) -> tuple[jax.Array, jax.Array]:
            state = TrainState(params, (), _evaluation_key(seed), jnp.zeros((), jnp.int32))
            rollout = collect_episodes_on_device(
                env.env, algorithm, state, episodes, squash=config.squash
            )
            return jnp.where(rollout.weight > 0, rollout.reward, 0.0), jnp.asarray(rollout.weight)

        zero = np.uint32(0)
        params = jax.eval_shape(agent.init, zero).params
        return jax.jit(collect, compiler_options=fastest_compile()).lower(params, zero).compile()

    return compile_in_background(compile_)


def greedy(agent: Agent) -> Algorithm:
    """The agent's algorithm with a greedy `act`: the mode of the policy."""
    return agent.algorithm._replace(act=_act_greedily(agent.policy))


@functools.cache  # one function per policy, so that jit compiles it once
def _act_greedily(policy: nn.Module) -> Callable[..., jax.Array]:
    def act(params: Any, key: jax.Array, obs: jax.Array) -> jax.Array:
        distribution: Any = policy.apply(params, obs)
        return distribution.mode()

    return act


def evaluation_state(run: Run, seed: int) -> TrainState:
    """TrainState for an evaluation: the run's parameters with a separate key, step 0.

    Raises:
      ConfigError: if `seed` is not an integer from 0 to 2**32 - 1.
    """
    key = _evaluation_key(_checked(seed))
    return run.state._replace(key=key, step=jnp.zeros((), jnp.int32))


def _checked(seed: int) -> np.uint32:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise ConfigError(f"--seed must be an integer from 0 to {2**32 - 1}, got {seed!r}")
    return np.uint32(seed)


@jax.jit
def _evaluation_key(seed: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), _EVALUATION)
