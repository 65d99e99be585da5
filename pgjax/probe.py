"""Whether an environment is a function of its reset seed and the actions, as all rests on."""

from typing import Any

import numpy as np

from pgjax.agents import close, make_env
from pgjax.config import TrainConfig
from pgjax.spaces import observations
from pgjax.stepping import InTurn

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
        actions, both = _actions(env), InTurn([env, other])
        with both.patience(config.step_timeout):
            first, *again = (_episode(both, slot, actions) for slot in (0, 1, 0))
        if not all(_same(first, each) for each in again):
            return f"{config.env_id} gives other episodes for the same reset seed and actions"
    except Exception:
        return None
    finally:
        for each in (env, other):
            close(each)
    return None


def _actions(env: Any) -> list[Any]:
    env.action_space.seed(_SEED)
    return [env.action_space.sample() for _ in range(_STEPS)]


def _episode(envs: InTurn, slot: int, actions: list[Any]) -> list[Any]:
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
