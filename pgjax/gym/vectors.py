"""Step vectors of environments, whose results come as arrays."""

import contextlib
import math
import multiprocessing
import os
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import connection
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import iterate

from pgjax.errors import SpaceError
from pgjax.gym.results import (
    LARGEST,
    SUCCESS,
    EnvError,
    StepArrays,
    failure_text,
    hung,
    raised_by_env,
    success_in,
    write_obs,
    write_rest,
)
from pgjax.gym.spaces import observations


def _raised_by_vector(error: Exception) -> bool:
    """Whether Gymnasium's own code of vectors raised an error, as where infos do not fit."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_code.co_filename.startswith(os.path.dirname(gym.vector.__file__))


def _is_batch(x: Any, size: int, kind: str) -> bool:
    """Whether a vector's result is an array [size] of the usual kind of dtype."""
    return type(x) is np.ndarray and x.shape == (size,) and x.dtype.kind == kind


def _write_success(info: Any, slots: Iterable[int], step: StepArrays) -> None:
    """Write the success of slots whose episodes end, from the gathered infos of a vector."""
    for slot in slots:
        of_slot = {}
        for name in SUCCESS:
            with contextlib.suppress(AttributeError, LookupError, TypeError, ValueError):
                if info.get(f"_{name}", {slot: True})[slot]:
                    of_slot[name] = info[name][slot]
        step.success[slot] = success_in(of_slot)


class _Vector:
    """A VectorEnv, whose environments all step together, with one batch of actions."""

    def __init__(self, env: VectorEnv):
        self.env, self.num_envs = env, env.num_envs
        for name in ("single_action_space", "single_observation_space"):
            if not isinstance(getattr(env, name, None), gym.Space):
                raise SpaceError(
                    f"the vector environment has no {name}: set it to the space of one of its "
                    "environments"
                )
        self.action_space = env.single_action_space
        self.observation_space = env.single_observation_space
        self.seen = observations(self.observation_space)
        self._seconds: float | None = None

    def _write_obs(self, obs: Any, rows: np.ndarray, slots: Sequence[int]) -> None:
        """Write the observations of slots, from a batch of all, to rows [slots, d]."""
        dtype, shape = self.seen.as_is or (None, ())
        whole = type(obs) is np.ndarray and obs.dtype is dtype
        if whole and obs.shape == (self.num_envs, *shape):
            index = slice(self.num_envs) if len(slots) == self.num_envs else slots
            rows[index] = obs.reshape(self.num_envs, -1)[index]
            return
        if isinstance(self.observation_space, spaces.Dict | spaces.Tuple):
            obs = list(iterate(self.env.observation_space, obs))
        for slot in slots:
            write_obs(rows, slot, self.seen.encode, obs[slot])

    def _write_rest(
        self, reward: Any, terminated: Any, truncated: Any, slots: Sequence[int], step: StepArrays
    ) -> None:
        """Write rewards and flags of slots, from batches of all."""
        given = (reward, step.reward), (terminated, step.terminated), (truncated, step.truncated)
        whole = all(_is_batch(x, self.num_envs, into.dtype.kind) for x, into in given)
        if whole and (reward.itemsize == 4 or (np.abs(reward) <= LARGEST).all()):
            index = slice(self.num_envs) if len(slots) == self.num_envs else slots
            for x, into in given:
                into[index] = x[index]
            return
        for slot in slots:
            flags = write_rest(reward[slot], terminated[slot], truncated[slot], slot, step.reward)
            step.terminated[slot], step.truncated[slot] = flags

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        env: Any = self.env
        try:
            if not isinstance(env, AsyncVectorEnv) or self._seconds is None:
                return getattr(env, name)(*args, **kwargs)
            getattr(env, f"{name}_async")(*args, **kwargs)
            return getattr(env, f"{name}_wait")(timeout=self._seconds)
        except multiprocessing.TimeoutError as e:
            silent = [i for i, pipe in enumerate(env.parent_pipes) if not pipe.poll(0)]
            raise hung(f"{self._seconds:g}", next(iter(silent), -1)) from e
        except Exception as e:
            fault = e.args[0] if isinstance(e, EnvError) else None  # from a CheckedEnv
            # Gymnasium removes the pipe of a process that raised. One that died has exited.
            pipes, processes = getattr(env, "parent_pipes", ()), getattr(env, "processes", ())
            raised = [i for i, pipe in enumerate(pipes) if pipe is None]
            dead = not raised and isinstance(e, EOFError | ConnectionError)
            if dead:
                connection.wait([process.sentinel for process in processes], timeout=1.0)
            died = [i for i, process in enumerate(processes) if not process.is_alive()]
            slot = next(iter(raised or died), -1)
            if isinstance(fault, EnvError):
                raise EnvError(fault.reason, slot, fault.delay, fault.advice) from None
            if dead:
                raise EnvError(
                    "the environment died: its process has exited",
                    slot,
                    advice="correct the environment; in a script, start training under "
                    'if __name__ == "__main__":',
                ) from e
            if not raised and _raised_by_vector(e):
                raise EnvError(
                    f"the vector, not one of its environments, {failure_text(e)}",
                    advice="their observations or infos may not fit together; pass pgjax a single "
                    "environment, or leave the infos out with a wrapper",
                ) from e
            raise raised_by_env(e, slot) from e

    @contextlib.contextmanager
    def step_timeout(self, seconds: float) -> Iterator[None]:
        """Raise if a process takes over `seconds`; suppress Gymnasium's own error log."""
        self._seconds = seconds if math.isfinite(seconds) else None
        level, gym.logger.min_level = gym.logger.min_level, gym.logger.ERROR + 1
        try:
            with warnings.catch_warnings():
                yield
        finally:
            gym.logger.min_level = level


class ManualResetVector(_Vector):
    """A vector in autoreset mode DISABLED, whose environments are reset by the caller.

    Gymnasium steps all environments of a vector, but none may be stepped after its episode ends. A
    slot without a new episode therefore repeats its last one, unrecorded.
    """

    def __init__(self, env: VectorEnv):
        super().__init__(env)
        mode = (env.metadata or {}).get("autoreset_mode")
        if mode != AutoresetMode.DISABLED:
            raise SpaceError(
                f"a vector environment must leave resets to pgjax, but this one has {mode}: make "
                'it with gymnasium.make_vec(..., vectorization_mode="sync" or "async", '
                'vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED}), or '
                "collect streams of steps (pgjax.Stream)"
            )
        self._seeds = [0] * env.num_envs
        self._over = np.zeros(env.num_envs, bool)
        self._begun = False

    def reset(self, seeds: dict[int, int], rows: np.ndarray) -> None:
        """Reset slots with seeds, and write their first observations to rows [slots, d]."""
        self._write_obs(self._reset(seeds), rows, list(seeds))

    def _reset(self, seeds: dict[int, int]) -> Any:
        for slot, seed in seeds.items():
            self._seeds[slot] = seed
        # Reset all of them the first time: none may be stepped before its first reset.
        mask = np.isin(np.arange(self.num_envs), list(seeds)) | (not self._begun)
        self._begun = True
        all_seeds: Any = list(self._seeds)  # must be a list, despite Gymnasium's annotation
        obs, _ = self._call("reset", seed=all_seeds, options={"reset_mask": mask})
        self._over[mask] = False
        return obs

    def step(self, actions: Any, slots: Sequence[int], step: StepArrays) -> bool:
        """Step all slots, and write what `slots` return; say whether any of their episodes ends."""
        if self._over.any():
            self._reset({int(slot): self._seeds[slot] for slot in np.flatnonzero(self._over)})
        obs, reward, terminated, truncated, info = self._call("step", actions)
        self._over = terminated | truncated
        self._write_obs(obs, step.successors, slots)
        self._write_rest(reward, terminated, truncated, slots, step)
        if not self._over[slots].any():
            return False
        _write_success(info, (slot for slot in slots if self._over[slot]), step)
        return True


class AutoresetVector(_Vector):
    """A vector that resets its environments itself, in the last step of an episode or the next."""

    def __init__(self, env: VectorEnv, mode: AutoresetMode):
        super().__init__(env)
        self.mode = mode
        self._over = np.zeros(env.num_envs, bool)

    def reset(self, seeds: Sequence[int], rows: np.ndarray) -> None:
        """Reset all slots, and write their first observations to rows [slots, d].

        Only vectors made of single environments take a seed for each; others take the first seed.
        """
        many = isinstance(self.env.unwrapped, AsyncVectorEnv | SyncVectorEnv)
        seed: Any = list(seeds) if many else seeds[0] % 2**31
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # envpool takes its seed when it is made
            obs, _ = self._call("reset", seed=seed)
        self._over[:] = False
        self._write_obs(obs, rows, range(self.num_envs))

    def step(
        self, actions: Any, step: StepArrays
    ) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        """Step all slots, and write what they return.

        The observations written to `step.successors` are those to act on next, which are not the
        true successors where an episode ends in mode SAME_STEP.

        Returns:
          ([slots] bool, whether the step was real, and not a reset; the true successors that are
          not written: none, or one pair of slots [n] and observations [n, d]).
        """
        obs, reward, terminated, truncated, info = self._call("step", actions)
        step.reward[:] = reward
        step.terminated[:], step.truncated[:] = terminated, truncated
        self._write_obs(obs, step.successors, range(self.num_envs))
        over, real = step.terminated | step.truncated, ~self._over
        if self.mode == AutoresetMode.NEXT_STEP:
            self._over = over  # these slots are reset by the next step
        if not over.any():
            return real, []
        ended = np.flatnonzero(over).tolist()
        if self.mode == AutoresetMode.NEXT_STEP:
            _write_success(info, ended, step)
            return real, []
        finals = info.get("final_obs") if isinstance(info, dict) else None
        if finals is None:
            raise EnvError("an episode ended without info['final_obs'], which SAME_STEP requires")
        _write_success(info.get("final_info"), ended, step)
        rows = np.zeros_like(step.successors)
        for slot in ended:
            write_obs(rows, slot, self.seen.encode, finals[slot])
        return real, [(over, rows[over])]
