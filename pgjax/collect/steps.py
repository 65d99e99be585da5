"""Streams of steps: rollouts of a fixed length, whose columns go on from one to the next.

For tasks where whole episodes are wasteful. A critic bootstraps where a rollout stops. What the
environments are in the midst of is no part of the TrainState: a run is resumed with episodes begun
anew, and so not to the bit.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from pgjax.collect.dispatch import BLOCK, ROWS, compile_for
from pgjax.collect.packing import Layout
from pgjax.collect.policy_fit import check_action
from pgjax.errors import ConfigError, RolloutError, SpaceError
from pgjax.gym import spaces
from pgjax.gym.actions import actions
from pgjax.gym.stepping import (
    AutoresetVector,
    ManualResetVector,
    ResultError,
    SerialEnvs,
    StepError,
    write_obs,
    write_step,
)
from pgjax.types import Algorithm, Rollout, TrainState


class _SlotError(Exception):
    """Something wrong in what one of the environments returned."""

    def __init__(self, slot: int, result: ResultError):
        super().__init__(slot, result)
        self.slot, self.result = slot, result


class Stream:
    """Environments that are stepped side by side and go on with another episode at each end.

    Args:
      env: one environment or a vector of them, in any autoreset mode: NEXT_STEP, whose steps after
        an end have weight 0; SAME_STEP, whose true successors are taken from `final_obs`; DISABLED,
        or a plain SyncVectorEnv, whose resets get seeds that follow from (state.key, update, time).
        Not Gymnasium's FunctionalJaxVectorEnv (SpaceError).
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
        integer = isinstance(num_steps, int | np.integer) and not isinstance(num_steps, bool)
        if not integer or num_steps < 1:
            raise ConfigError(f"num_steps must be an integer of at least 1, got {num_steps!r}")
        compiled = compile_for(algorithm, state, np.zeros(self._seen.size, self._seen.dtype))
        check_action(self._sends, compiled.like, compiled.choices)
        params, seeds, noise = compiled.begin(state, self.num_envs)
        rows = self._rows(compiled.layout, num_steps)
        *drawn, seen = compiled.layout.fields
        obs = rows[seen.row][:, : self.num_envs, seen.columns]
        log = self._log(compiled.like, obs, num_steps)
        while len(self._recent) > self.num_envs:  # are told of where none ends
            self._recent.popleft()
        self._ended = 0
        # Unknown until the end: whatever ends this sooner, environments have moved on.
        begun, self._next = self._next, None
        t = -1
        try:
            with self._envs.step_timeout(self._timeout):
                obs[0] = self._begin(seeds) if begun is None else begun
                for t in range(num_steps):
                    if t % BLOCK == 0:
                        for column in range(self.num_envs):
                            for field, x in zip(drawn, noise(column, t), strict=True):
                                of_column = rows[field.row][t : t + BLOCK, column]
                                of_column[:, field.columns] = x.reshape(BLOCK, -1)
                    action = np.asarray(compiled.act(params, [row[t] for row in rows]))
                    log["action"][t] = action[: self.num_envs]
                    obs[t + 1] = self._step(action[: self.num_envs], seeds, t, log)
        except (StepError, _SlotError) as e:
            cause = e if isinstance(e, StepError) else None
            raise self._error(e, int(state.step), t) from cause
        self._count(log)
        log["obs"] = obs[:num_steps]
        self._check(log, int(state.step))
        self._next = obs[num_steps].copy()
        return Rollout(**log)

    def _rows(self, layout: Layout, num_steps: int) -> list[np.ndarray]:
        """What the policy reads at each time: noise, laid out in blocks, and the observation."""
        steps, slots = -(-num_steps // BLOCK) * BLOCK + 1, -(-self.num_envs // ROWS) * ROWS
        rows = zip(layout.widths, layout.dtypes, strict=True)
        return [np.zeros((steps, slots, width), dtype) for width, dtype in rows]

    def _log(self, action: Any, obs: np.ndarray, num_steps: int) -> dict[str, Any]:
        """Empty fields of a Rollout, but for obs."""
        shape = (num_steps, self.num_envs)
        log: dict[str, Any] = {name: np.zeros(shape, np.float32) for name in ("reward", "weight")}
        log |= {name: np.zeros(shape, bool) for name in ("terminated", "truncated")}
        log["action"] = np.zeros((*shape, *action.shape), action.dtype)
        return {**log, "next_obs": np.zeros_like(obs[:num_steps])}

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
        if isinstance(self._envs, AutoresetVector):
            return self._encoded(self._envs.reset(seeds))
        return self._reset(dict(enumerate(seeds)))

    def _reset(self, seeds: dict[int, int]) -> np.ndarray:
        """First observations [n, d] of some, by their number."""
        envs: Any = self._envs
        return self._encoded(envs.reset(seeds), list(seeds))

    def _step(self, action: np.ndarray, seeds: list[int], t: int, log: dict[str, Any]) -> Any:
        """One step of all; returns the observations to act on next."""
        sent, now = self._sends.send(action), {name: x[t] for name, x in log.items()}
        if isinstance(self._envs, AutoresetVector):
            seen, *of_step, successors = self._envs.step(sent)
            names = "reward", "terminated", "truncated", "weight"
            for name, x in zip(names, of_step, strict=True):
                now[name][:] = x
            obs = self._encoded(seen)
            now["next_obs"][:] = obs if successors is seen else self._encoded(successors)
            return obs
        results = self._envs.step(sent, range(self.num_envs))
        for slot, result in enumerate(results):
            try:
                flags = write_step(result, slot, now["next_obs"], now["reward"], self._seen.encode)
            except ResultError as e:
                raise _SlotError(slot, e) from None
            now["terminated"][slot], now["truncated"][slot] = flags
        now["weight"][:] = 1.0
        over = np.flatnonzero(now["terminated"] | now["truncated"])
        if not len(over):
            return now["next_obs"]
        obs = now["next_obs"].copy()
        obs[over] = self._reset({int(slot): _reset_seed(seeds[slot], t) for slot in over})
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

    def _encoded(self, observations: Any, slots: Sequence[int] | None = None) -> np.ndarray:
        """Of each, a row; at once where they are one array already."""
        space = self._envs.observation_space
        whole = isinstance(observations, np.ndarray) and isinstance(space, gym.spaces.Box)
        if whole and observations.shape[1:] == space.shape:
            return observations.reshape(len(observations), -1)
        rows = np.zeros((len(observations), self._seen.size), self._seen.dtype)
        for i, obs in enumerate(observations):
            try:
                write_obs(rows, i, self._seen.encode, obs, later=1)
            except ResultError as e:
                raise _SlotError(slots[i] if slots else i, e) from None
        return rows

    def _error(self, error: "StepError | _SlotError", step: int, t: int) -> RolloutError:
        """What to raise for what happened at time t, or at the first reset if that is below 0."""
        which = f"environment {error.slot}" if error.slot >= 0 else "one of the environments"
        if isinstance(error, StepError):
            what = f"the environment {error}: correct it"
            when = f"step {t}" if t >= 0 else "reset"
        else:
            what, when = str(error.result), f"step {t + error.result.later}"
        return RolloutError(f"{which}, update {step + 1}, {when}: {what}")

    def _check(self, log: dict[str, Any], step: int) -> None:
        for name in ("obs", "action", "reward", "next_obs"):
            finite = np.isfinite(log[name]).reshape(*log["weight"].shape, -1).all(-1)
            if not finite.all():
                t, slot = np.argwhere(~finite)[0]
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

    Raises:
      ConfigError, SpaceError: as `collect_episodes`.
      RolloutError: as `collect_episodes`, but it names environment, update and step, and has no
        `replay`. After it, or anything else that cuts a rollout short, all episodes begin anew.
    """
    return stream.collect(algorithm, state, num_steps)


def _adapted(env: gym.Env | VectorEnv) -> SerialEnvs | ManualResetVector | AutoresetVector:
    if type(env) is SyncVectorEnv:
        return SerialEnvs(env.envs)
    if not isinstance(env, VectorEnv):
        return SerialEnvs([env])
    if any(of.__name__ == "FunctionalJaxVectorEnv" for of in type(env.unwrapped).__mro__):
        raise SpaceError(
            "gymnasium's FunctionalJaxVectorEnv loses a step of every environment when one of them "
            'ends: make it with vectorization_mode="sync", or take pgjax.envs.from_func_env'
        )
    disabled = env.metadata.get("autoreset_mode") == AutoresetMode.DISABLED
    return ManualResetVector(env) if disabled else AutoresetVector(env)


def _reset_seed(seed: int, t: int) -> int:
    """Of the episode that begins behind step t of a column whose own seed is given."""
    return int(np.random.SeedSequence([seed, t]).generate_state(1)[0])
