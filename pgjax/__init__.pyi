# What `import pgjax` offers; each is loaded when it is first asked for.
from . import (
    advantages,
    diagnostics,
    dispatch,
    distributions,
    envs,
    evaluate,
    export,
    gradcheck,
    losses,
    plot,
    policies,
    returns,
    runs,
    verify,
    video,
)
from .algorithms import reinforce
from .chunks import Sharding
from .config import TrainConfig
from .errors import (
    ConfigError,
    DivergedError,
    PgjaxError,
    RolloutError,
    RunError,
    RunWarning,
    SpaceError,
)
from .gym_rollout import collect_episodes
from .policies import (
    GaussianPolicy,
    LessonGaussianPolicy,
    NormalizedObs,
    SoftmaxPolicy,
    ValueNetwork,
)
from .rollout import collect_episodes_on_device, init_on_device, training_step
from .runs import load
from .training import resume, train, train_seeds
from .types import Algorithm, Info, Rollout, TrainState

__all__ = [
    "Algorithm",
    "ConfigError",
    "DivergedError",
    "GaussianPolicy",
    "Info",
    "LessonGaussianPolicy",
    "NormalizedObs",
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
    "diagnostics",
    "dispatch",
    "distributions",
    "envs",
    "evaluate",
    "export",
    "gradcheck",
    "init_on_device",
    "load",
    "losses",
    "plot",
    "policies",
    "reinforce",
    "resume",
    "returns",
    "runs",
    "train",
    "train_seeds",
    "training_step",
    "verify",
    "video",
]
