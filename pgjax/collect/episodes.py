"""The thin Python loop over Gymnasium: whole episodes, numbered, the same for any width.

What costs here is dispatch and the Python between two steps: see pgjax.dispatch for the first. An
observation is copied once, straight to the row the policy reads, and episodes are cut out of the
log at the end.
"""

import math
from collections.abc import Iterable

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from pgjax.collect.dispatch import compile_for
from pgjax.collect.episode_log import Episode, EpisodeLog
from pgjax.collect.policy_fit import check_action
from pgjax.errors import ConfigError
from pgjax.gym import spaces
from pgjax.gym.actions import actions
from pgjax.gym.stepping import StepError, adapt
from pgjax.types import Algorithm, Rollout, TrainState


def collect_episodes(
    env: gym.Env | VectorEnv,
    algorithm: Algorithm,
    state: TrainState,
    num_episodes: int,
    *,
    squash: bool = False,
    step_timeout: float = math.inf,
) -> Rollout:
    """Run whole episodes, each until it is terminated or truncated.

    Episode e of a run, e = state.step * num_episodes + b, is column b of the rollout. It is reset
    with a seed hashed from (state.key, e) and acts at time t with
    fold_in(fold_in(state.key, e), t), whichever sub-environment runs it: the result does not depend
    on their number. A sub-environment that finishes takes the next episode. state.key is not
    consumed: the same state gives the same rollout. Keep num_episodes the same over a run, or
    episodes come up twice. All this holds for JAX's default keys (threefry): batches of rbg keys do
    not draw what each would alone.

    Args:
      env: one environment, or a vector of them. A plain SyncVectorEnv may have any autoreset mode,
        since its environments are stepped one by one; any other vector needs DISABLED.
      algorithm: `act` is used.
      state: `params`, `key` and `step` are used.
      num_episodes: columns of the rollout, at least 1.
      squash: send tanh of the raw action, scaled to the bounds of a Box, instead of clipping it.
      step_timeout: seconds after which a step or reset that has not come back is given up. Without
        processes of their own environments are found out after up to twice as long, on Unix, in the
        main thread, and unless they hang outside Python.

    Returns:
      Rollout of numpy arrays, [T, num_episodes, ...], T the longest length rounded up to a power of
      two and at least 8. Observations are flattened: [T, num_episodes, d].

    Raises:
      ConfigError: num_episodes below 1.
      SpaceError: a space or vector mode that is not supported.
      RolloutError: an environment raised, hung, died, or returned an observation of the wrong shape
        or a value that is not finite; its `replay` holds the reset seed and the actions that lead
        there.
    """
    integer = isinstance(num_episodes, int | np.integer) and not isinstance(num_episodes, bool)
    if not integer or num_episodes < 1:
        raise ConfigError(f"num_episodes must be an integer of at least 1, got {num_episodes!r}")
    envs = adapt(env)
    sends = actions(envs.action_space, squash)
    seen = spaces.observations(envs.observation_space)
    first = int(state.step) * int(num_episodes)
    compiled = compile_for(algorithm, state, np.zeros(seen.size, seen.dtype))
    check_action(sends, compiled.like, compiled.choices)
    params, seeds, noise = compiled.begin(state, num_episodes)
    log = EpisodeLog(envs.num_envs, seen, compiled.layout, sends.send)
    waiting = iter(range(num_episodes))
    running: dict[int, Episode] = {}  # by sub-environment

    def start(slots: Iterable[int]) -> None:
        pairs = zip(slots, waiting)  # noqa: B905
        new = [Episode(b, first + b, seeds[b], slot, log.time) for slot, b in pairs]
        if new:
            running.update((episode.slot, episode) for episode in new)
            try:
                all_obs = envs.reset({episode.slot: episode.seed for episode in new})
            except StepError as e:
                raise log.failed(running.get(e.slot), e, log.time) from e.__cause__
            for episode, obs in zip(new, all_obs, strict=True):
                log.observe(episode, obs)

    with envs.step_timeout(step_timeout):
        start(range(envs.num_envs))
        while running:
            time = log.time
            for episode in running.values():
                if episode.planned <= time:
                    log.plan(episode, noise(episode.column, time - episode.start))
            action = np.asarray(compiled.act(params, [row[time] for row in log.rows]))
            log.act(running, action)
            try:
                results = envs.step(sends.send(action), running)
            except StepError as e:
                raise log.failed(running.get(e.slot), e, time + 1) from e.__cause__
            ended = log.step(running, results)
            if ended:
                for slot in ended:
                    del running[slot]
                start(ended)
    return log.rollout()
