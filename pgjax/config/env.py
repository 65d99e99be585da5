"""Make and close the environments of a config."""

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from pgjax import envs
from pgjax.config.settings import TrainConfig
from pgjax.errors import ConfigError, PgjaxError
from pgjax.gym import spaces
from pgjax.gym.actions import actions
from pgjax.gym.spaces import observations
from pgjax.gym.stepping import SerialEnvs, failure_text


def make_env(config: TrainConfig, num_envs: int | None = None, **kwargs: Any) -> Any:
    """The environment of a config: a VectorEnv for config.num_envs > 1, else a single Env.

    Args:
      num_envs: in place of config.num_envs.
      **kwargs: for gymnasium.make.

    Raises:
      ConfigError: if Gymnasium cannot make it.
      SpaceError: for spaces that are not supported.
    """
    if config.vectorization == "envpool" and num_envs is None and not kwargs:
        return _make_envpool(config)
    num_envs = num_envs or config.num_envs
    if config.max_episode_steps is not None:
        kwargs["max_episode_steps"] = config.max_episode_steps
    kwargs["frame_stack"] = config.frame_stack
    make_one = functools.partial(_make_one, config.env_id, kwargs)
    try:
        if num_envs == 1:
            return make_one()
        if config.vectorization == "async":
            # Never a plain fork: JAX has threads, whose locks a forked child would inherit held.
            methods = multiprocessing.get_all_start_methods()
            return AsyncVectorEnv(
                [functools.partial(_make_in_process, make_one)] * num_envs,
                context="forkserver" if "forkserver" in methods else "spawn",
                autoreset_mode=AutoresetMode.DISABLED,
            )
        return SyncVectorEnv([make_one] * num_envs)
    except PgjaxError:
        raise
    except (Exception, SystemExit) as e:  # of its module and of its class, which are the user's
        of_gymnasium = isinstance(e, gym.error.Error)
        reason = " ".join(str(e).split()) if of_gymnasium else f"it {failure_text(e)}"
        raise ConfigError(f"cannot make the environment {config.env_id!r}: {reason}") from e


def _make_envpool(config: TrainConfig) -> Any:
    try:
        import envpool
    except ImportError:
        raise ConfigError('envpool is missing: pip install "pgjax[envpool]"') from None
    # Its environments have the seeds from this one on: a hash keeps neighbouring runs apart.
    seed = int(np.random.SeedSequence(config.seed).generate_state(1)[0]) % 2**30
    options: dict[str, Any] = {"seed": seed}
    if config.max_episode_steps is not None:
        options["max_episode_steps"] = config.max_episode_steps
    try:
        env = envpool.make(config.env_id, env_type="gymnasium", num_envs=config.num_envs, **options)
    except Exception as e:
        reason = " ".join(str(e).split())
        raise ConfigError(f"envpool cannot make {config.env_id!r}: {reason}") from e
    try:
        ours = _shapes(env.single_observation_space, env.single_action_space)
        with contextlib.closing(make_env(config, 1)) as theirs:  # which evaluates what is learned
            if ours != _shapes(theirs.observation_space, theirs.action_space):
                raise ConfigError(
                    f"envpool's {config.env_id} has other spaces than Gymnasium's, which "
                    "evaluates: --vectorization sync or async"
                )
    except BaseException:
        env.close()
        raise
    return env


def _shapes(seen: gym.Space, acted: gym.Space) -> tuple[Any, ...]:
    """What a policy is made for."""
    observations, sends = spaces.observations(seen), actions(acted)
    boxes = [leaf for leaf in spaces.leaves("action", acted) if isinstance(leaf, gym.spaces.Box)]
    bounds = [(*box.low.ravel().tolist(), *box.high.ravel().tolist()) for box in boxes]
    return observations.size, observations.dtype, sends.shape, sends.choices, bounds


def _make_one(env_id: str, options: dict[str, Any]) -> gym.Env:
    kwargs = dict(options)
    # Gymnasium's checker would tell twice what collect_episodes checks, and slow every step.
    frames = kwargs.pop("frame_stack", 1)
    env = gym.make(env_id, disable_env_checker=True, **kwargs)
    if frames > 1:
        env = gym.wrappers.FrameStackObservation(env, frames)
    # Before Gymnasium copies them for a vector, or starts processes.
    seen: Any = getattr(env, "observation_space", None)
    acted: Any = getattr(env, "action_space", None)
    spaces.observations(seen), actions(acted)
    return env


@contextlib.contextmanager
def open_env(config: TrainConfig, num_envs: int | None = None, **kwargs: Any) -> Iterator[Any]:
    """As make_env, but a single one where the run is on the device: only its spaces are wanted.

    Its processes end with the work on it, whatever becomes of them.
    """
    env = make_env(config, 1 if config.on_device else num_envs, **kwargs)
    try:
        yield env
    except BaseException:
        if processes := getattr(env, "processes", ()):
            for process in processes:
                process.kill()  # it may hang, or hold back what nobody will read
                process.join()
            env.closed = True
        raise
    finally:
        close_env(env)


def close_env(env: Any) -> None:
    """Close an environment that is done with, whatever it says to that."""
    with warnings.catch_warnings(), contextlib.suppress(Exception, KeyboardInterrupt):
        warnings.simplefilter("ignore")
        env.close()


def _make_in_process(make_one: Callable[[], gym.Env]) -> gym.Env:
    """Make an environment that leaves signals to the process that steps it, and ends with it."""
    if multiprocessing.parent_process() is not None:  # Gymnasium also makes one to look at it
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    return make_one()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def make_functional_env(config: TrainConfig) -> envs.Env:
    """The functional environment of a config.

    Raises:
      ConfigError: if there is none.
    """
    return envs.make(config.env_id, config.max_episode_steps)


_STEPS = 30


_SEED = 1


def why_not_reproducible(config: TrainConfig) -> str | None:
    """Why a config's environment may give other episodes for the same seed and actions, if so.

    It says so itself (`spec.nondeterministic`), or does so when an episode is run again, in the
    same environment and in another one. Short: what it does not find may still be there.
    """
    if config.on_device:
        return None  # a pure function of its key
    if config.collect == "steps":
        return "streams of steps begin anew when the run is resumed"
    try:
        env, other = make_env(config, num_envs=1), make_env(config, num_envs=1)
    except Exception:  # whatever it is, training will meet and tell it
        return None
    try:
        if env.spec is not None and env.spec.nondeterministic:
            return f"{config.env_id} says that it is not deterministic"
        actions, both = _actions(env), SerialEnvs([env, other])
        with both.step_timeout(config.step_timeout):
            first, *again = (_episode(both, slot, actions) for slot in (0, 1, 0))
        if not all(_same(first, each) for each in again):
            return f"{config.env_id} gives other episodes for the same reset seed and actions"
    except Exception:
        return None
    finally:
        for each in (env, other):
            close_env(each)
    return None


def _actions(env: Any) -> list[Any]:
    env.action_space.seed(_SEED)
    return [env.action_space.sample() for _ in range(_STEPS)]


def _episode(envs: SerialEnvs, slot: int, actions: list[Any]) -> list[Any]:
    encode = observations(envs.observation_space).encode
    seen = [np.array(encode(obs)) for obs in envs.reset({slot: _SEED})]
    for action in actions:
        [(obs, *rest, _)] = envs.step({slot: action}, [slot])
        seen += [np.array(encode(obs)), *rest]
        if rest[1] or rest[2]:
            break
    return seen


def _same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x, y, equal_nan=np.asarray(x).dtype.kind == "f")
        for x, y in zip(a, b, strict=True)
    )
