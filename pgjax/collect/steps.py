"""Collect streams of steps from Gymnasium environments: rollouts of a fixed length.

Each column continues where the previous rollout stopped, and a critic bootstraps there. Use
streams when episodes are too long to collect whole. The state of the environments is not part of
the TrainState: a resumed run begins new episodes, so it is not bit-identical to an uninterrupted
one.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from pgjax.collect.dispatch import BLOCK, ROWS, compile_for
from pgjax.collect.finite import find_nonfinite
from pgjax.collect.policy_fit import check_action
from pgjax.errors import ConfigError, RolloutError, check_count, short_repr
from pgjax.gym import spaces
from pgjax.gym.actions import actions
from pgjax.gym.results import EnvError, write_obs, write_step
from pgjax.gym.stepping import AutoresetVector, adapt_stream
from pgjax.numerics.packing import Layout
from pgjax.types import Algorithm, Rollout, TrainState, check_type


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
        self._seen = spaces.observations(self._envs.observation_space)
        self._timeout = step_timeout
        self._next: np.ndarray | None = None  # observations to act on next [num_envs, d]
        self._sums = np.zeros((2, self.num_envs))  # return and length of the running episodes
        # Return, length and truncation of the last episodes that ended.
        self._recent: deque[tuple[float, float, bool]] = deque()
        self._ended = 0  # how many of them ended in the last rollout

    def collect(self, algorithm: Algorithm, state: TrainState, num_steps: int) -> Rollout:
        """Collect the next steps: a Rollout [num_steps, num_envs, ...]; see `collect_steps`."""
        num_steps = check_count("num_steps", num_steps)
        check_type(algorithm, Algorithm)
        check_type(state, TrainState)
        compiled = compile_for(algorithm, state, np.zeros(self._seen.size, self._seen.dtype))
        check_action(self._sends, compiled.like, compiled.choices)
        params, seeds, noise = compiled.begin(state, self.num_envs)
        rows = self._rows(compiled.layout, num_steps)
        seen = compiled.layout.fields[-1]
        obs = rows[seen.row][:, : self.num_envs, seen.columns]
        log = self._log(compiled.like, obs, num_steps)
        while len(self._recent) > self.num_envs:  # enough for a rollout in which none ends
            self._recent.popleft()
        self._ended = 0
        # Unset while collecting: after an exception the stored observations are outdated.
        begun, self._next = self._next, None
        t = -1  # while they are reset
        try:
            with self._envs.step_timeout(self._timeout):
                obs[0] = self._begin(seeds) if begun is None else begun
                for t in range(num_steps):
                    if t % BLOCK == 0:
                        self._lay_noise(compiled.layout, rows, t, noise)
                    action = np.asarray(compiled.act(params, [row[t] for row in rows]))
                    log["action"][t] = action[: self.num_envs]
                    obs[t + 1] = self._step(action[: self.num_envs], seeds, t, log)
        except EnvError as e:
            raise _rollout_error(e, state, t + 1) from e.__cause__
        self._count(log)
        log["obs"] = obs[:num_steps]
        found = find_nonfinite(log["obs"], log["action"], log["reward"], log["next_obs"])
        if found:
            steps_before, error = found
            raise _rollout_error(error, state, steps_before)
        self._next = obs[num_steps].copy()
        return Rollout(**log)

    def _rows(self, layout: Layout, num_steps: int) -> list[np.ndarray]:
        """Return empty rows for what the policy reads: noise in blocks, and the observation."""
        steps, slots = -(-num_steps // BLOCK) * BLOCK + 1, -(-self.num_envs // ROWS) * ROWS
        rows = zip(layout.widths, layout.dtypes, strict=True)
        return [np.zeros((steps, slots, width), dtype) for width, dtype in rows]

    def _lay_noise(
        self,
        layout: Layout,
        rows: list[np.ndarray],
        t: int,
        noise: Callable[[int, int], list[np.ndarray]],
    ) -> None:
        """Write the noise of a block of steps, from t on, to the rows."""
        for column in range(self.num_envs):
            for field, x in zip(layout.fields[:-1], noise(column, t), strict=True):
                of_column = rows[field.row][t : t + BLOCK, column]
                of_column[:, field.columns] = x.reshape(BLOCK, -1)

    def _log(self, action: Any, obs: np.ndarray, num_steps: int) -> dict[str, Any]:
        """Return empty fields of a Rollout, except obs."""
        shape = (num_steps, self.num_envs)
        log: dict[str, Any] = {name: np.zeros(shape, np.float32) for name in ("reward", "weight")}
        log |= {name: np.zeros(shape, bool) for name in ("terminated", "truncated")}
        log["action"] = np.zeros((*shape, *action.shape), action.dtype)
        return {**log, "next_obs": np.zeros_like(obs[:num_steps])}

    def episode_info(self) -> dict[str, float]:
        """Return metrics of the episodes that ended in the last rollout.

        If none ended, the metrics are those of the last episodes that ended earlier; before the
        first end, those of the running episodes so far.
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
        """Reset all environments; return their observations [num_envs, d]."""
        self._sums[:] = 0.0
        if isinstance(self._envs, AutoresetVector):
            return self._encode(self._envs.reset(seeds))
        return self._reset(dict(enumerate(seeds)))

    def _reset(self, seeds: dict[int, int]) -> np.ndarray:
        """Reset some environments with seeds; return their observations [len(seeds), d]."""
        envs: Any = self._envs
        return self._encode(envs.reset(seeds), list(seeds))

    def _step(self, action: np.ndarray, seeds: list[int], t: int, log: dict[str, Any]) -> Any:
        """Step all environments; return the observations to act on next [num_envs, d]."""
        sent, now = self._sends.send(action), {name: x[t] for name, x in log.items()}
        if isinstance(self._envs, AutoresetVector):
            seen, *of_step, successors = self._envs.step(sent)
            names = "reward", "terminated", "truncated", "weight"
            for name, x in zip(names, of_step, strict=True):
                now[name][:] = x
            obs = self._encode(seen)
            now["next_obs"][:] = obs if successors is seen else self._encode(successors)
            return obs
        results = self._envs.step(sent, range(self.num_envs))
        for slot, result in enumerate(results):
            flags = write_step(result, slot, now["next_obs"], now["reward"], self._seen.encode)
            now["terminated"][slot], now["truncated"][slot] = flags
        now["weight"][:] = 1.0
        over = np.flatnonzero(now["terminated"] | now["truncated"])
        if not len(over):
            return now["next_obs"]
        obs = now["next_obs"].copy()
        obs[over] = self._reset({int(slot): _reset_seed(seeds[slot], t) for slot in over})
        return obs

    def _count(self, log: dict[str, Any]) -> None:
        """Clear the steps of weight 0, and add the others to the sums of their episodes."""
        real = log["weight"] > 0
        for name in ("reward", "terminated", "truncated"):
            log[name][~real] = 0
        done = np.zeros(self.num_envs, int)  # steps of each that are already counted
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

    def _encode(self, observations: Any, slots: Sequence[int] | None = None) -> np.ndarray:
        """Encode the observations of `slots`, by default of all, as rows [d]."""
        space = self._envs.observation_space
        whole = isinstance(observations, np.ndarray) and isinstance(space, gym.spaces.Box)
        if whole and observations.shape[1:] == space.shape:
            return observations.reshape(len(observations), -1)  # they are one array already
        rows = np.zeros((self.num_envs, self._seen.size), self._seen.dtype)
        chosen = range(self.num_envs) if slots is None else slots
        for slot, obs in zip(chosen, observations, strict=True):
            write_obs(rows, slot, self._seen.encode, obs)
        return rows if slots is None else rows[slots]


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
