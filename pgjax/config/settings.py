"""The settings of a training run: plain values, checked before anything starts."""

import dataclasses
import functools
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from pgjax.config.presets import PRESETS
from pgjax.errors import ConfigError, short_repr
from pgjax.numerics.sums import CHUNK_SIZE


class Between(typing.NamedTuple):
    """Range of a setting, as metadata of its annotation; both ends are allowed."""

    low: float
    high: float


_LARGEST_INT, _LARGEST = 2**31 - 1, 1e38  # limits of int32 and, roughly, float32
_MOST = 2**14  # limit for settings that allocate memory before training starts

_UNIONS = (typing.Union, types.UnionType)
_TYPE_NAMES = {
    int: "an integer",
    float: "a number",
    bool: "True or False",
    str: "a string",
    Path: "a pathlib.Path",
    types.NoneType: "None",
}

Count = Annotated[int, Between(1, _LARGEST_INT)]
Width = Annotated[int, Between(1, _MOST)]
UnitInterval = Annotated[float, Between(0, 1)]
NonNegative = Annotated[float, Between(0, _LARGEST)]
Positive = Annotated[float, Between(1e-30, _LARGEST)]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run.

    `TrainConfig(env_id)` has the general defaults, `TrainConfig.preset(env_id)` the tuned settings
    that `pgjax train` starts from. The annotations give the type and range of each setting.

    Raises:
      ConfigError: if a value has the wrong type or is out of range, or if settings exclude each
        other.

    Example:
      >>> config = TrainConfig("CartPole-v1", updates=50)
      >>> config.updates, config.learning_rate
      (50, 0.01)
    """

    env_id: str
    """Gymnasium id of the environment, such as CartPole-v1."""
    _: dataclasses.KW_ONLY
    seed: Annotated[int, Between(0, 2**32 - 1)] = 0
    """Random seed of the run."""
    updates: Count = 200
    """Number of updates; each is one optimiser step."""
    collect: Literal["episodes", "steps"] = "episodes"
    """Collect whole episodes, or a fixed number of steps (needs --critic). A resumed run of steps
    restarts its episodes, so it is not bit-exact."""
    episodes_per_update: Count = 16
    """Number of episodes per update, with --collect episodes."""
    num_steps: Annotated[int, Between(1, 2**20)] = 256
    """Number of steps of each environment per update, with --collect steps."""

    num_envs: Width = 8
    """Number of environments stepped in parallel. With whole episodes it changes only the speed."""
    vectorization: Literal["sync", "async", "envpool"] = "sync"
    """Step environments in this process (sync), in one process each (async, for slow environments),
    or in envpool's threads (with --collect steps)."""
    step_timeout: Annotated[float, Between(0.01, 1e9)] = 60.0
    """Seconds to wait for a step or reset before the run fails; ignored by envpool."""
    on_device: bool = False
    """Compile environment and learner into one program; needs an environment written in JAX."""
    num_shards: Width = 8
    """Number of groups of episodes whose gradients are summed separately, with --on-device; a
    multiple of the number of devices that share the episodes."""
    max_episode_steps: Count | None = None
    """Number of steps until an episode is truncated; by default the environment's own limit."""

    frame_stack: Annotated[int, Between(1, 64)] = 1
    """Number of recent observations stacked for the policy (Gymnasium's FrameStackObservation)."""
    hidden_sizes: tuple[Width, ...] = (16, 16)
    """Number of units in each hidden layer of the policy and of the critic."""
    activation: Literal["relu", "tanh"] = "relu"
    """Activation function of the hidden layers."""
    normalize_obs: bool = False
    """Normalise observations by their running mean and standard deviation."""
    squash: bool = False
    """Bound continuous actions by tanh instead of clipping."""

    learning_rate: NonNegative = 0.01
    """Adam's learning rate."""
    anneal_lr: bool = False
    """Decay the learning rate linearly to zero over the run."""
    max_grad_norm: Positive | None = None
    """Clip gradients to this global L2 norm."""
    gamma: UnitInterval = 0.99
    """Discount factor per step."""
    estimator: Literal["reward_to_go", "gae"] = "reward_to_go"
    """Advantage estimator; gae needs --critic."""
    gae_lambda: UnitInterval = 0.95
    """Lambda of gae. 1 is unbiased; smaller values reduce variance if the critic is good, but its
    errors bias them."""
    critic: bool = False
    """Learn a value function to use as a baseline and for bootstrapping."""
    reward_scale: Positive = 1.0
    """Factor that multiplies rewards, to bring the critic's values near 1."""
    normalize_rewards: bool = False
    """Divide rewards by the running RMS of past discounted returns, in addition to
    --reward-scale."""
    leave_one_out: bool = False
    """Subtract the mean return-to-go of the other episodes at the same step."""
    normalize_advantages: bool = True
    """Normalise the advantages of each batch to mean 0 and standard deviation 1."""
    time_discount: bool = False
    """Weight step t by gamma**t, as in the exact gradient of the discounted return."""
    entropy_coef: NonNegative = 0.0
    """Coefficient of the entropy bonus."""
    anneal_entropy: bool = False
    """Decay the entropy coefficient linearly to zero over the run."""
    value_coef: NonNegative = 0.5
    """Coefficient of the critic's loss."""
    mean_over: Literal["episodes", "steps"] = "episodes"
    """Average the loss over episodes or over steps."""
    chunk_size: Annotated[int, Between(1, CHUNK_SIZE)] | None = CHUNK_SIZE
    """Number of steps per chunk of the gradient sum. None computes the batch as a whole, and gives
    up bit-for-bit reproducibility across threads, padding and devices."""

    checkpoint_seconds: Annotated[float, Between(0, 1e9)] = 30.0
    """Seconds between checkpoints; a killed run loses the updates since the last one."""
    eval_episodes: Count = 100
    """Number of episodes of the evaluation after training."""
    run_dir: Path | None = None
    """Run folder to write; by default runs/ENV-seedN-TIME-PID."""

    def __post_init__(self) -> None:
        for name, annotation in _annotations(TrainConfig).items():
            _check(name, annotation, getattr(self, name))
        _check_together(self)

    @property
    def length_matters(self) -> bool:
        """Whether the number of updates changes what each update does."""
        return self.anneal_lr or self.anneal_entropy

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON values, without run_dir, which depends on the machine."""
        values = dataclasses.asdict(self)
        del values["run_dir"]
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TrainConfig":
        """Make a config from the values that `to_json` returns.

        Raises:
          ConfigError: for an unknown or missing name, or an invalid value.
        """
        if unknown := values.keys() - {field.name for field in dataclasses.fields(cls)}:
            names = ", ".join(sorted(unknown))
            raise ConfigError(
                f"config.json has settings that this version of pgjax does not know: {names}; use "
                "the version that manifest.json names"
            )
        try:
            return cls(**values | {"hidden_sizes": tuple(values["hidden_sizes"])})
        except (KeyError, TypeError) as e:
            raise ConfigError(f"config.json does not hold the settings of a run ({e})") from None

    @classmethod
    def preset(cls, env_id: str, **overrides: Any) -> "TrainConfig":
        """Return the tuned settings of an environment that has a preset, else the defaults.

        >>> TrainConfig.preset("Pendulum-v1", seed=3).gamma
        0.95
        """
        return cls(**{"env_id": env_id, **PRESETS.get(env_id, {}), **overrides})


def option(name: str) -> str:
    """Return the command-line option of a setting.

    >>> option("learning_rate")
    '--learning-rate'
    """
    return "--" + name.replace("_", "-")


@functools.cache
def _annotations(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _check(name: str, annotation: Any, value: Any) -> None:
    """Raise ConfigError unless a value has the type and range that an annotation gives."""
    if not _fits(annotation, value):
        hint = " (.item() converts it)" if isinstance(value, np.generic) else ""
        raise ConfigError(
            f"{option(name)} must be {_describe(annotation)}, got {short_repr(value)}{hint}"
        )


def _fits(annotation: Any, value: Any) -> bool:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in _UNIONS:
        return any(_fits(each, value) for each in arguments)
    if origin is Annotated:
        between: Between = arguments[1]
        return _fits(arguments[0], value) and between.low <= value <= between.high
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        return (
            isinstance(value, tuple) and bool(value) and all(_fits(arguments[0], x) for x in value)
        )
    if annotation in (int, float):
        accepted = int if annotation is int else int | float
        return isinstance(value, accepted) and not isinstance(value, bool)
    return isinstance(value, annotation)


def _describe(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in _UNIONS:
        return " or ".join(map(_describe, arguments))
    if origin is Annotated:
        low, high = arguments[1]
        return f"{_describe(arguments[0])} from {low} to {high:.15g}"
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is tuple:
        return f"a non-empty tuple, such as (16, 16), each value {_describe(arguments[0])}"
    return _TYPE_NAMES[annotation]


def _check_together(config: TrainConfig) -> None:
    """Raise ConfigError for settings that exclude each other."""
    if config.estimator == "gae" and not config.critic:
        raise ConfigError("--estimator gae bootstraps from a critic: add --critic")
    if config.vectorization == "envpool" and config.collect != "steps":
        raise ConfigError(
            "--vectorization envpool cannot collect whole episodes: add --collect steps"
        )
    if config.collect == "steps":
        _check_streams(config)
    if config.on_device and config.frame_stack > 1:
        raise ConfigError("--frame-stack is a Gymnasium wrapper: leave out --on-device")
    if config.leave_one_out and config.episodes_per_update < 2:
        raise ConfigError("--leave-one-out needs at least 2 episodes: raise --episodes-per-update")


def _check_streams(config: TrainConfig) -> None:
    """Raise ConfigError for settings that cannot be combined with --collect steps."""
    if not config.critic:
        raise ConfigError("--collect steps bootstraps from a critic: add --critic")
    for name in ("on_device", "leave_one_out", "time_discount"):
        if getattr(config, name):
            raise ConfigError(f"{option(name)} needs whole episodes: leave out --collect steps")
    if config.vectorization == "envpool" and config.frame_stack > 1:
        raise ConfigError("--frame-stack is a Gymnasium wrapper: leave out --vectorization envpool")
