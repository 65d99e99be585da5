"""Streams of steps: rollouts of a fixed length, whose columns go on from one to the next.

For tasks where whole episodes are wasteful. A critic bootstraps where a rollout stops. What the
environments are in the midst of is no part of the TrainState: a run is resumed with episodes begun
anew, and so not to the bit.
"""

import math
from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from pgjax import spaces
from pgjax.actions import actions
from pgjax.dispatch import BLOCK, ROWS, compile_for
from pgjax.errors import ConfigError, PgjaxError, RolloutError
from pgjax.stepping import InTurn, ResettingItself, StepError, Together
from pgjax.types import Algorithm, Rollout, TrainState


class Stream:
    """Environments that are stepped side by side and go on with another episode at each end.

    Args:
      env: one environment or a vector of them, in any autoreset mode: NEXT_STEP, whose steps after
        an end have weight 0; SAME_STEP, whose true successors are taken from `final_obs`; DISABLED,
        or a plain SyncVectorEnv, whose resets get seeds that follow from (state.key, update, time).
      squash: as of `collect_episodes`.
      step_timeout: as of `collect_episodes`.
    """

    def __init__(
        self, env: gym.Env | VectorEnv, *, squash: bool = False, step_timeout: float = math.inf
    ):
        self._envs = _adapted(env)
        self.num_envs = self._envs.num_envs
        self._sends = actions(self._envs.action_space, squash)
        self._seen = spaces.observations(self._envs.observation_space)
        self._timeout = step_timeout
        self._next: np.ndarray | None = None  # observations to act on next [num_envs, d]
        self._sums = np.zeros((2, self.num_envs))  # return and length of running episodes
        self._recent: deque[tuple[float, float, bool]] = deque()
        self._ended = 0

    def collect(self, algorithm: Algorithm, state: TrainState, num_steps: int) -> Rollout:
        """The next steps: see `collect_steps`."""
        if not isinstance(num_steps, int | np.integer) or num_steps < 1:
            raise ConfigError(f"num_steps must be an integer of at least 1, got {num_steps!r}")
        compiled = compile_for(algorithm, state, np.zeros(self._seen.size, self._seen.dtype))
        params, seeds, noise = compiled.begin(state, self.num_envs)
        blocks = -(-num_steps // BLOCK)
        slots = -(-self.num_envs // ROWS) * ROWS
        rows = [
            np.zeros((blocks * BLOCK + 1, slots, width), dtype)
            for width, dtype in zip(compiled.layout.widths, compiled.layout.dtypes, strict=True)
        ]
        *drawn, seen = compiled.layout.fields
        obs = rows[seen.row][:, : self.num_envs, seen.columns]
        shape = (num_steps, self.num_envs)
        log: dict[str, Any] = {"next_obs": np.zeros_like(obs[:num_steps])}
        log |= {name: np.zeros(shape, np.float32) for name in ("reward", "weight")}
        log |= {name: np.zeros(shape, bool) for name in ("terminated", "truncated")}
        while len(self._recent) > self.num_envs:  # are told of where none ends
            self._recent.popleft()
        self._ended = 0
        with self._envs.patience(self._timeout):
            try:
                t = -1
                obs[0] = self._begin(seeds) if self._next is None else self._next
                for t in range(num_steps):
                    if t % BLOCK == 0:
                        for column in range(self.num_envs):
                            for field, x in zip(drawn, noise(column, t), strict=True):
                                of_column = rows[field.row][t : t + BLOCK, column]
                                of_column[:, field.columns] = x.reshape(BLOCK, -1)
                    action = np.asarray(compiled.act(params, [row[t] for row in rows]))
                    if t == 0:
                        self._sends.check(action)
                        log["action"] = np.zeros((num_steps, *action.shape), action.dtype)
                    log["action"][t] = action
                    obs[t + 1] = self._step(action[: self.num_envs], seeds, t, log)
            except PgjaxError:
                self._next = None
                raise
            except (StepError, TypeError, ValueError) as e:
                self._next = None
                slot = e.slot if isinstance(e, StepError) else -1
                which = f"environment {slot}" if slot >= 0 else "one of the environments"
                when = "reset" if t < 0 else f"step {t}"
                what = f"the environment {e}" if isinstance(e, StepError) else f"observation {e}"
                raise RolloutError(
                    f"{which}, update {int(state.step) + 1}, {when}: {what}: correct it"
                ) from e
        self._next = obs[num_steps].copy()
        self._count(log)
        log["obs"], log["action"] = obs[:num_steps], log["action"][:, : self.num_envs]
        self._check(log, int(state.step))
        return Rollout(**log)

    def episode_info(self) -> dict[str, float]:
        """Of the episodes that ended in the last rollout; if none did, of the last that had.

        Until one has ended, of those that are running, so far.
        """
        running = [(*sums, False) for sums in self._sums.T]
        last = list(self._recent)[-(self._ended or self.num_envs) :] or running
        returns, lengths, cut = np.array(last).T
        return {
            "episodes": self._ended,
            "mean_return": float(returns.mean()),
            "min_return": float(returns.min()),
            "max_return": float(returns.max()),
            "mean_length": float(lengths.mean()),
            "min_length": float(lengths.min()),
            "max_length": float(lengths.max()),
            "truncated_fraction": float(cut.mean()),
        }

    def _begin(self, seeds: list[int]) -> np.ndarray:
        self._sums[:] = 0.0
        if isinstance(self._envs, ResettingItself):
            return self._encoded(self._envs.reset(seeds))
        return self._encoded(self._envs.reset(dict(enumerate(seeds))))

    def _step(self, action: np.ndarray, seeds: list[int], t: int, log: dict[str, Any]) -> Any:
        """One step of all; returns the observations to act on next."""
        sent = self._sends.send(action)
        if isinstance(self._envs, ResettingItself):
            now, reward, terminated, truncated, successors, real = self._envs.step(sent)
            obs = self._encoded(now)
            log["next_obs"][t] = obs if successors is now else self._encoded(successors)
        else:
            results = self._envs.step(sent, range(self.num_envs))
            each, reward, terminated, truncated, _ = zip(*results, strict=True)
            obs, real = self._encoded(each), np.ones(self.num_envs, bool)
            log["next_obs"][t] = obs
            over = np.flatnonzero(np.logical_or(terminated, truncated))
            if len(over):
                again = {int(slot): _reset_seed(seeds[slot], t) for slot in over}
                obs = obs.copy()
                obs[over] = self._encoded(self._envs.reset(again))
        log["weight"][t], log["reward"][t] = real, reward
        log["terminated"][t], log["truncated"][t] = terminated, truncated
        return obs

    def _count(self, log: dict[str, Any]) -> None:
        """Clear what is no step, and add the rest to the episodes it is of."""
        real = log["weight"] > 0
        for name in ("reward", "terminated", "truncated"):
            log[name][~real] = 0
        done = np.zeros(self.num_envs, int)  # steps already counted, of each
        for t, slot in np.argwhere(log["terminated"] | log["truncated"]):
            self._add(log, slot, done[slot], t + 1)
            cut = log["truncated"][t, slot] and not log["terminated"][t, slot]
            self._recent.append((*self._sums[:, slot], bool(cut)))
            self._sums[:, slot], done[slot] = 0.0, t + 1
            self._ended += 1
        for slot in range(self.num_envs):
            self._add(log, slot, done[slot], None)

    def _add(self, log: dict[str, Any], slot: int, start: int, stop: int | None) -> None:
        for i, name in enumerate(("reward", "weight")):
            self._sums[i, slot] += log[name][start:stop, slot].sum(dtype=np.float64)

    def _encoded(self, observations: Any) -> np.ndarray:
        """Of each, a row; at once where they are one array already."""
        space = self._envs.observation_space
        whole = isinstance(observations, np.ndarray) and isinstance(space, gym.spaces.Box)
        if whole and observations.shape[1:] == space.shape:
            return observations.reshape(len(observations), -1)
        return np.stack([self._seen.encode(obs) for obs in observations])

    def _check(self, log: dict[str, Any], step: int) -> None:
        for name in ("obs", "action", "reward", "next_obs"):
            finite = np.isfinite(log[name]).reshape(*log["weight"].shape, -1).all(-1)
            if not finite.all():
                t, slot = np.argwhere(~finite)[0]
                self._next = None
                advice = (
                    "the policy has diverged, lower the learning rate"
                    if name == "action"
                    else "correct the environment"
                )
                at, what = t + (name == "next_obs"), "observation" if "obs" in name else name
                raise RolloutError(
                    f"environment {slot}, update {step + 1}, step {at}: the {what} is not finite: "
                    f"{advice}"
                )


def collect_steps(
    stream: Stream, algorithm: Algorithm, state: TrainState, num_steps: int
) -> Rollout:
    """The next `num_steps` steps of each of a stream's environments.

    Column b acts at time t of the rollout with fold_in(fold_in(state.key, e), t), where e =
    state.step * num_envs + b. A column may hold the end of one episode and the beginning of
    another; where it stops in the midst of one it is neither terminated nor truncated, and an
    estimator bootstraps from the critic's value of `next_obs`. So the number of environments
    changes the result, unlike that of `collect_episodes`.

    Args:
      stream: goes on where it stopped.
      algorithm: `act` is used.
      state: `params`, `key` and `step` are used.
      num_steps: rows of the rollout, at least 1.

    Returns:
      Rollout of numpy arrays, [num_steps, num_envs, ...]; weight is 0 for steps that an environment
      took to reset itself.

    Raises: as `collect_episodes`.
    """
    return stream.collect(algorithm, state, num_steps)


def _adapted(env: gym.Env | VectorEnv) -> InTurn | Together | ResettingItself:
    if type(env) is SyncVectorEnv:
        return InTurn(env.envs)
    if not isinstance(env, VectorEnv):
        return InTurn([env])
    disabled = env.metadata.get("autoreset_mode") == AutoresetMode.DISABLED
    return Together(env) if disabled else ResettingItself(env)


def _reset_seed(seed: int, t: int) -> int:
    """Of the episode that begins behind step t of a column whose own seed is given."""
    return int(np.random.SeedSequence([seed, t]).generate_state(1)[0])
