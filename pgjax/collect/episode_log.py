"""What the Python loop reads and writes down, and how whole episodes are cut out of it."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from pgjax.collect.dispatch import BLOCK, ROWS
from pgjax.collect.packing import Layout
from pgjax.errors import RolloutError
from pgjax.gym.spaces import Observations
from pgjax.gym.stepping import ResultError, StepError, write_obs, write_step
from pgjax.types import Rollout

_CAPACITY = 128  # steps of the log, at first
_MIN_LENGTH = 8  # of the padded time axis, which doubles from here


@dataclasses.dataclass(slots=True)
class Episode:
    """Where an episode stands in the log."""

    column: int  # of the rollout
    number: int  # in the run
    seed: int  # it was reset with
    slot: int  # the sub-environment that runs it
    start: int  # its first step in the log
    planned: int = 0  # one past the last step in the log whose noise is laid out
    stop: int = 0  # one past its last step in the log
    terminated: bool = False
    truncated: bool = False
    final_obs: Any = None  # [d]

    def __str__(self) -> str:
        return f"environment {self.slot}, episode {self.number} (reset seed {self.seed})"


class EpisodeLog:
    """Arrays [time, slot, ...] that grow by doubling.

    Every value of an episode is checked to be finite, when it ends and whenever the log grows, so
    that an environment that returns NaN is found out even if its episode never ends.
    """

    def __init__(
        self,
        num_envs: int,
        observations: Observations,
        layout: Layout,
        send: Callable[[np.ndarray], Any],
    ):
        self._slots = -(-num_envs // ROWS) * ROWS
        self._fields, self._encode, self._send = layout.fields, observations.encode, send
        self.time = 0
        rows = zip(layout.widths, layout.dtypes, strict=True)
        self._lay([self._zeros((width,), dtype) for width, dtype in rows])
        self._reward = self._zeros((), np.float32)
        self._action = self._reward  # its shape is known at the first step
        self._done: list[Episode] = []

    def _zeros(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        # Longer by a block, since noise is laid out that far ahead.
        return np.zeros((_CAPACITY + BLOCK, self._slots, *shape), dtype)

    def _lay(self, rows: list[np.ndarray]) -> None:
        """What the policy reads at each time: noise, and behind it the observation."""
        self.rows, obs = rows, self._fields[-1]
        self._obs = rows[obs.row][..., obs.columns]

    def plan(self, episode: Episode, noise: Iterable[np.ndarray]) -> None:
        """Lay out the noise of an episode's next steps, arrays [BLOCK, ...]."""
        episode.planned = self.time + BLOCK
        for field, x in zip(self._fields, noise):  # noqa: B905  (the last is the observation)
            steps = self.rows[field.row][self.time : episode.planned, episode.slot]
            steps[:, field.columns] = x.reshape(BLOCK, -1)

    def observe(self, episode: Episode, obs: Any) -> None:
        """The first observation of an episode."""
        try:
            write_obs(self._obs[self.time], episode.slot, self._encode, obs)
        except ResultError as e:
            raise self._error(episode, 0, str(e)) from None

    def act(self, running: dict[int, Episode], action: np.ndarray) -> None:
        """Record the raw actions of all slots, before anybody steps."""
        now = self.time
        if now == 0:
            self._action = self._zeros(action.shape[1:], action.dtype)
        if now + 1 + BLOCK == len(self._obs):
            self._grow(running.values())
        self._action[now] = action

    def step(self, running: dict[int, Episode], results: Iterable[Any]) -> list[int]:
        """Record one step of the running episodes; return the slots of those that ended."""
        now = self.time
        rewards, successors = self._reward[now], self._obs[now + 1]
        ended = []
        encode = self._encode
        for (slot, episode), result in zip(running.items(), results, strict=True):
            try:
                terminated, truncated = write_step(result, slot, successors, rewards, encode)
            except ResultError as e:
                raise self._error(episode, now - episode.start + e.later, str(e), now + 1) from None
            if terminated or truncated:
                episode.stop, episode.final_obs = now + 1, successors[slot].copy()
                episode.terminated, episode.truncated = terminated, truncated
                self._check(episode, now + 1)
                self._done.append(episode)
                ended.append(slot)
        self.time = now + 1
        return ended

    def _grow(self, running: Iterable[Episode]) -> None:
        for episode in running:
            self._check(episode, self.time)

        def doubled(x: np.ndarray) -> np.ndarray:
            return np.concatenate([x, np.zeros_like(x[:-BLOCK])])

        self._lay([doubled(x) for x in self.rows])
        self._action, self._reward = doubled(self._action), doubled(self._reward)

    def _check(self, episode: Episode, stop: int) -> None:
        """Raise for the first value of an episode, up to a time in the log, that is not finite."""
        steps, slot = slice(episode.start, stop), episode.slot
        obs = self._obs[episode.start : stop + 1, slot]  # and the successor of the last step
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
            acted = episode.start + t + (name == "reward")
            raise self._error(episode, t, f"the {name} is {bad}: {advice}", acted)

    def failed(self, episode: Episode | None, error: StepError, stop: int) -> RolloutError:
        """What to raise for an environment that did; `stop` is one past its last action."""
        if episode is None:  # it cannot be told which, or it was running an old episode again
            which = f"environment {error.slot}" if error.slot >= 0 else "one of the environments"
            return RolloutError(f"{which} {error}: correct it")
        at = stop - 1 - episode.start
        what = f"the environment {error}: correct it"
        return self._error(episode, at, what, stop)

    def _error(self, episode: Episode, t: int, what: str, stop: int | None = None) -> RolloutError:
        """In step t of an episode, or its reset if that is below 0.

        What leads there are the actions before `stop` in the log, by default those before step t.
        """
        stop = episode.start + t if stop is None else stop
        raw = self._action[episode.start : stop, episode.slot]
        actions = _plain(list(self._send(raw))) if stop > episode.start else []
        when = f"step {t}" if t >= 0 else "reset"
        error = RolloutError(f"{episode}, {when}: {what}")
        error.replay = {"reset_seed": episode.seed, "actions": actions}
        return error

    def rollout(self) -> Rollout:
        """The episodes that ended, each in its column, with its padding behind it."""
        done = sorted(self._done, key=lambda episode: episode.column)
        length = max(_MIN_LENGTH, *(e.stop - e.start for e in done))
        shape = (1 << (length - 1).bit_length(), len(done))

        def empty(x: np.ndarray) -> np.ndarray:
            return np.zeros(shape + x.shape[2:], x.dtype)

        columns: dict[str, Any] = {
            "obs": empty(self._obs),
            "action": empty(self._action),
            "reward": empty(self._reward),
            "terminated": np.zeros(shape, bool),
            "truncated": np.zeros(shape, bool),
            "next_obs": empty(self._obs),
            "weight": np.zeros(shape, np.float32),
        }
        logs = {"obs": self._obs, "action": self._action, "reward": self._reward}
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


def _plain(x: Any) -> Any:
    """Lists, dicts and numbers, as JSON has them."""
    if isinstance(x, dict):
        return {name: _plain(value) for name, value in x.items()}
    if isinstance(x, list | tuple):
        return [_plain(value) for value in x]
    return np.asarray(x).tolist()
