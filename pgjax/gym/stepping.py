"""Step Gymnasium environments as numbered slots.

A slot is one environment: an `Env` is one slot, a `VectorEnv` is `num_envs` slots. Every fault
of an environment is raised as an `EnvError`.
"""

import contextlib
import math
import multiprocessing
import os
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import connection
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array, iterate

from pgjax.envs import base
from pgjax.errors import ConfigError, SpaceError, short_repr
from pgjax.gym.results import EnvError, failure_advice, failure_text, first_obs


def check_env(env: Any) -> None:
    """Raise ConfigError, with what to call instead, unless the argument steps as Gymnasium's do."""
    if isinstance(env, str):
        raise ConfigError(f"pass an environment, not its name: gymnasium.make({env!r})")
    if isinstance(env, base.Env):
        raise ConfigError(
            "this is a functional environment: collect it with pgjax.collect_episodes_on_device, "
            "or convert it with pgjax.envs.as_gymnasium(env)"
        )
    if isinstance(env, type) or not hasattr(env, "step"):
        raise ConfigError(
            f"a Gymnasium environment is needed here, got {short_repr(env)}: gymnasium.make and "
            "gymnasium.make_vec make one"
        )


def adapt(env: gym.Env | VectorEnv) -> "SerialEnvs | ManualResetVector":
    """Return the slots of an environment; a vector must leave resets to the caller.

    Raises:
      ConfigError: the argument is not a Gymnasium environment.
    """
    check_env(env)
    if type(env) is SyncVectorEnv:  # not a wrapper of one, which may change what it returns
        return SerialEnvs(env.envs)
    return ManualResetVector(env) if isinstance(env, VectorEnv) else SerialEnvs([env])


def adapt_stream(
    env: gym.Env | VectorEnv, autoreset_mode: AutoresetMode | None = None
) -> "SerialEnvs | ManualResetVector | AutoresetVector":
    """Return the slots of an environment; a vector may reset its environments itself.

    `autoreset_mode` stands in for a vector that does not declare its mode in its metadata.
    """
    if type(env) is SyncVectorEnv or not isinstance(env, VectorEnv):
        return adapt(env)
    if any(cls.__name__ == "FunctionalJaxVectorEnv" for cls in type(env.unwrapped).__mro__):
        raise SpaceError(
            "gymnasium's FunctionalJaxVectorEnv loses a step of every environment when one of them "
            'ends: make it with vectorization_mode="sync", or use pgjax.envs.from_func_env'
        )
    mode = (env.metadata or {}).get("autoreset_mode", autoreset_mode)
    if mode is None:
        raise SpaceError(
            "the vector environment does not declare in metadata['autoreset_mode'] when it resets "
            "an environment whose episode has ended, and a wrong guess would store wrong rewards: "
            "pass autoreset_mode=gymnasium.vector.AutoresetMode.NEXT_STEP or SAME_STEP to "
            "pgjax.Stream"
        )
    mode = AutoresetMode(mode)
    return adapt(env) if mode == AutoresetMode.DISABLED else AutoresetVector(env, mode)


class SerialEnvs:
    """Environments in this process, stepped one after another; finished ones are not stepped."""

    def __init__(self, envs: Sequence[gym.Env]):
        self.envs, self.num_envs = envs, len(envs)
        self.action_space, self.observation_space = envs[0].action_space, envs[0].observation_space
        self._inside = False  # whether an environment's code is running
        self._calls = 0

    def reset(self, seeds: dict[int, int]) -> list[Any]:
        """Reset slots with seeds; return their first observations."""

        def reset(slot: int) -> Any:
            with warnings.catch_warnings():  # filters that user code sets are its own
                return first_obs(self.envs[slot].reset(seed=seeds[slot]))

        return self._each(reset, seeds)

    def step(self, actions: Any, slots: Iterable[int]) -> list[Any]:
        """Step slots with actions, which are indexed by slot; return what `env.step` returned."""
        envs = self.envs
        return self._each(lambda slot: envs[slot].step(actions[slot]), slots)

    def _each(self, call: Callable[[int], Any], slots: Iterable[int]) -> list[Any]:
        results: list[Any] = []
        self._calls += 1
        self._inside = True
        try:
            for slot in slots:
                results.append(call(slot))
        except (Exception, SystemExit) as e:
            slot = list(slots)[len(results)]
            if isinstance(e, EnvError):
                raise EnvError(e.reason, slot, advice=e.advice) from e
            raise EnvError(
                f"the environment {failure_text(e)}", slot, advice=failure_advice(e)
            ) from e
        finally:
            self._inside = False
        return results

    @contextlib.contextmanager
    def step_timeout(self, seconds: float) -> Iterator[None]:
        """Raise if stepping all slots takes over `seconds`; Unix main thread only.

        Detected within 2 x `seconds`: a timer checks for progress every `seconds`, at no cost per
        step.
        """
        main = threading.current_thread() is threading.main_thread()
        if not main or not math.isfinite(seconds) or not hasattr(signal, "setitimer"):
            with warnings.catch_warnings():
                yield
            return
        seen = -1

        def check_progress(*_: Any) -> None:
            nonlocal seen
            if self._inside and self._calls == seen:
                raise _hung(f"more than {seconds:g}")
            seen = self._calls

        before = signal.signal(signal.SIGALRM, check_progress)
        signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
        try:
            with warnings.catch_warnings():  # filters that user code sets are its own
                yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def _hung(seconds: str, slot: int = -1) -> EnvError:
    reason = f"the environment has not returned for {seconds} s"
    return EnvError(reason, slot, advice="correct it, or raise --step-timeout")


def _raised_by_vector(error: Exception) -> bool:
    """Whether Gymnasium's own code of vectors raised an error, as where infos do not fit."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_code.co_filename.startswith(os.path.dirname(gym.vector.__file__))


class _Vector:
    """A VectorEnv, whose environments all step together."""

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
        self._seconds: float | None = None

    def _batch(self, actions: Any) -> Any:
        """Convert the actions of the slots to one batch of the vector's action space."""
        space, actions = self.action_space, actions[: self.num_envs]
        if not isinstance(space, spaces.Dict | spaces.Tuple):
            return np.asarray(actions)
        batch: Any = create_empty_array(space, self.num_envs)
        return concatenate(space, actions, batch)

    def _each(self, obs: Any) -> Sequence[Any]:
        """Split a batch of the vector's observations into one for each slot."""
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
            raise _hung(f"{self._seconds:g}", next(iter(silent), -1)) from e
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
            what = failure_text(e)
            if not raised and _raised_by_vector(e):
                raise EnvError(
                    f"the vector, not one of its environments, {what}",
                    advice="their observations or infos may not fit together; pass pgjax a single "
                    "environment, or leave the infos out with a wrapper",
                ) from e
            raise EnvError(f"the environment {what}", slot, advice=failure_advice(e)) from e

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

    def reset(self, seeds: dict[int, int]) -> list[Any]:
        """Reset slots with seeds; return their first observations."""
        for slot, seed in seeds.items():
            self._seeds[slot] = seed
        # Reset all of them the first time: none may be stepped before its first reset.
        mask = np.isin(np.arange(self.num_envs), list(seeds)) | (not self._begun)
        self._begun = True
        all_seeds: Any = list(self._seeds)  # must be a list, despite Gymnasium's annotation
        obs, _ = self._call("reset", seed=all_seeds, options={"reset_mask": mask})
        self._over[mask] = False
        each = self._each(obs)
        return [each[slot] for slot in seeds]

    def step(self, actions: Any, slots: Iterable[int]) -> list[Any]:
        """Step all slots; return (observation, reward, terminated, truncated, None) of `slots`."""
        if self._over.any():
            self.reset({int(slot): self._seeds[slot] for slot in np.flatnonzero(self._over)})
        obs, reward, terminated, truncated, _ = self._call("step", self._batch(actions))
        self._over, each = terminated | truncated, self._each(obs)
        return [(each[s], reward[s], terminated[s], truncated[s], None) for s in slots]


class AutoresetVector(_Vector):
    """A vector that resets its environments itself, in the last step of an episode or the next."""

    def __init__(self, env: VectorEnv, mode: AutoresetMode):
        super().__init__(env)
        self.mode = mode
        self._over = np.zeros(env.num_envs, bool)

    def reset(self, seeds: Sequence[int]) -> Any:
        """Reset all slots; return their first observations.

        Only vectors made of single environments take a seed for each; others take the first seed.
        """
        many = isinstance(self.env.unwrapped, AsyncVectorEnv | SyncVectorEnv)
        seed: Any = list(seeds) if many else seeds[0] % 2**31
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # envpool takes its seed when it is made
            obs, _ = self._call("reset", seed=seed)
        self._over[:] = False
        return self._each(obs)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, Any, Any]:
        """Step all slots.

        Returns:
          (observations to act on next, rewards, terminated, truncated, whether the step was real
          and not a reset, true successors), each with an entry for every slot.
        """
        obs, reward, *flags, info = self._call("step", self._batch(actions))
        terminated, truncated = (np.asarray(flag, bool) for flag in flags)
        each, real, over = self._each(obs), ~self._over, terminated | truncated
        if self.mode == AutoresetMode.NEXT_STEP:
            self._over = over  # these slots are reset by the next step
        if self.mode == AutoresetMode.NEXT_STEP or not over.any():
            return each, reward, terminated, truncated, real, each
        finals = info.get("final_obs") if isinstance(info, dict) else None
        if finals is None:
            raise EnvError("an episode ended without info['final_obs'], which SAME_STEP requires")
        successors = [finals[slot] if over[slot] else each[slot] for slot in range(self.num_envs)]
        return each, reward, terminated, truncated, real, successors
