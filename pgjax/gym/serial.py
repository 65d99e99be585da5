"""Step environments of this process, one after another."""

import contextlib
import math
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from pgjax.gym.results import (
    FLAGS,
    LARGEST,
    EnvError,
    StepArrays,
    first_obs,
    hung,
    raised_by_env,
    success_in,
    write_obs,
    write_step,
)
from pgjax.gym.spaces import observations


class SerialEnvs:
    """Environments in this process, stepped one after another; finished ones are not stepped."""

    def __init__(self, envs: Sequence[gym.Env]):
        self.envs, self.num_envs = envs, len(envs)
        self.action_space, self.observation_space = envs[0].action_space, envs[0].observation_space
        self.seen = observations(self.observation_space)
        self._inside = False  # whether an environment's code is running
        self._calls = 0

    def reset(self, seeds: dict[int, int], rows: np.ndarray) -> None:
        """Reset slots with seeds, and write their first observations to rows [slots, d]."""
        self._calls += 1
        slot = -1
        self._inside = True
        try:
            for slot, seed in seeds.items():
                with warnings.catch_warnings():  # filters that user code sets are its own
                    obs = first_obs(self.envs[slot].reset(seed=seed))
                write_obs(rows, slot, self.seen.encode, obs)
        except EnvError as e:
            e.slot = slot
            raise
        except (Exception, SystemExit) as e:
            raise raised_by_env(e, slot) from e
        finally:
            self._inside = False

    def step(self, actions: Any, slots: Iterable[int], step: StepArrays) -> bool:
        """Step slots with actions, which are indexed by slot, and write what they return.

        Returns whether any of their episodes has ended.
        """
        envs, encode = self.envs, self.seen.encode
        successors, rewards, terminated, truncated, success = step
        dtype, shape = self.seen.as_is or (None, ())
        rows = successors if len(shape) == 1 else successors.reshape(-1, *shape)
        ended, slot = False, -1
        self._calls += 1
        self._inside = True
        try:
            for slot in slots:
                result = envs[slot].step(actions[slot])
                # Results of the usual types are written here; `write_step` checks all others.
                if type(result) is tuple and len(result) == 5:
                    obs, reward, over, cut, info = result
                    if (
                        type(obs) is np.ndarray
                        and obs.dtype is dtype
                        and obs.shape == shape
                        and isinstance(reward, float)
                        and -LARGEST <= reward <= LARGEST
                        and type(over) in FLAGS
                        and type(cut) in FLAGS
                    ):
                        rows[slot] = obs
                        rewards[slot] = reward
                        if over or cut:
                            terminated[slot], truncated[slot], ended = over, cut, True
                            success[slot] = success_in(info)
                        continue
                over, cut, info = write_step(result, slot, successors, rewards, encode)
                if over or cut:
                    terminated[slot], truncated[slot], ended = over, cut, True
                    success[slot] = success_in(info)
        except EnvError as e:
            e.slot = slot
            raise
        except (Exception, SystemExit) as e:
            raise raised_by_env(e, slot) from e
        finally:
            self._inside = False
        return ended

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
                raise hung(f"more than {seconds:g}")
            seen = self._calls

        before = signal.signal(signal.SIGALRM, check_progress)
        signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
        try:
            with warnings.catch_warnings():  # filters that user code sets are its own
                yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
