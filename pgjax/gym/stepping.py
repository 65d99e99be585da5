"""Gymnasium's environments as numbered slots: one by one, or a vector's all at once.

What goes wrong in one is raised as `StepError`, which says in which.
"""

import contextlib
import math
import multiprocessing
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import connection
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array, iterate

from pgjax.errors import SpaceError, short_repr


class StepError(Exception):
    """An environment raised, hung or died."""

    def __init__(self, slot: int, reason: str):
        super().__init__(reason)
        self.slot = slot  # -1 where it cannot be told


class _FaultError(Exception):
    """What an environment did wrong without raising anything, in our words."""


class SerialEnvs:
    """Environments of this process, stepped one after the other; none that has ended is touched."""

    def __init__(self, envs: Sequence[gym.Env]):
        self.envs, self.num_envs = envs, len(envs)
        self.action_space, self.observation_space = envs[0].action_space, envs[0].observation_space
        self._inside = False  # an environment's code
        self._calls = 0

    def reset(self, seeds: dict[int, int]) -> list[Any]:
        def reset(slot: int) -> Any:
            result = self.envs[slot].reset(seed=seeds[slot])
            if not isinstance(result, tuple) or len(result) != 2:
                raise _FaultError(f"returned {short_repr(result)}, not (observation, info)")
            return result[0]

        return self._each(reset, seeds)

    def step(self, actions: Any, slots: Iterable[int]) -> list[Any]:
        envs = self.envs
        return self._each(lambda slot: envs[slot].step(actions[slot]), slots)

    def _each(self, call: Any, slots: Iterable[int]) -> list[Any]:
        results: list[Any] = []
        self._calls += 1
        self._inside = True
        try:
            for slot in slots:
                results.append(call(slot))
        except (Exception, SystemExit) as e:
            raise StepError(list(slots)[len(results)], failure_text(e)) from e
        finally:
            self._inside = False
        return results

    @contextlib.contextmanager
    def step_timeout(self, seconds: float) -> Iterator[None]:
        """Raise where all slots' calls take longer, up to twice: in the main thread of Unix only.

        A timer that looks whether there was any progress costs a step nothing.
        """
        main = threading.current_thread() is threading.main_thread()
        if not main or not math.isfinite(seconds) or not hasattr(signal, "setitimer"):
            yield
            return
        seen = -1

        def look(*_: Any) -> None:
            nonlocal seen
            if self._inside and self._calls == seen:
                raise _FaultError(f"has not come back for more than {seconds:g} s (--step-timeout)")
            seen = self._calls

        before = signal.signal(signal.SIGALRM, look)
        signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


class _Vector:
    """A VectorEnv whose environments all step at once."""

    def __init__(self, env: VectorEnv):
        self.env, self.num_envs = env, env.num_envs
        self.action_space = env.single_action_space
        self.observation_space = env.single_observation_space
        self._seconds: float | None = None

    def _batch(self, actions: Any) -> Any:
        """The actions of the slots as the vector takes them."""
        space, actions = self.action_space, actions[: self.num_envs]
        if not isinstance(space, spaces.Dict | spaces.Tuple):
            return np.asarray(actions)
        batch: Any = create_empty_array(space, self.num_envs)
        return concatenate(space, actions, batch)

    def _each(self, obs: Any) -> Sequence[Any]:
        """The observations of the slots, of those of the vector."""
        if not isinstance(self.observation_space, spaces.Dict | spaces.Tuple):
            return obs
        return list(iterate(self.env.observation_space, obs))

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        env: Any = self.env
        try:
            if not isinstance(env, AsyncVectorEnv) or self._seconds is None:
                return getattr(env, name)(*args, **kwargs)
            getattr(env, f"{name}_async")(*args, **kwargs)
            return getattr(env, f"{name}_wait")(timeout=self._seconds)
        except multiprocessing.TimeoutError as e:
            silent = [i for i, pipe in enumerate(env.parent_pipes) if not pipe.poll(0)]
            reason = f"has not come back for {self._seconds:g} s (--step-timeout)"
            raise StepError(next(iter(silent), -1), reason) from e
        except Exception as e:
            # Gymnasium takes away the pipe of a process that raised; one that died has ended.
            pipes, processes = getattr(env, "parent_pipes", ()), getattr(env, "processes", ())
            raised = [i for i, pipe in enumerate(pipes) if pipe is None]
            dead = not raised and isinstance(e, EOFError | ConnectionError)
            if dead:
                connection.wait([process.sentinel for process in processes], timeout=1.0)
            died = [i for i, process in enumerate(processes) if not process.is_alive()]
            reason = "died: its process has ended" if dead else failure_text(e)
            raise StepError(next(iter(raised or died), -1), reason) from e

    @contextlib.contextmanager
    def step_timeout(self, seconds: float) -> Iterator[None]:
        """Raise where processes take longer; what they raise is told once, by us."""
        self._seconds = seconds if math.isfinite(seconds) else None
        level, gym.logger.min_level = gym.logger.min_level, gym.logger.ERROR + 1
        try:
            yield
        finally:
            gym.logger.min_level = level


class ManualResetVector(_Vector):
    """One that leaves resets to us.

    A slot that has no episode left to run repeats its last, unrecorded, since Gymnasium lets none
    be stepped beyond its end.
    """

    def __init__(self, env: VectorEnv):
        super().__init__(env)
        mode = env.metadata.get("autoreset_mode")
        if mode != AutoresetMode.DISABLED:
            raise SpaceError(
                f"a vector environment must leave resets to pgjax, and this one has {mode}: make "
                'it with gymnasium.make_vec(..., vectorization_mode="sync" or "async", '
                'vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED}), or '
                "collect streams of steps (pgjax.Stream)"
            )
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
        obs, _ = self._call("reset", seed=all_seeds, options={"reset_mask": mask})
        self._over[mask] = False
        each = self._each(obs)
        return [each[slot] for slot in seeds]

    def step(self, actions: Any, slots: Iterable[int]) -> list[Any]:
        if self._over.any():
            self.reset({int(slot): self._seeds[slot] for slot in np.flatnonzero(self._over)})
        obs, reward, terminated, truncated, _ = self._call("step", self._batch(actions))
        self._over, each = terminated | truncated, self._each(obs)
        return [(each[s], reward[s], terminated[s], truncated[s], None) for s in slots]


class AutoresetVector(_Vector):
    """One whose slots go on with another episode by themselves, after an end or with it."""

    def __init__(self, env: VectorEnv):
        super().__init__(env)
        self.mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self._over = np.zeros(env.num_envs, bool)

    def reset(self, seeds: Sequence[int]) -> Any:
        """First observations of all; a vector that is no list of environments takes one seed."""
        many = isinstance(self.env.unwrapped, AsyncVectorEnv | SyncVectorEnv)
        seed: Any = list(seeds) if many else seeds[0] % 2**31
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # envpool has one of its own already
            obs, _ = self._call("reset", seed=seed)
        self._over[:] = False
        return self._each(obs)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, Any, Any]:
        """(observations to act on, rewards, terminated, truncated, real, true successors)."""
        obs, reward, *flags, info = self._call("step", self._batch(actions))
        terminated, truncated = (np.asarray(flag, bool) for flag in flags)
        each, real, over = self._each(obs), ~self._over, terminated | truncated
        if self.mode == AutoresetMode.NEXT_STEP:
            self._over = over  # the step after these is a reset
        if self.mode == AutoresetMode.NEXT_STEP or not over.any():
            return each, reward, terminated, truncated, real, each
        finals = info.get("final_obs") if isinstance(info, dict) else None
        if finals is None:
            raise StepError(-1, "gave no info['final_obs'] at an end, as its mode SAME_STEP says")
        successors = [finals[slot] if over[slot] else each[slot] for slot in range(self.num_envs)]
        return each, reward, terminated, truncated, real, successors


def failure_text(error: BaseException) -> str:
    """What an environment did wrong, in one line, as it goes behind its name."""
    if isinstance(error, _FaultError):
        return str(error)
    return " ".join(f"raised {type(error).__name__}: {error}".split()).rstrip(": ")


def adapt(env: gym.Env | VectorEnv) -> SerialEnvs | ManualResetVector:
    """The slots of an environment, or of a vector of them."""
    if type(env) is SyncVectorEnv:  # itself, not a wrapper of it, which may change what it returns
        return SerialEnvs(env.envs)
    return ManualResetVector(env) if isinstance(env, VectorEnv) else SerialEnvs([env])


_STEP = "(observation, reward, terminated, truncated, info)"


Encode = Callable[[Any], np.ndarray]  # one observation -> [d]; ValueError for a wrong one


class ResultError(Exception):
    """What is wrong, in words that follow the name of the environment and the step."""

    def __init__(self, what: str, later: int = 0):
        super().__init__(f"{what}: correct the environment")
        self.later = later  # steps between the one that was made and the one that it is told of


def write_obs(rows: np.ndarray, slot: int, encode: Encode, obs: Any, later: int = 0) -> None:
    """Write an observation into rows [slots, d].

    Raises:
      ResultError: if it is none of its space.
    """
    try:
        rows[slot] = encode(obs)
    except (TypeError, ValueError) as e:
        raise ResultError(f"the observation {e}", later) from None


def write_step(
    result: Any, slot: int, successors: np.ndarray, rewards: np.ndarray, encode: Encode
) -> tuple[bool, bool]:
    """Write what a step returned into successors [slots, d] and rewards [slots].

    Returns:
      (terminated, truncated)

    Raises:
      ResultError: if any of it is not what it should be.
    """
    try:
        obs, reward, terminated, truncated, _ = result
    except (TypeError, ValueError):
        given = f"{len(result)} values" if isinstance(result, tuple) else short_repr(result)
        raise ResultError(f"step returned {given}, not {_STEP}") from None
    try:  # as write_obs, whose call would cost every step of every environment
        successors[slot] = encode(obs)
    except (TypeError, ValueError) as e:
        raise ResultError(f"the observation {e}", later=1) from None
    try:
        if reward is None:  # NumPy would make NaN of it
            raise TypeError
        rewards[slot] = reward
    except (TypeError, ValueError):
        raise ResultError(f"the reward is {short_repr(reward)}, not a number") from None
    try:
        return bool(terminated), bool(truncated)
    except (TypeError, ValueError):
        flags = short_repr((terminated, truncated))
        raise ResultError(f"(terminated, truncated) is {flags}, not two flags") from None
