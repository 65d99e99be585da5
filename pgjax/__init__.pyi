# Public names; each is imported on first use.
from . import (
    advantages,
    diagnostics,
    distributions,
    envs,
    gradcheck,
    losses,
    policies,
    returns,
    runs,
)
from .algorithms.gradients import scale_by_updates
from .algorithms.npg import npg
from .algorithms.ppo import ppo
from .algorithms.reinforce import reinforce
from .collect.device_loop import init_on_device, training_step
from .collect.device_streams import DeviceStream, collect_steps_on_device, init_stream
from .collect.episodes import collect_episodes
from .collect.on_device import collect_episodes_on_device
from .collect.steps import Stream, collect_steps
from .commands.run import Run, load
from .commands.train import resume, train, train_seeds
from .commands.verify import verify
from .config.settings import TrainConfig
from .errors import (
    ConfigError,
    DivergedError,
    PgjaxError,
    RolloutError,
    RunError,
    RunWarning,
    SpaceError,
)
from .evaluation import video
from .evaluation.compare import compare
from .evaluation.evaluate import evaluate
from .evaluation.plot import plot
from .evaluation.report import report
from .evaluation.video import render
from .gym import actions
from .gym.acting import act_in
from .gym.masks import ActionMask
from .nnx import from_nnx
from .numerics.sums import Sharding
from .numerics.xla import enable_compile_cache
from .policies import (
    BernoulliPolicy,
    GaussianPolicy,
    JointPolicy,
    LessonGaussianPolicy,
    MaskedPolicy,
    MultiSoftmaxPolicy,
    NormalizedObs,
    SoftmaxPolicy,
    ValueNetwork,
)
from .runs.export import export
from .torsos import ConvTorso, MixedTorso
from .training.loop import Observer, RunInfo
from .types import Algorithm, Info, Module, Rollout, TrainState

__version__: str

__all__ = [
    "ActionMask",
    "Algorithm",
    "BernoulliPolicy",
    "ConfigError",
    "ConvTorso",
    "DeviceStream",
    "DivergedError",
    "GaussianPolicy",
    "Info",
    "JointPolicy",
    "LessonGaussianPolicy",
    "MaskedPolicy",
    "MixedTorso",
    "Module",
    "MultiSoftmaxPolicy",
    "NormalizedObs",
    "Observer",
    "PgjaxError",
    "Rollout",
    "RolloutError",
    "Run",
    "RunError",
    "RunInfo",
    "RunWarning",
    "Sharding",
    "SoftmaxPolicy",
    "SpaceError",
    "Stream",
    "TrainConfig",
    "TrainState",
    "ValueNetwork",
    "act_in",
    "actions",
    "advantages",
    "collect_episodes",
    "collect_episodes_on_device",
    "collect_steps",
    "collect_steps_on_device",
    "compare",
    "diagnostics",
    "distributions",
    "enable_compile_cache",
    "envs",
    "evaluate",
    "export",
    "from_nnx",
    "gradcheck",
    "init_on_device",
    "init_stream",
    "load",
    "losses",
    "npg",
    "plot",
    "policies",
    "ppo",
    "reinforce",
    "render",
    "report",
    "resume",
    "returns",
    "runs",
    "scale_by_updates",
    "train",
    "train_seeds",
    "training_step",
    "verify",
    "video",
]
