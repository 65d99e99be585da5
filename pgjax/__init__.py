"""Policy gradients in JAX for Gymnasium: pure functions, explicit keys, the same bits."""

import importlib
from typing import Any

from pgjax import advantages, distributions, envs, losses, returns
from pgjax.algorithms import reinforce
from pgjax.chunks import Sharding
from pgjax.config import TrainConfig
from pgjax.errors import (
    ConfigError,
    DivergedError,
    PgjaxError,
    RolloutError,
    RunError,
    RunWarning,
    SpaceError,
)
from pgjax.gym_rollout import collect_episodes
from pgjax.policies import GaussianPolicy, LessonGaussianPolicy, SoftmaxPolicy, ValueNetwork
from pgjax.rollout import collect_episodes_on_device, init_on_device, training_step
from pgjax.runs import load
from pgjax.train import resume, train, train_seeds
from pgjax.types import Algorithm, Info, Rollout, TrainState

__all__ = [
    "Algorithm",
    "ConfigError",
    "DivergedError",
    "GaussianPolicy",
    "Info",
    "LessonGaussianPolicy",
    "PgjaxError",
    "Rollout",
    "RolloutError",
    "RunError",
    "RunWarning",
    "Sharding",
    "SoftmaxPolicy",
    "SpaceError",
    "TrainConfig",
    "TrainState",
    "ValueNetwork",
    "advantages",
    "collect_episodes",
    "collect_episodes_on_device",
    "distributions",
    "envs",
    "init_on_device",
    "load",
    "losses",
    "reinforce",
    "resume",
    "returns",
    "train",
    "train_seeds",
    "training_step",
]


def __getattr__(name: str) -> Any:
    # What people look at is loaded when it is first asked for.
    if name in ("evaluate", "export", "plot", "verify", "video"):
        return importlib.import_module(f"pgjax.{name}")
    raise AttributeError(f"module 'pgjax' has no attribute {name!r}")
