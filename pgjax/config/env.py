"""Make and close the environment of a config."""

import contextlib
import functools
import multiprocessing
import numbers
import os
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from pgjax import envs
from pgjax.config.settings import TrainConfig
from pgjax.config.wrappers import Wrap, wrappers
from pgjax.envs.adapters import gymnasium_space
from pgjax.errors import ConfigError, PgjaxError
from pgjax.gym.actions import actions
from pgjax.gym.names import suggestion
from pgjax.gym.results import CheckedEnv, failure_text
from pgjax.gym.spaces import leaves, observations


class OpenEnv(NamedTuple):
    """An open environment; spaces and time limit are those of a single environment."""

    env: Any  # gymnasium.Env, VectorEnv, or a functional environment (pgjax.envs.Env)
    observation_space: gym.Space
    action_space: gym.Space
    time_limit: int | None = None  # in steps


@contextlib.contextmanager
def open_env(config: TrainConfig, num_envs: int | None = None, **kwargs: Any) -> Iterator[OpenEnv]:
    """Open the environment of a config: a functional one for on-device runs.

    All its processes end when the block exits, also after an exception.

    Args:
      config: the settings.
      num_envs: replaces config.num_envs.
      **kwargs: passed to gymnasium.make.

    Raises:
      ConfigError, SpaceError: as for `make_env` and `make_functional_env`.
    """
    if config.on_device:
        functional = make_functional_env(config)
        spaces = functional.observation_space, functional.action_space
        seen, acted = map(gymnasium_space, spaces)
        yield OpenEnv(functional, seen, acted, functional.max_episode_steps)
        return
    env = make_env(config, num_envs, **kwargs)
    try:
        yield with_spaces(env)
    except BaseException:
        if processes := getattr(env, "processes", ()):
            for process in processes:
                process.kill()  # it may hang, or have unread results
                process.join()
            env.closed = True
        raise
    finally:
        close_env(env)


def with_spaces(env: gym.Env | VectorEnv) -> OpenEnv:
    """Return a Gymnasium environment with the spaces and time limit of a single environment."""
    limit = _time_limit(env)
    if isinstance(env, VectorEnv):
        return OpenEnv(env, env.single_observation_space, env.single_action_space, limit)
    return OpenEnv(env, env.observation_space, env.action_space, limit)


def _time_limit(env: gym.Env | VectorEnv) -> int | None:
    """Return after how many steps an environment truncates its episodes, or None."""
    name = "_max_episode_steps"  # an attribute of gymnasium.wrappers.TimeLimit
    if isinstance(env, SyncVectorEnv | AsyncVectorEnv):
        limit = env.get_attr(name)[0] if env.call("has_wrapper_attr", name)[0] else None
    elif isinstance(env, VectorEnv):  # envpool's
        limit = getattr(getattr(env.spec, "config", None), "max_episode_steps", None)
    else:
        limit = env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else None
    return int(limit) if isinstance(limit, numbers.Integral) else None


def close_env(env: Any) -> None:
    """Close an environment; ignore errors and warnings."""
    with warnings.catch_warnings(), contextlib.suppress(Exception, KeyboardInterrupt):
        warnings.simplefilter("ignore")
        env.close()


def make_functional_env(config: TrainConfig) -> envs.Env:
    """Make the functional environment of a config.

    Raises:
      ConfigError: if the environment has no functional form.
    """
    return envs.make(config.env_id, config.max_episode_steps)


def env_spec(config: TrainConfig) -> EnvSpec | None:
    """Return what Gymnasium needs to make the environment of a config; None if it is not known."""
    if isinstance(config.env, EnvSpec):
        return config.env
    if config.env is not None:
        return EnvSpec(re.sub(r"[^\w.-]", "", config.env_id), entry_point=config.env)
    return gym.registry.get(config.env_id.rpartition(":")[2])


def make_env(
    config: TrainConfig, num_envs: int | None = None, *, alone: bool = False, **kwargs: Any
) -> Any:
    """Make the Gymnasium environment of a config: a VectorEnv, or an Env if num_envs is 1.

    Args:
      config: the settings.
      num_envs: replaces config.num_envs.
      alone: put a single environment in a process, too, if config.vectorization is "async".
      **kwargs: passed to gymnasium.make.

    Raises:
      ConfigError: if Gymnasium cannot make it.
      SpaceError: for spaces that are not supported.
    """
    if config.env is None and not config.named:
        raise ConfigError(f"the environment {config.env_id} has no name: pass it as env=")
    if config.vectorization == "envpool" and num_envs is None and not kwargs:
        return _make_envpool(config)
    num_envs = num_envs or config.num_envs
    kwargs = {**config.env_kwargs, **kwargs}
    if config.max_episode_steps is not None:
        kwargs["max_episode_steps"] = config.max_episode_steps
    named: Any = config.env_id
    spec = env_spec(config)
    local = getattr(spec and spec.entry_point, "__module__", "") == "__main__"
    if local or config.env is not None:
        named = spec  # processes do not know what a script or a notebook registers
    make_one = functools.partial(_make_one, named, wrappers(config), kwargs)
    try:
        if num_envs == 1 and not alone:
            return make_one()
        if config.vectorization == "async":
            return _in_processes(make_one, num_envs)
        vector = SyncVectorEnv([make_one] * num_envs)
        if len({id(env.unwrapped) for env in vector.envs}) < num_envs:
            raise ConfigError(
                f"the environment {config.env_id} is made only once: return a new one in each call"
            )
        return vector
    except PgjaxError:
        raise
    except (Exception, SystemExit) as e:  # user code may raise anything
        from_gymnasium = isinstance(e, gym.error.Error)
        reason = " ".join(str(e).split()) if from_gymnasium else f"it {failure_text(e)}"
        if config.vectorization == "async" and isinstance(e, EOFError | ConnectionError):
            reason = (
                "its processes ended while they started; in a script, start training under "
                'if __name__ == "__main__":'
            )
        if isinstance(e, gym.error.UnregisteredEnv):
            reason = suggestion(config.env_id.rpartition(":")[2]) or reason
            reason += " If" if reason.endswith("?") else "; if"
            reason += " a package registers it, put its module in front: module:Id"
        given = f" with {config.env_kwargs}" if config.env_kwargs else ""
        raise ConfigError(f"cannot make the environment {config.env_id!r}{given}: {reason}") from e


def _make_one(env_id: str | EnvSpec, wrappers: Sequence[Wrap], kwargs: dict[str, Any]) -> gym.Env:
    # collect_episodes checks the same as Gymnasium's checker, which would slow down every step.
    with warnings.catch_warnings():  # filters that user code sets are its own
        env = gym.make(env_id, disable_env_checker=True, **kwargs)
        for wrap in wrappers:
            env = wrap(env)
    # Check the spaces before Gymnasium batches them or starts processes.
    seen: Any = getattr(env, "observation_space", None)
    acted: Any = getattr(env, "action_space", None)
    observations(seen), actions(acted)
    return env


def _in_processes(make_one: Callable[[], gym.Env], num_envs: int) -> AsyncVectorEnv:
    # Never fork: the child would inherit the locks that JAX's threads hold.
    methods = multiprocessing.get_all_start_methods()
    return AsyncVectorEnv(
        [functools.partial(_make_in_process, make_one)] * num_envs,
        context="forkserver" if "forkserver" in methods else "spawn",
        autoreset_mode=AutoresetMode.DISABLED,
    )


def _make_in_process(make_one: Callable[[], gym.Env]) -> gym.Env:
    """Make an environment in a process that ignores Ctrl-C and ends with its parent process."""
    if multiprocessing.parent_process() is not None:  # Gymnasium also makes one in the parent
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    env = make_one()
    seen = observations(env.observation_space)
    return CheckedEnv(env, seen.encode, np.zeros(seen.size, seen.dtype))


def end_with(parent: int) -> None:
    """Wait until the parent process has another id, which means it has ended; then exit."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _make_envpool(config: TrainConfig) -> Any:
    try:
        import envpool
    except ImportError:
        raise ConfigError('envpool is missing: pip install "pgjax[envpool]"') from None
    # envpool seeds its environments consecutively from this one; hashing separates the environments
    # of adjacent run seeds.
    seed = int(np.random.SeedSequence(config.seed).generate_state(1)[0]) % 2**30
    options: dict[str, Any] = {"seed": seed}
    if config.max_episode_steps is not None:
        options["max_episode_steps"] = config.max_episode_steps
    with contextlib.closing(make_env(config, 1)) as single:  # before: there may be only one
        expected = _signature(with_spaces(single))
    try:
        env = envpool.make(config.env_id, env_type="gymnasium", num_envs=config.num_envs, **options)
    except Exception as e:
        reason = " ".join(str(e).split())
        raise ConfigError(f"envpool cannot make {config.env_id!r}: {reason}") from e
    if _signature(with_spaces(env)) != expected:
        env.close()
        raise ConfigError(
            f"envpool's {config.env_id} has different spaces from Gymnasium's, which the "
            "evaluation uses: choose --vectorization sync or async"
        )
    return env


def _signature(env: OpenEnv) -> tuple[Any, ...]:
    """Everything about an environment that a policy depends on."""
    seen, sent = observations(env.observation_space), actions(env.action_space)
    boxes = [
        leaf for leaf in leaves("action", env.action_space) if isinstance(leaf, gym.spaces.Box)
    ]
    bounds = [(*box.low.ravel().tolist(), *box.high.ravel().tolist()) for box in boxes]
    return seen.size, seen.dtype, sent.shape, sent.choices, bounds
