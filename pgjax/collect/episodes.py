"""Collect whole episodes from Gymnasium environments, in Python.

Each call of a compiled function takes time, and so does Python between steps. So one compiled loop
acts for many steps, and calls Python for the environments. Each observation is written once, into
the policy's input row, and episodes are extracted from the log at the end.
"""

import functools
import math
from collections.abc import Callable, Iterable
from typing import TypeVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from pgjax.collect.dispatch import compile_for
from pgjax.collect.episode_log import Episode, EpisodeLog, ReturnLog
from pgjax.collect.policy_fit import check_action
from pgjax.errors import check_count
from pgjax.gym.actions import actions
from pgjax.gym.results import EnvError, StepArrays
from pgjax.gym.serial import SerialEnvs
from pgjax.gym.stepping import adapt
from pgjax.types import Algorithm, Rollout, TrainState, check_type


def collect_episodes(
    env: gym.Env | VectorEnv,
    algorithm: Algorithm,
    state: TrainState,
    num_episodes: int,
    *,
    squash: bool = False,
    step_timeout: float = math.inf,
) -> Rollout:
    """Collect whole episodes, each until it is terminated or truncated.

    Use it with any Gymnasium environment. For a functional environment,
    `collect_episodes_on_device` returns the same rollout faster; use `collect_steps` for a fixed
    number of steps per update.

    Column b of the rollout is episode e = state.step * num_episodes + b of the run. It is reset
    with a seed hashed from (state.key, e), and its action at time t is drawn with the key
    fold_in(fold_in(state.key, e), t), whichever sub-environment runs it. A sub-environment that
    finishes an episode takes the next one, and the result does not depend on their number.

    state.key is not consumed: the same state gives the same rollout. Keep num_episodes constant
    during a run, or episodes repeat. This holds for JAX's default keys (threefry); a batch of rbg
    keys draws differently from its single keys.

    Args:
      env: one environment or a vector of them. A plain SyncVectorEnv may have any autoreset mode,
        because its environments are stepped one by one; any other vector needs mode DISABLED.
      algorithm: `act` is used.
      state: `params`, `key` and `step` are used.
      num_episodes: number of columns, at least 1.
      squash: send tanh of the raw action, scaled to the bounds of a Box, instead of clipping it.
      step_timeout: seconds after which a step or reset that has not returned is an error.
        Environments in this process are checked only on Unix, in the main thread and in Python
        code, and a timeout is detected within twice this time.

    Returns:
      Rollout of NumPy arrays [T, num_episodes, ...], where T is the length of the longest episode,
      rounded up to a power of two; it is at least 512 where that takes little memory, so that
      `update` is compiled for few lengths. Observations are flattened: [T, num_episodes, d].

    Raises:
      ConfigError: an argument has the wrong type, or num_episodes is not an integer of at least 1.
      SpaceError: a space or vector mode is not supported, or the policy does not fit the action
        space.
      RolloutError: an environment raised, hung, died, or returned an invalid or non-finite result.
        Its `replay` holds the reset seed and the actions that led to the error.

    Example:
      >>> import gymnasium, jax, optax, pgjax
      >>> env = gymnasium.make("Pendulum-v1", max_episode_steps=8)
      >>> algorithm = pgjax.reinforce(pgjax.GaussianPolicy(1, (4,)), optax.adam(0.01))
      >>> state = algorithm.init(jax.random.key(0), jax.numpy.zeros(3))
      >>> rollout = pgjax.collect_episodes(env, algorithm, state, num_episodes=3)
      >>> rollout.obs.shape  # [T, B, d]
      (512, 3, 3)
      >>> rollout.truncated[7].tolist()
      [True, True, True]
    """
    return run_episodes(
        EpisodeLog,
        env,
        algorithm,
        state,
        num_episodes,
        squash=squash,
        step_timeout=step_timeout,
    ).rollout()


def episode_returns(
    env: gym.Env | VectorEnv,
    algorithm: Algorithm,
    state: TrainState,
    num_episodes: int,
    *,
    max_steps: float = math.inf,
    squash: bool = False,
    step_timeout: float = math.inf,
    ended: Callable[[int], object] | None = None,
) -> ReturnLog:
    """Run the episodes that `collect_episodes` collects, and keep only their returns and lengths.

    An episode that has not ended after `max_steps` is cut off. Memory does not depend on the number
    of steps. `ended` is called with 1 after each episode. Other arguments, and errors, are those of
    `collect_episodes`.
    """
    make_log = functools.partial(ReturnLog, num_episodes, max_steps, ended)
    return run_episodes(
        make_log, env, algorithm, state, num_episodes, squash=squash, step_timeout=step_timeout
    )


_Log = TypeVar("_Log", bound=EpisodeLog)
_WATCH_EVERY = 16  # steps


def run_episodes(
    make_log: Callable[..., _Log],
    env: gym.Env | VectorEnv,
    algorithm: Algorithm,
    state: TrainState,
    num_episodes: int,
    *,
    squash: bool = False,
    step_timeout: float = math.inf,
    watch: Callable[[int], None] | None = None,
) -> _Log:
    """Run episodes as `collect_episodes` does, and return the log of them.

    Args:
      make_log: makes the log, given the arguments of EpisodeLog.
      watch: called every few steps with the number of steps of the longest running episode.
      env, algorithm, state, num_episodes, squash, step_timeout: as for `collect_episodes`.
    """
    num_episodes = check_count("num_episodes", num_episodes)
    check_type(algorithm, Algorithm)
    check_type(state, TrainState)
    envs = adapt(env)
    num_envs, sends = envs.num_envs, actions(envs.action_space, squash)
    compiled = compile_for(algorithm, state, np.zeros(envs.seen.size, envs.seen.dtype))
    check_action(sends, compiled.like, compiled.choices)
    params, seeds, noise = compiled.begin(state, num_episodes)
    log = make_log(num_envs, compiled.layout, compiled.like, sends.send)
    first = int(state.step) * num_episodes
    waiting = ((b, first + b, seed) for b, seed in enumerate(seeds))
    running: dict[int, Episode] = {}  # by slot
    slots: list[int] = []  # of the running episodes
    send = sends.send if isinstance(envs, SerialEnvs) else sends.send_batch
    step_envs, stop, watched = envs.step, 0, 0
    ends = log.terminated, log.truncated, log.success

    def start(free: Iterable[int]) -> None:
        """Start the next waiting episodes in free slots."""
        pairs = zip(free, waiting)  # noqa: B905  (there may be more slots than episodes)
        new = {slot: Episode(*episode, slot, log.time) for slot, episode in pairs}
        running.update(new)
        slots[:] = running
        if new:
            log.plan(new.values(), noise)
            envs.reset({slot: episode.seed for slot, episode in new.items()}, log.obs[log.time])

    def finish() -> None:
        """Record the episodes that ended, and start others in their slots."""
        nonlocal stop
        if ended := log.end(running):
            for slot in ended:
                del running[slot]
            start(ended)
            stop = int(min(stop, log.time + log.max_steps))

    def step(time: int) -> bool:
        """Step the running episodes; return whether something else has to be done."""
        log.time = time + 1
        into = StepArrays(log.obs[time + 1], log.reward[time], *ends)
        if step_envs(send(log.action[time, :num_envs]), slots, into):
            finish()
        return not running or time + 1 >= stop

    with envs.step_timeout(step_timeout):
        try:
            start(range(num_envs))
            while running:
                stop = log.prepare(running.values(), noise)
                if watch is not None:
                    if log.time >= watched:
                        watch(log.longest(running.values()))
                        watched = log.time + _WATCH_EVERY
                    stop = min(stop, watched)
                compiled.act(params, log.rows, log.action, log.time, stop, step)
                if running:  # some may have reached `max_steps`
                    finish()
        except EnvError as e:
            raise log.rollout_error(e, running.get(e.slot)) from e.__cause__
    return log
