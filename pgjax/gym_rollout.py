"""The thin Python loop over Gymnasium: whole episodes, numbered, the same for any width.

What costs here is dispatch and the Python between two steps: see pgjax.dispatch for the first. An
observation is copied once, straight to the row the policy reads, and episodes are cut out of the
log at the end.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from pgjax import spaces
from pgjax.dispatch import compile_for
from pgjax.episode_log import Episode, EpisodeLog
from pgjax.errors import ConfigError, SpaceError
from pgjax.types import Algorithm, Rollout, TrainState


def collect_episodes(
    env: gym.Env | VectorEnv,
    algorithm: Algorithm,
    state: TrainState,
    num_episodes: int,
    *,
    squash: bool = False,
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

    Returns:
      Rollout of numpy arrays, [T, num_episodes, ...], T the longest length rounded up to a power of
      two and at least 8. Observations are flattened: [T, num_episodes, d].

    Raises:
      ConfigError: num_episodes below 1.
      SpaceError: a space or vector mode that is not supported.
      RolloutError: an observation of the wrong shape, or a value that is not finite.
    """
    integer = isinstance(num_episodes, int | np.integer) and not isinstance(num_episodes, bool)
    if not integer or num_episodes < 1:
        raise ConfigError(f"num_episodes must be an integer of at least 1, got {num_episodes!r}")
    envs = _adapt(env)
    sends = spaces.actions(envs.action_space, squash)
    seen = spaces.observations(envs.observation_space)
    first = int(state.step) * int(num_episodes)
    compiled = compile_for(algorithm, state, np.zeros(seen.size, seen.dtype))
    params, seeds, noise = compiled.begin(state, num_episodes)
    log = EpisodeLog(envs.num_envs, seen, compiled.layout)
    waiting = iter(range(num_episodes))
    running: dict[int, Episode] = {}  # by sub-environment

    def start(slots: Iterable[int]) -> None:
        new = [Episode(b, first + b, slot, log.time) for slot, b in zip(slots, waiting)]  # noqa: B905
        if new:
            all_obs = envs.reset({episode.slot: seeds[episode.column] for episode in new})
            for episode, obs in zip(new, all_obs, strict=True):
                running[episode.slot] = episode
                log.observe(episode, obs)

    start(range(envs.num_envs))
    while running:
        time = log.time
        for episode in running.values():
            if episode.planned <= time:
                log.plan(episode, noise(episode.column, time - episode.start))
        action = np.asarray(compiled.act(params, [row[time] for row in log.rows]))
        if time == 0:
            sends.check(action)
        ended = log.step(running, action, envs.step(sends.send(action), running))
        if ended:
            for slot in ended:
                del running[slot]
            start(ended)
    return log.rollout()


class _InTurn:
    """Environments of this process, stepped one after the other; none that has ended is touched."""

    def __init__(self, envs: Sequence[gym.Env]):
        self.envs, self.num_envs = envs, len(envs)
        self.action_space, self.observation_space = envs[0].action_space, envs[0].observation_space

    def reset(self, seeds: dict[int, int]) -> list[Any]:
        return [self.envs[slot].reset(seed=seed)[0] for slot, seed in seeds.items()]

    def step(self, actions: Any, slots: Iterable[int]) -> Iterable[Any]:
        return [self.envs[slot].step(actions[slot]) for slot in slots]


class _Together:
    """A VectorEnv whose environments all step at once.

    One that has no episode left to run repeats its last, unrecorded, since Gymnasium lets none be
    stepped beyond its end.
    """

    def __init__(self, env: VectorEnv):
        mode = env.metadata.get("autoreset_mode")
        if mode != AutoresetMode.DISABLED:
            raise SpaceError(
                f"a vector environment must leave resets to pgjax, and this one has {mode}: make "
                'it with gymnasium.make_vec(..., vectorization_mode="sync" or "async", '
                'vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED})'
            )
        self.env, self.num_envs = env, env.num_envs
        self.action_space = env.single_action_space
        self.observation_space = env.single_observation_space
        self._seeds = [0] * env.num_envs
        self._over = np.zeros(env.num_envs, bool)
        self._begun = False

    def reset(self, seeds: dict[int, int]) -> list[Any]:
        for slot, seed in seeds.items():
            self._seeds[slot] = seed
        # All the first time, whoever has an episode: none may be stepped before a reset.
        mask = np.isin(np.arange(self.num_envs), list(seeds)) | (not self._begun)
        self._begun = True
        all_seeds: Any = list(self._seeds)  # a list by contract, whatever the base class says
        obs, _ = self.env.reset(seed=all_seeds, options={"reset_mask": mask})
        self._over[mask] = False
        return [obs[slot] for slot in seeds]

    def step(self, actions: Any, slots: Iterable[int]) -> Iterable[Any]:
        if self._over.any():
            self.reset({int(slot): self._seeds[slot] for slot in np.flatnonzero(self._over)})
        obs, reward, terminated, truncated, _ = self.env.step(np.asarray(actions)[: self.num_envs])
        self._over = terminated | truncated
        return [(obs[s], reward[s], terminated[s], truncated[s], None) for s in slots]


def _adapt(env: gym.Env | VectorEnv) -> _InTurn | _Together:
    if type(env) is SyncVectorEnv:  # itself, not a wrapper of it, which may change what it returns
        return _InTurn(env.envs)
    return _Together(env) if isinstance(env, VectorEnv) else _InTurn([env])
