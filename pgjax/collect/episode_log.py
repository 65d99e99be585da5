"""The logs of the Python loop, from which episodes or their returns are extracted."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pgjax.collect.dispatch import BLOCK, ROWS
from pgjax.collect.finite import find_nonfinite
from pgjax.errors import RolloutError
from pgjax.gym.results import EnvError
from pgjax.numerics.packing import Layout
from pgjax.types import Rollout

_CAPACITY = 128  # initial length of the log, in steps
_WINDOW = 32  # length of a ReturnLog, in steps
_LENGTH = 512  # of the padded time axis of small rollouts
_MOST_NUMBERS = 2**15  # in the observations of a small rollout


@dataclasses.dataclass(slots=True)
class Episode:
    """An episode and its place in the log."""

    column: int  # of the rollout
    number: int  # in the run
    seed: int  # with which its environment is reset
    slot: int  # the sub-environment that runs it
    start: int  # its first step in the log
    planned: int = 0  # end (exclusive) of the noise laid out, in the log
    stop: int = 0  # end (exclusive) in the log, once the episode has ended
    terminated: bool = False
    truncated: bool = False
    success: float = math.nan  # as the info of its last step says, if it does
    final_obs: np.ndarray | None = None  # [d], the successor of its last step
    # Of the steps that a ReturnLog has dropped; `start` is then negative:
    dropped: list[np.ndarray] = dataclasses.field(default_factory=list)  # their actions [n, ...]
    total: float = 0.0  # the sum of their rewards

    def __str__(self) -> str:
        return f"environment {self.slot}, episode {self.number} (reset seed {self.seed})"


class EpisodeLog:
    """Arrays [time, slots, ...] of what the policy reads and the environments return.

    They grow by doubling. All values of an episode are checked to be finite when it ends and
    whenever the log grows, so that a NaN is found even in an episode that never ends.

    Args:
      num_envs: number of environments; the slots are this, rounded up to a multiple of ROWS.
      layout: of the rows that the policy reads, the noise followed by the observation.
      action: like one raw action, for shape and dtype.
      send: converts raw actions to those of the environment, for the replay of an error.
    """

    _capacity = _CAPACITY  # length, in steps
    max_steps: float = math.inf  # an episode of this many steps ends, even if nothing says so

    def __init__(
        self, num_envs: int, layout: Layout, action: Any, send: Callable[[np.ndarray], Any]
    ):
        self._slots = -(-num_envs // ROWS) * ROWS
        self._fields, self._send = layout.fields, send
        self.time = 0  # number of steps whose actions are recorded
        noisy = {field.row for field in self._fields[:-1]}  # noise is written a block ahead
        self._set_rows(
            [
                self._zeros((width,), dtype, BLOCK if row in noisy else 1)
                for row, (width, dtype) in enumerate(zip(layout.widths, layout.dtypes, strict=True))
            ]
        )
        self.reward = self._zeros((), np.float32)
        self.action = self._zeros(action.shape, action.dtype)
        self.terminated, self.truncated = np.zeros((2, self._slots), bool)  # in the last step
        self.success = np.full(self._slots, np.nan)  # likewise, where an episode has ended
        self._done: list[Episode] = []

    def _zeros(self, shape: tuple[int, ...], dtype: Any, ahead: int = 0) -> np.ndarray:
        return np.zeros((self._capacity + ahead, self._slots, *shape), dtype)

    def _set_rows(self, rows: list[np.ndarray]) -> None:
        self.rows, obs = rows, self._fields[-1]
        self.obs = rows[obs.row][..., obs.columns]  # a view

    def prepare(
        self, running: Iterable[Episode], noise: Callable[[int, int], Iterable[np.ndarray]]
    ) -> int:
        """Make room for the next steps and lay out their noise.

        Args:
          running: the episodes to step.
          noise: (column, step of the episode) -> arrays [BLOCK, ...].

        Returns:
          The step up to which (exclusive) there is room and noise, and no episode is too long.
        """
        if self.time + 1 == self._capacity:
            for episode in running:
                self._check(episode)
            self._make_room(running)
        self.plan((e for e in running if e.planned <= self.time), noise)
        return int(
            min(
                self._capacity - 1,
                *(min(e.planned, e.start + self.max_steps) for e in running),
            )
        )

    def plan(
        self, episodes: Iterable[Episode], noise: Callable[[int, int], Iterable[np.ndarray]]
    ) -> None:
        """Lay out the noise of the next BLOCK steps of episodes; `noise` as for `prepare`."""
        for episode in episodes:
            episode.planned = self.time + BLOCK
            of_steps = noise(episode.column, self.time - episode.start)
            for field, x in zip(self._fields, of_steps):  # noqa: B905  (the last is the observation)
                steps = self.rows[field.row][self.time : episode.planned, episode.slot]
                steps[:, field.columns] = x.reshape(BLOCK, -1)

    def end(self, running: Mapping[int, Episode]) -> list[int]:
        """Record the episodes, by slot, that the last step ended; return their slots."""
        over = self.terminated | self.truncated
        ended = np.flatnonzero(over).tolist()
        if self.max_steps < math.inf:
            long = (s for s, e in running.items() if self.time - e.start >= self.max_steps)
            ended += [slot for slot in long if not over[slot]]
        for slot in ended:
            episode = running[slot]
            episode.stop, episode.terminated = self.time, bool(self.terminated[slot])
            episode.truncated = bool(self.truncated[slot])
            episode.success = float(self.success[slot])
            self._check(episode)
            self._end(episode, self.obs[self.time, slot])
        self.terminated[:] = self.truncated[:] = False
        self.success[:] = np.nan
        return ended

    def longest(self, running: Iterable[Episode]) -> int:
        """Return the number of steps of the longest of the running episodes."""
        return self.time - min(episode.start for episode in running)

    def _end(self, episode: Episode, final_obs: np.ndarray) -> None:
        episode.final_obs = final_obs.copy()
        self._done.append(episode)

    def _make_room(self, running: Iterable[Episode]) -> None:
        """Make room for more steps; those of the running episodes have been checked."""

        def double(x: np.ndarray) -> np.ndarray:
            return np.concatenate([x, np.zeros_like(x[: self._capacity])])

        self._set_rows([double(x) for x in self.rows])
        self.action, self.reward = double(self.action), double(self.reward)
        self._capacity *= 2

    def _check(self, episode: Episode) -> None:
        """Raise RolloutError for the first value of an episode that is not finite."""
        first, slot = max(episode.start, 0), episode.slot
        steps = slice(first, self.time)
        obs = self.obs[first : self.time + 1, slot]
        action, reward = self.action[steps, slot], self.reward[steps, slot]
        found = find_nonfinite(obs, action, reward, slot=slot)
        if found:
            num_steps, error = found
            raise self.rollout_error(error, episode, first + num_steps)

    def rollout_error(
        self, error: EnvError, episode: Episode | None, stop: int | None = None
    ) -> RolloutError:
        """Return the error to raise for an environment that is at fault.

        Args:
          error: what is wrong.
          episode: the running episode; None if the environment is unknown or runs none.
          stop: end (exclusive) of the actions that led to the error, in the log; by default all.
        """
        if episode is None:
            return RolloutError(f"{error.env}: {error.reason}: {error.advice}")
        stop = self.time if stop is None else stop
        kept = self.action[max(episode.start, 0) : stop, episode.slot]
        raw = np.concatenate([*episode.dropped, kept])
        actions = _to_json(list(self._send(raw))) if len(raw) else []
        raised = RolloutError(f"{episode}, {error.after(stop - episode.start)}")
        raised.replay = {"reset_seed": episode.seed, "actions": actions}
        return raised

    def success_info(self) -> dict[str, float]:
        """Return the success rate of the episodes that ended, as for `success_info`."""
        return success_info([episode.success for episode in self._done])

    def rollout(self) -> Rollout:
        """Return the episodes that ended, one in each column, padded at the end."""
        done = sorted(self._done, key=lambda episode: episode.column)
        longest = max(e.stop - e.start for e in done)
        shape = padded_length(longest, len(done) * self.obs.shape[-1]), len(done)

        def empty(x: np.ndarray) -> np.ndarray:
            return np.zeros(shape + x.shape[2:], x.dtype)

        columns: dict[str, Any] = {
            "obs": empty(self.obs),
            "action": empty(self.action),
            "reward": empty(self.reward),
            "terminated": np.zeros(shape, bool),
            "truncated": np.zeros(shape, bool),
            "next_obs": empty(self.obs),
            "weight": np.zeros(shape, np.float32),
        }
        logs = {"obs": self.obs, "action": self.action, "reward": self.reward}
        for b, e in enumerate(done):
            last = e.stop - e.start - 1
            for name, log in logs.items():
                columns[name][: last + 1, b] = log[e.start : e.stop, e.slot]
            columns["terminated"][last, b] = e.terminated
            columns["truncated"][last, b] = e.truncated
            columns["next_obs"][:last, b] = columns["obs"][1 : last + 1, b]
            columns["next_obs"][last, b] = e.final_obs
            columns["weight"][: last + 1, b] = 1.0
        return Rollout(**columns)


class ReturnLog(EpisodeLog):
    """A log that keeps the return and the length of every episode, and only the latest steps.

    So its size depends neither on the number of episodes nor on what they observe. Only the actions
    of the running episodes are kept, for the replay of an error.

    Args:
      num_episodes: number of columns.
      max_steps: an episode that has not ended after this many steps is cut off.
      ended: called with 1 after each episode, or None.
      *args: as for EpisodeLog.
    """

    _capacity = _WINDOW

    def __init__(
        self,
        num_episodes: int,
        max_steps: float,
        ended: Callable[[int], object] | None,
        *args: Any,
    ):
        super().__init__(*args)
        self.max_steps, self._ended = max_steps, ended
        self.returns = np.zeros(num_episodes)  # undiscounted
        self.lengths = np.zeros(num_episodes, np.int64)
        self.successes = np.full(num_episodes, np.nan)
        self.cut = np.zeros(num_episodes, bool)  # at max_steps, neither terminated nor truncated

    def _end(self, episode: Episode, final_obs: np.ndarray) -> None:
        self._drop(episode)
        self.returns[episode.column] = episode.total
        self.lengths[episode.column] = episode.stop - episode.start
        self.successes[episode.column] = episode.success
        self.cut[episode.column] = not (episode.terminated or episode.truncated)
        if self._ended is not None:
            self._ended(1)

    def _make_room(self, running: Iterable[Episode]) -> None:
        now = self.time
        for episode in running:
            self._drop(episode)
            episode.start -= now
            episode.planned -= now
        for x in self.rows:
            x[: len(x) - now] = x[now:]
        self.time = 0

    def _drop(self, episode: Episode) -> None:
        """Count the steps of an episode, and keep nothing but their actions."""
        steps = slice(max(episode.start, 0), self.time)
        rewards = self.reward[steps, episode.slot]
        # One after the other, so that the window does not change the rounding.
        episode.total = float(np.cumsum(np.append(episode.total, rewards))[-1])
        episode.dropped.append(self.action[steps, episode.slot].copy())


def success_info(successes: Sequence[float]) -> dict[str, float]:
    """Return the success rate of episodes as a metric; empty if none says whether it succeeded.

    An episode that does not say so among others that do, NaN, counts as a failure.

    >>> success_info([1.0, float("nan"), 0.0, 1.0]), success_info([float("nan")])
    ({'success_rate': 0.5}, {})
    """
    known = [x for x in successes if not math.isnan(x)]
    # fsum rounds once, so that the order in which episodes end does not matter.
    return {"success_rate": math.fsum(known) / len(successes)} if known else {}


def padded_length(longest: int, width: int) -> int:
    """Return the length of a rollout whose longest episode has `longest` steps.

    `update` is compiled for each length, which takes a second. So rollouts with few numbers in a
    step, `width`, have one length for all episodes up to 512 steps, whose padding costs little.
    """
    if longest <= _LENGTH and _LENGTH * width <= _MOST_NUMBERS:
        return _LENGTH
    return max(8, 1 << (longest - 1).bit_length())


def _to_json(x: Any) -> Any:
    """Convert an action to lists, dicts and numbers."""
    if isinstance(x, dict):
        return {name: _to_json(value) for name, value in x.items()}
    if isinstance(x, list | tuple):
        return [_to_json(value) for value in x]
    return np.asarray(x).tolist()
