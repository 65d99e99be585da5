"""Policy gradients in JAX for Gymnasium: pure functions, explicit keys, the same bits."""

from pgjax import advantages, distributions, losses, returns
from pgjax.algorithms import reinforce
from pgjax.config import TrainConfig
from pgjax.errors import ConfigError, PgjaxError, RolloutError, RunError, SpaceError
from pgjax.gym_rollout import collect_episodes
from pgjax.policies import GaussianPolicy, LessonGaussianPolicy, SoftmaxPolicy, ValueNetwork
from pgjax.train import train
from pgjax.types import Algorithm, Info, Rollout, TrainState

__all__ = [
    "Algorithm",
    "ConfigError",
    "GaussianPolicy",
    "Info",
    "LessonGaussianPolicy",
    "PgjaxError",
    "Rollout",
    "RolloutError",
    "RunError",
    "SoftmaxPolicy",
    "SpaceError",
    "TrainConfig",
    "TrainState",
    "ValueNetwork",
    "advantages",
    "collect_episodes",
    "distributions",
    "losses",
    "reinforce",
    "returns",
    "train",
]
