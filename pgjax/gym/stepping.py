"""Step Gymnasium environments as numbered slots.

A slot is one environment: an `Env` is one slot, a `VectorEnv` is `num_envs` slots. Every fault
of an environment is raised as an `EnvError`.
"""

from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from pgjax.envs import base
from pgjax.errors import ConfigError, SpaceError, short_repr
from pgjax.gym.serial import SerialEnvs
from pgjax.gym.vectors import AutoresetVector, ManualResetVector


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


def adapt(env: gym.Env | VectorEnv) -> SerialEnvs | ManualResetVector:
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
) -> SerialEnvs | ManualResetVector | AutoresetVector:
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
