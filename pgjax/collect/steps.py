"""Collect streams of steps from Gymnasium environments: rollouts of a fixed length.

Each column continues where the previous rollout stopped, and a critic bootstraps there. Use
streams when episodes are too long to collect whole. The state of the environments is not part of
the TrainState: a resumed run begins new episodes, so it is not bit-identical to an uninterrupted
one.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from pgjax.collect.dispatch import BLOCK, ROWS, compile_for
from pgjax.collect.episode_log import success_info
from pgjax.collect.finite import find_nonfinite
from pgjax.collect.policy_fit import check_action
from pgjax.errors import ConfigError, RolloutError, check_count, short_repr
from pgjax.gym.actions import actions
from pgjax.gym.results import EnvError, StepArrays
from pgjax.gym.serial import SerialEnvs
from pgjax.gym.stepping import adapt_stream
from pgjax.gym.vectors import AutoresetVector
from pgjax.numerics.packing import Layout
from pgjax.types import Algorithm, Rollout, TrainState, check_type

_MOST_ROWS = 128  # that the policy acts on at a time


class Stream:
    """Environments that step side by side and begin a new episode whenever one ends.

    Use it with `collect_steps`: it keeps the running episodes from one call to the next.

    Args:
      env: one environment or a vector of them, in any autoreset mode. NEXT_STEP: the steps that
        reset an environment have weight 0. SAME_STEP: true successors come from `final_obs`.
        DISABLED, or a plain SyncVectorEnv: resets get seeds that follow from (state.key, update,
        time). Gymnasium's FunctionalJaxVectorEnv is not supported.
      squash: send tanh of the raw action, scaled to the bounds of a Box, instead of clipping it.
      step_timeout: seconds after which a step or reset that has not returned is an error; see
        `collect_episodes`.
      autoreset_mode: the mode of a vector that declares none in metadata["autoreset_mode"].

    Raises:
      ConfigError: `env` is not a Gymnasium environment.
      SpaceError: a space or the vector is not supported, or its autoreset mode is not known.

    Example:
      >>> import gymnasium, pgjax
      >>> env = gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync")
      >>> stream = pgjax.Stream(env)
      >>> stream.num_envs
      2
    """

    def __init__(
        self,
        env: gym.Env | VectorEnv,
        *,
        squash: bool = False,
        step_timeout: float = math.inf,
        autoreset_mode: AutoresetMode | None = None,
    ):
        self._envs = adapt_stream(env, autoreset_mode)
        self.num_envs = self._envs.num_envs
        self._sends = actions(self._envs.action_space, squash)
        serial = isinstance(self._envs, SerialEnvs)
        self._send = self._sends.send if serial else self._sends.send_batch
        self._timeout = step_timeout
        self._next: np.ndarray | None = None  # observations to act on next [num_envs, d]
        self._sums = np.zeros((2, self.num_envs))  # return and length of the running episodes
        # Return, length, truncation and success of the last episodes that ended.
        self._recent: deque[tuple[float, float, bool, float]] = deque()
        self._ended = 0  # how many of them ended in the last rollout

    def collect(self, algorithm: Algorithm, state: TrainState, num_steps: int) -> Rollout:
        """Collect the next steps: a Rollout [num_steps, num_envs, ...]; see `collect_steps`."""
        num_steps = check_count("num_steps", num_steps)
        check_type(algorithm, Algorithm)
        check_type(state, TrainState)
        seen = self._envs.seen
        # Streams depend on the number of environments anyway, so the policy acts on all together.
        block = min(-(-self.num_envs // ROWS) * ROWS, _MOST_ROWS)
        compiled = compile_for(algorithm, state, np.zeros(seen.size, seen.dtype), block)
        check_action(self._sends, compiled.like, compiled.choices)
        params, seeds, noise = compiled.begin(state, self.num_envs)
        rows = self._rows(compiled.layout, num_steps, block)
        field = compiled.layout.fields[-1]
        obs = rows[field.row][:, : self.num_envs, field.columns]
        actions = np.zeros((num_steps, rows[0].shape[1], *compiled.like.shape), compiled.like.dtype)
        log, success = self._log(num_steps), np.full((num_steps, self.num_envs), np.nan)
        finals: list[tuple[int, np.ndarray, np.ndarray]] = []  # (t, slots, true successors)
        while len(self._recent) > self.num_envs:  # enough for a rollout in which none ends
            self._recent.popleft()
        self._ended = 0
        # Unset while collecting: after an exception the stored observations are outdated.
        begun, self._next = self._next, None
        steps = 0  # begun

        def step(t: int) -> bool:
            nonlocal steps
            steps = t + 1
            sent = self._send(actions[t, : self.num_envs])
            self._step(sent, seeds, t, log, success[t], obs[t + 1], finals)
            return False

        try:
            with self._envs.step_timeout(self._timeout):
                if begun is None:
                    self._begin(seeds, obs[0])
                else:
                    obs[0] = begun
                for begin in range(0, num_steps, BLOCK):
                    self._lay_noise(compiled.layout, rows, begin, noise.block(begin))
                    end = min(begin + BLOCK, num_steps)
                    compiled.act(params, rows, actions, begin, end, step)
        except EnvError as e:
            raise _rollout_error(e, state, steps) from e.__cause__
        log["action"] = actions[:, : self.num_envs].copy()
        log["next_obs"] = obs[1 : num_steps + 1].copy()
        for t, slots, successors in finals:
            log["next_obs"][t, slots] = successors
        log["obs"] = obs[:num_steps]
        self._count(log, success)
        found = find_nonfinite(log["obs"], log["action"], log["reward"], log["next_obs"])
        if found:
            steps_before, error = found
            raise _rollout_error(error, state, steps_before)
        self._next = obs[num_steps].copy()
        return Rollout(**log)

    def _rows(self, layout: Layout, num_steps: int, block: int) -> list[np.ndarray]:
        """Return empty rows for what the policy reads: noise in blocks, and the observation."""
        steps, slots = -(-num_steps // BLOCK) * BLOCK + 1, -(-self.num_envs // block) * block
        rows = zip(layout.widths, layout.dtypes, strict=True)
        return [np.zeros((steps, slots, width), dtype) for width, dtype in rows]

    def _lay_noise(
        self, layout: Layout, rows: list[np.ndarray], t: int, noise: Sequence[np.ndarray]
    ) -> None:
        """Write the noise of a block of steps, arrays [num_envs, BLOCK, ...], to the rows."""
        for field, x in zip(layout.fields[:-1], noise, strict=True):
            block = rows[field.row][t : t + BLOCK, : self.num_envs, field.columns]
            block[:] = x.reshape(self.num_envs, BLOCK, -1).swapaxes(0, 1)

    def _log(self, num_steps: int) -> dict[str, Any]:
        """Return empty fields of a Rollout, except observations and actions."""
        shape = (num_steps, self.num_envs)
        log: dict[str, Any] = {name: np.zeros(shape, np.float32) for name in ("reward", "weight")}
        log |= {name: np.zeros(shape, bool) for name in ("terminated", "truncated")}
        return log

    def episode_info(self) -> dict[str, float]:
        """Return metrics of the episodes that ended in the last rollout.

        If none ended, the metrics are those of the last episodes that ended earlier; before the
        first end, those of the running episodes so far.
        """
        running = [(*sums, False, math.nan) for sums in self._sums.T]
        last = list(self._recent)[-(self._ended or self.num_envs) :] or running
        returns, lengths, cut, success = np.array(last).T
        return {
            "episodes": self._ended,
            "mean_return": float(returns.mean()),
            "min_return": float(returns.min()),
            "max_return": float(returns.max()),
            "mean_length": float(lengths.mean()),
            "min_length": float(lengths.min()),
            "max_length": float(lengths.max()),
            "truncated_fraction": float(cut.mean()),
            **success_info(success),
        }

    def _begin(self, seeds: list[int], rows: np.ndarray) -> None:
        """Reset all environments; write their observations to rows [num_envs, d]."""
        self._sums[:] = 0.0
        if isinstance(self._envs, AutoresetVector):
            self._envs.reset(seeds, rows)
        else:
            self._envs.reset(dict(enumerate(seeds)), rows)

    def _step(
        self,
        sent: Any,
        seeds: list[int],
        t: int,
        log: dict[str, Any],
        success: np.ndarray,
        obs: np.ndarray,
        finals: list[tuple[int, np.ndarray, np.ndarray]],
    ) -> None:
        """Step all environments; write the observations to act on next to obs [num_envs, d].

        The true successors of steps that end an episode are appended to `finals`, unless they are
        in `obs`.
        """
        ends = log["terminated"][t], log["truncated"][t], success
        into = StepArrays(obs, log["reward"][t], *ends)
        if isinstance(self._envs, AutoresetVector):
            log["weight"][t], found = self._envs.step(sent, into)
            finals.extend((t, *each) for each in found)
            return
        log["weight"][t] = 1.0
        if self._envs.step(sent, range(self.num_envs), into):
            over = np.flatnonzero(into.terminated | into.truncated)
            finals.append((t, over, obs[over]))
            self._envs.reset({slot: _reset_seed(seeds[slot], t) for slot in over.tolist()}, obs)

    def _count(self, log: dict[str, Any], success: np.ndarray) -> None:
        """Clear the steps of weight 0, and add the others to the sums of their episodes."""
        real = log["weight"] > 0
        for name in ("reward", "terminated", "truncated"):
            log[name][~real] = 0
        over = log["terminated"] | log["truncated"]
        # Column by column, an episode's part is a segment, which begins after an end.
        begins = np.ones((self.num_envs, len(over) + 1), bool)
        begins[:, 1:] = over.T
        length = begins.shape[1]  # one step more, so that no segment is empty
        columns = np.zeros((2, self.num_envs, length))
        columns[0, :, :-1], columns[1, :, :-1] = log["reward"].T, log["weight"].T
        starts = np.flatnonzero(begins)
        sums = np.add.reduceat(columns.reshape(2, -1), starts, axis=1)
        slots = starts // length
        first = np.flatnonzero(starts % length == 0)  # of each column
        sums[:, first] += self._sums
        last = np.append(first[1:], len(starts)) - 1
        self._sums = sums[:, last]
        ends = np.setdiff1d(np.arange(len(starts)), last)
        times = starts[ends + 1] % length - 1 if len(ends) else ends
        order = np.lexsort((slots[ends], times))
        ends, times = ends[order], times[order]
        at = times, slots[ends]
        more = (log["truncated"] & ~log["terminated"])[at].tolist(), success[at].tolist()
        self._recent.extend(zip(*sums[:, ends].tolist(), *more, strict=True))
        self._ended = len(ends)


def collect_steps(
    stream: Stream, algorithm: Algorithm, state: TrainState, num_steps: int
) -> Rollout:
    """Collect the next `num_steps` steps of each of a stream's environments.

    Use it with a critic, for tasks whose episodes are too long to collect whole. Column b is
    environment b; its action at time t of the rollout is drawn with the key
    fold_in(fold_in(state.key, e), t), where e = state.step * num_envs + b. So the result depends on
    the number of environments, unlike that of `collect_episodes`.

    A column may hold the end of one episode and the beginning of another. Where it stops in the
    middle of an episode it is neither terminated nor truncated, and an estimator bootstraps from
    the critic's value of `next_obs`.

    Args:
      stream: the environments; continues where its last rollout stopped.
      algorithm: `act` is used.
      state: `params`, `key` and `step` are used.
      num_steps: number of rows, at least 1.

    Returns:
      Rollout of NumPy arrays [num_steps, num_envs, ...]. Weight is 0 for steps that an environment
      took to reset itself. Observations are flattened: [num_steps, num_envs, d].

    Raises:
      ConfigError: an argument has the wrong type, or num_steps is not an integer of at least 1.
      SpaceError: the policy does not fit the action space.
      RolloutError: as in `collect_episodes`, but it names environment, update and step, and has no
        `replay`. After it, or any other exception, the stream begins new episodes.

    Example:
      >>> import gymnasium, jax, optax, pgjax
      >>> env = gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync")
      >>> stream = pgjax.Stream(env)
      >>> algorithm = pgjax.reinforce(pgjax.SoftmaxPolicy(2, (4,)), optax.adam(0.01))
      >>> state = algorithm.init(jax.random.key(0), jax.numpy.zeros(4))
      >>> rollout = pgjax.collect_steps(stream, algorithm, state, num_steps=5)
      >>> rollout.obs.shape  # [T, B, d]
      (5, 2, 4)
    """
    if not isinstance(stream, Stream):
        raise ConfigError(f"a pgjax.Stream(env) is needed here, got {short_repr(stream)}")
    return stream.collect(algorithm, state, num_steps)


def _rollout_error(error: EnvError, state: TrainState, num_steps: int) -> RolloutError:
    """Return the error to raise for an environment at fault, after `num_steps` of the rollout."""
    where = f"{error.env}, update {int(state.step) + 1}"
    return RolloutError(f"{where}, {error.after(num_steps)}")


def _reset_seed(seed: int, t: int) -> int:
    """Return the seed of the episode that begins after step t in a column with its own seed."""
    return int(np.random.SeedSequence([seed, t]).generate_state(1)[0])
