"""What the Python loop reads and writes down, and how whole episodes are cut out of it."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from pgjax.errors import RolloutError
from pgjax.spaces import Observations
from pgjax.types import Rollout

# Policies act on this many rows at a time, always: a batch of another size is computed, and so
# rounded, another way. Eight take no longer than two.
ROWS = 8
BLOCK = 32  # steps whose noise is drawn in one call: more are wasted on short episodes
_CAPACITY = 128  # steps of the log, at first
_MIN_LENGTH = 8  # of the padded time axis, which doubles from here


@dataclasses.dataclass(slots=True)
class Episode:
    """Where an episode stands in the log."""

    column: int  # of the rollout
    number: int  # in the run
    slot: int  # the sub-environment that runs it
    start: int  # its first step in the log
    planned: int = 0  # one past the last step in the log whose noise is laid out
    stop: int = 0  # one past its last step in the log
    terminated: bool = False
    truncated: bool = False
    final_obs: Any = None  # [d]

    def __str__(self) -> str:
        return f"environment {self.slot}, episode {self.number}"


class EpisodeLog:
    """Arrays [time, slot, ...] that grow by doubling.

    Every value of an episode is checked to be finite, when it ends and whenever the log grows, so
    that an environment that returns NaN is found out even if its episode never ends.
    """

    def __init__(
        self, num_envs: int, observations: Observations, noise: list[tuple[tuple[int, ...], Any]]
    ):
        self.rows = -(-num_envs // ROWS) * ROWS
        self.time = 0
        self.obs = self._zeros((observations.size,), observations.dtype)
        self.noise = [self._zeros(shape, dtype) for shape, dtype in noise]
        self._reward = self._zeros((), np.float32)
        self._action = self._reward  # its shape is known at the first step
        self._encode = observations.encode
        self._done: list[Episode] = []

    def _zeros(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        # Longer by a block, since noise is laid out that far ahead.
        return np.zeros((_CAPACITY + BLOCK, self.rows, *shape), dtype)

    def plan(self, episode: Episode, noise: Iterable[np.ndarray]) -> None:
        """Lay out the noise of an episode's next steps, arrays [BLOCK, ...]."""
        episode.planned = self.time + BLOCK
        for log, x in zip(self.noise, noise, strict=True):
            log[self.time : episode.planned, episode.slot] = x

    def observe(self, episode: Episode, obs: Any) -> None:
        """The first observation of an episode."""
        self.obs[self.time, episode.slot] = self._row(episode, obs)

    def step(
        self, running: dict[int, Episode], action: np.ndarray, results: Iterable[Any]
    ) -> list[int]:
        """Record one step of the running episodes; return the slots of those that ended."""
        now = self.time
        if now == 0:
            self._action = self._zeros(action.shape[1:], action.dtype)
        if now + 1 + BLOCK == len(self.obs):
            self._grow(running.values())
        self._action[now] = action
        self.time = now + 1
        ended = []
        for episode, result in zip(running.values(), results, strict=True):
            obs, reward, terminated, truncated, _ = result
            slot, row = episode.slot, self._row(episode, obs)
            try:
                self._reward[now, slot] = reward
            except (TypeError, ValueError):
                where = f"{episode}, step {now - episode.start}"
                raise RolloutError(f"{where}: the reward is {reward!r}, not a number") from None
            if terminated or truncated:
                episode.stop, episode.final_obs = self.time, np.array(row, self.obs.dtype)
                episode.terminated, episode.truncated = bool(terminated), bool(truncated)
                self._check(episode, self.time)
                self._done.append(episode)
                ended.append(slot)
            else:
                self.obs[now + 1, slot] = row
        return ended

    def _row(self, episode: Episode, obs: Any) -> np.ndarray:
        try:
            return self._encode(obs)
        except (TypeError, ValueError) as e:
            where = f"{episode}, step {self.time - episode.start}"
            raise RolloutError(f"{where}: the observation {e}: correct the environment") from None

    def _grow(self, running: Iterable[Episode]) -> None:
        for episode in running:
            self._check(episode, self.time)

        def doubled(x: np.ndarray) -> np.ndarray:
            return np.concatenate([x, np.zeros_like(x[:-BLOCK])])

        self.obs, self._action, self._reward = map(doubled, (self.obs, self._action, self._reward))
        self.noise = [doubled(x) for x in self.noise]

    def _check(self, episode: Episode, stop: int) -> None:
        """Raise for the first value of an episode, up to a time in the log, that is not finite."""
        steps, slot = slice(episode.start, stop), episode.slot
        obs = self.obs[steps, slot]
        if episode.final_obs is not None:
            obs = np.concatenate([obs, episode.final_obs[None]])
        # In the order of cause and effect, should several be first in the same step.
        fields = {"observation": obs, "action": self._action[steps, slot]}
        fields["reward"] = self._reward[steps, slot]
        first = {}
        for name, x in fields.items():
            finite = np.isfinite(x)
            if not finite.all():
                first[name] = int(np.argmin(finite.reshape(len(x), -1).all(1)))
        if first:
            name = min(first, key=lambda field: first[field])
            t, values = first[name], fields[name][first[name]]
            advice = (
                "the policy has diverged, lower the learning rate"
                if name == "action"
                else "correct the environment"
            )
            bad = values[~np.isfinite(values)].ravel()[0]
            raise RolloutError(f"{episode}, step {t}: the {name} is {bad}: {advice}")

    def rollout(self) -> Rollout:
        """The episodes that ended, each in its column, with its padding behind it."""
        done = sorted(self._done, key=lambda episode: episode.column)
        length = max(_MIN_LENGTH, *(e.stop - e.start for e in done))
        shape = (1 << (length - 1).bit_length(), len(done))

        def empty(x: np.ndarray) -> np.ndarray:
            return np.zeros(shape + x.shape[2:], x.dtype)

        columns: dict[str, Any] = {
            "obs": empty(self.obs),
            "action": empty(self._action),
            "reward": empty(self._reward),
            "terminated": np.zeros(shape, bool),
            "truncated": np.zeros(shape, bool),
            "next_obs": empty(self.obs),
            "weight": np.zeros(shape, np.float32),
        }
        logs = {"obs": self.obs, "action": self._action, "reward": self._reward}
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
