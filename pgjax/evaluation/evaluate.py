"""Evaluate an agent on new episodes, with random keys that are independent of training."""

import dataclasses
import functools
import math
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pgjax.collect.episode_log import success_info
from pgjax.collect.episodes import episode_returns
from pgjax.collect.on_device import collect_episodes_on_device
from pgjax.config.agent import Agent, make_agent
from pgjax.config.env import open_env
from pgjax.config.settings import EnvSource, TrainConfig
from pgjax.errors import ConfigError, RunError, check_count, counted
from pgjax.evaluation.seeds import check_seed, save_evaluation, seed_runs, seeds_summary
from pgjax.numerics.xla import compile_in_background, fastest_compile
from pgjax.runs.checkpoints import CheckpointName
from pgjax.runs.run import RunData, RunLike, run_path, unfinished
from pgjax.types import Algorithm, Params, TrainState

_EVALUATION = 2**32 - 2  # keeps evaluation keys distinct from training keys
_MAX_ENVS = 16  # at most so many environments step in parallel; affects only speed
_GROUP = 1024  # episodes that are run together at most; bounds the memory
Ended = Callable[[int], object]  # called with a number of episodes
MAX_STEPS = 10_000  # of an episode, where the environment has no time limit


class _Episodes(NamedTuple):
    """What is known of n episodes."""

    returns: np.ndarray  # [n] float64, undiscounted
    lengths: np.ndarray  # [n]
    cut: np.ndarray | None = None  # [n], whether at MAX_STEPS; None if there is a time limit
    successes: np.ndarray = np.zeros(0)  # [n], NaN where unknown; [0] on the device


def evaluate(
    run: RunLike,
    episodes: int = 100,
    seed: int = 1000,
    *,
    stochastic: bool = False,
    save: bool = False,
    checkpoint: CheckpointName | str = "last",
    allow_env_import: bool = False,
    env: EnvSource | None = None,
) -> dict[str, Any]:
    """Compute statistics of the returns and lengths of new episodes.

    Use it to measure how well a trained agent performs. Memory does not depend on the number of
    episodes. If the environment has no time limit, an episode is cut off after 10,000 steps.

    In the folder of several seeds, each has episodes of its own, so that their results are
    independent: the run of seed s has those of `seed` + s (modulo 2**32).

    Args:
      run: a run, its folder, or the folder of several seeds.
      episodes: number of episodes of each run, at least 1.
      seed: random seed, independent of training, 0 to 2**32 - 1.
      stochastic: sample actions instead of taking the mode of the policy.
      save: replace evaluation.json, in the folder of each run and of several seeds; it then also
        holds the return of each episode, and `seed` and `stochastic`.
      checkpoint, allow_env_import, env: as for `pgjax.load`; "last" for the state that a Run has.
        evaluation.json is that of the last checkpoint, so another one cannot be saved.

    Returns:
      `mean`, `std` (with ddof 0), `min` and `max` of the undiscounted return, `mean_length` in
      steps, and `episodes`. Without a time limit also `cut`, the number of episodes cut off. If
      the info of last steps has is_success or success, also `success_rate`.

      For several seeds, `mean_by_seed`, `episodes` (of each), and `interquartile_mean`, `low` and
      `high`, the interquartile mean of the seeds' means with its 95 % bootstrap interval; for fewer
      than five, only their `mean`. `unfinished` lists the seeds that diverged or failed, if any;
      they count with their last state.

    Raises:
      ConfigError: if an argument is out of range, or `save` is set with another checkpoint.
      RunError: if memory runs out, since an on-device run evaluates 1,024 episodes together, or
        evaluation.json cannot be written.
      Otherwise as for `pgjax.load`.

    Example:
      >>> import pgjax, pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp())
      >>> config = pgjax.TrainConfig("CartPole-v1", updates=1, episodes_per_update=2, run_dir=path)
      >>> run = pgjax.train(config)
      >>> sorted(pgjax.evaluate(run, episodes=2))
      ['episodes', 'max', 'mean', 'mean_length', 'min', 'std']
    """
    result, _ = evaluate_each(
        run,
        episodes,
        seed,
        stochastic=stochastic,
        save=save,
        checkpoint=checkpoint,
        allow_env_import=allow_env_import,
        env=env,
    )
    return {name: value for name, value in result.items() if name != "returns"}


def evaluate_each(
    run: RunLike,
    episodes: int = 100,
    seed: int = 1000,
    *,
    stochastic: bool = False,
    save: bool = False,
    checkpoint: CheckpointName | str = "last",
    allow_env_import: bool = False,
    env: EnvSource | None = None,
    ended: Ended | None = None,
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Evaluate a run, or each of several seeds.

    `ended` is called with the number of episodes that have ended since the last call. Other
    arguments, and errors, are those of `evaluate`.

    Returns:
      As `evaluate`, with `returns`, the return of each episode of a single run; and for several
      seeds the same of each run, by the name of its folder.
    """
    episodes = check_episodes(episodes)
    if save and checkpoint != "last":
        raise ConfigError("--save keeps the evaluation of the last checkpoint: omit --checkpoint")
    runs = seed_runs(run, seed, checkpoint=checkpoint, allow_env_import=allow_env_import, env=env)
    found = [
        (of_seed.path, _evaluate_run(of_seed, episodes, own, stochastic, ended), own)
        for of_seed, own in runs
    ]
    path = run_path(run)
    if path != found[0][0]:
        seeds = [of_seed.config.seed for of_seed, _ in runs]
        by_seed = {of_seed: result for of_seed, (_, result, _) in zip(seeds, found, strict=True)}
        early = [of.config.seed for of, _ in runs if checkpoint == "last" and unfinished(of)]
        found.append((path, seeds_summary(by_seed, early), int(seed)))
    for folder, result, own in found if save else ():
        save_evaluation(folder, result | {"seed": own, "stochastic": bool(stochastic)})
    *each, (_, result, _) = found
    return result, {folder.name: of_seed for folder, of_seed, _ in each}


def _evaluate_run(
    run: RunData, episodes: int, seed: int, stochastic: bool, ended: Ended | None
) -> dict[str, Any]:
    method = _evaluate_on_device if run.config.on_device else _evaluate_in_python
    returns, lengths, cut, successes = method(run, episodes, seed, stochastic, ended)
    result = {
        "mean": float(returns.mean()),
        "std": float(returns.std()),
        "min": float(returns.min()),
        "max": float(returns.max()),
        "mean_length": float(lengths.astype(np.float32).mean()),
        "episodes": episodes,
        "returns": returns.tolist(),
        **success_info(successes.tolist()),
    }
    return result if cut is None else result | {"cut": int(cut.sum())}


def evaluation_sentence(result: dict[str, Any]) -> str:
    """Format the result of `evaluate` as one line."""
    over = counted(result["episodes"], "episode")
    if result.get("cut"):
        over += f", {result['cut']:,} of them cut off after {MAX_STEPS:,} steps (no time limit)"
    success = "  success rate {success_rate:.3f}" if "success_rate" in result else ""
    return (
        "mean {mean:.1f}  std {std:.1f}  min {min:.1f}  max {max:.1f}  "
        "mean length {mean_length:.1f}" + success + "  over {over}"
    ).format(**result, over=over)


def check_episodes(episodes: int) -> int:
    """Return `episodes`; raise ConfigError unless it is an integer from 1 to 2**31 - 1."""
    return check_count("--episodes", episodes, 2**31 - 1)


def _groups(episodes: int) -> tuple[range, int]:
    """Divide episodes into groups of the same size, at most _GROUP; the last may have too many.

    Group g holds the episodes g * size, g * size + 1, ..., which are those of `state.step` g.
    """
    num_groups = -(-episodes // _GROUP)
    return range(num_groups), -(-episodes // num_groups)


def _evaluate_in_python(
    run: RunData, episodes: int, seed: int, stochastic: bool, ended: Ended | None
) -> _Episodes:
    algorithm = run.agent.algorithm if stochastic else greedy(run.agent)
    state = evaluation_state(run, seed)
    config = run.config
    groups, size = _groups(episodes)
    with open_env(config, min(_MAX_ENVS, config.num_envs, episodes)) as env:
        logs = [
            episode_returns(
                env.env,
                algorithm,
                state._replace(step=jnp.int32(group)),
                size,
                max_steps=MAX_STEPS if env.time_limit is None else math.inf,
                squash=config.squash,
                step_timeout=config.step_timeout,
                ended=ended,
            )
            for group in groups
        ]
    names = ("returns", "lengths", "cut", "successes")
    found = _Episodes(
        *(np.concatenate([getattr(log, name) for log in logs])[:episodes] for name in names)
    )
    return found if env.time_limit is None else found._replace(cut=None)


def _evaluate_on_device(
    run: RunData, episodes: int, seed: int, stochastic: bool, ended: Ended | None
) -> _Episodes:
    collect = compile_evaluation(run.config, episodes, stochastic=stochastic).result()
    groups, size = _groups(episodes)
    sums = []
    try:
        for group in groups:
            found = collect(run.state.params, check_seed(seed), np.int32(group))
            reward, weight = jax.device_get(found)
            sums.append((np.sum(reward, 0, dtype=np.float64), np.sum(weight, 0)))
            if ended is not None:
                ended(size)
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        raise RunError(f"out of memory: evaluate fewer than {counted(size, 'episode')}") from None
    returns, lengths = (np.concatenate(x)[:episodes] for x in zip(*sums, strict=True))
    return _Episodes(returns, lengths)


_Compiled = Callable[[Params, np.uint32, np.int32], tuple[jax.Array, jax.Array]]


def compile_evaluation(
    config: TrainConfig, episodes: int, *, stochastic: bool = False
) -> Future[_Compiled]:
    """Start compiling `evaluate` for an on-device run with these settings."""
    config = dataclasses.replace(config, seed=0, run_dir=None)  # the program depends on neither
    return _compile_once(config, _groups(episodes)[1], stochastic)


@functools.lru_cache(maxsize=16)
def _compile_once(config: TrainConfig, episodes: int, stochastic: bool) -> Future[_Compiled]:
    """Compile (params, seed, group) -> rewards and weights [T, episodes], zero where padded."""

    def compile_() -> Any:
        with open_env(config) as env:
            agent = make_agent(config, env)
        algorithm = agent.algorithm if stochastic else greedy(agent)

        def collect(
            params: Params, seed: jax.Array, group: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            state = TrainState(params, (), _evaluation_key(seed), group)
            rollout = collect_episodes_on_device(
                env.env, algorithm, state, episodes, squash=config.squash
            )
            return jnp.where(rollout.weight > 0, rollout.reward, 0.0), jnp.asarray(rollout.weight)

        zero = np.uint32(0)
        params = jax.eval_shape(agent.init, zero).params
        jitted = jax.jit(collect, compiler_options=fastest_compile())
        return jitted.lower(params, zero, np.int32(0)).compile()

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


def evaluation_state(run: RunData, seed: int) -> TrainState:
    """TrainState for an evaluation: the run's parameters with a separate key, step 0.

    Raises:
      ConfigError: if `seed` is not an integer from 0 to 2**32 - 1.
    """
    key = _evaluation_key(check_seed(seed))
    return run.state._replace(key=key, step=jnp.zeros((), jnp.int32))


@jax.jit
def _evaluation_key(seed: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), _EVALUATION)
