"""The settings of a training run: plain values, checked before anything starts."""

import dataclasses
import difflib
import functools
import inspect
import types
import typing
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

from pgjax.config.presets import PRESETS
from pgjax.errors import ConfigError, RunWarning, short_repr
from pgjax.numerics.sums import CHUNK_SIZE
from pgjax.types import field_docs


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
    Path: "a path",
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

    Use it to configure `pgjax.train`. `TrainConfig(env_id)` has the general defaults;
    `TrainConfig.preset(env_id)` has the tuned settings that `pgjax train` starts from. Annotations
    give the type and range of each setting.

    Raises:
      ConfigError: if a value has the wrong type or is out of range, or if settings are
        incompatible.

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
    """Collect whole episodes, or streams of steps that continue from one update to the next; a
    critic bootstraps where a stream is cut. Resuming restarts the episodes of streams, so such a
    run is not bit-exact."""
    episodes_per_update: Count = 16
    """Number of episodes per update, with --collect episodes."""
    num_steps: Annotated[int, Between(1, 2**20)] = 256
    """Number of steps of each environment per update, with --collect steps."""

    num_envs: Width = 8
    """Number of environments stepped in parallel. It changes the speed, never the result (except
    with --collect steps)."""
    vectorization: Literal["sync", "async", "envpool"] = "sync"
    """Run environments in this process (sync), in one process each (async, for slow environments),
    or in envpool's threads (for --collect steps)."""
    step_timeout: Annotated[float, Between(0.01, 1e9)] = 60.0
    """Abort if a step or reset takes longer than this many seconds; not for envpool."""
    on_device: bool = False
    """Compile environment and learner into one program. Needs a functional environment."""
    num_shards: Width = 8
    """On the device: number of groups of episodes whose gradients are summed separately. It must be
    divisible by the number of devices that share the episodes."""
    max_episode_steps: Count | None = None
    """Truncate episodes after this many steps instead of at the environment's limit. If neither
    exists, the evaluation cuts episodes off after 10,000 steps."""

    frame_stack: Annotated[int, Between(1, 64)] = 1
    """Number of stacked observations the policy sees (Gymnasium's wrapper)."""
    hidden_sizes: tuple[Width, ...] = (16, 16)
    """Units of each hidden layer of the policy and of the critic."""
    activation: Literal["relu", "tanh"] = "relu"
    """Activation function of the hidden layers."""
    normalize_obs: bool = False
    """Normalise observations with a running mean and standard deviation."""
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
    """Lambda of gae. At 1 the critic adds no bias (except by bootstrapping truncated episodes).
    Smaller values add bias from critic errors, and reduce the variance if the critic is good."""
    critic: bool = False
    """Learn a value function, as a baseline and for bootstrapping."""
    reward_scale: Positive = 1.0
    """Multiply rewards by this before computing returns, to bring the critic's values near 1."""
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
    """Steps per gradient chunk. None processes the whole batch together, and gives up bit-for-bit
    reproducibility across threads, padding and devices."""

    checkpoint_seconds: Annotated[float, Between(0, 1e9)] = 30.0
    """Seconds between checkpoints; resuming a killed run repeats the work since the last one."""
    eval_episodes: Count = 100
    """Number of episodes of the evaluation at the end."""
    run_dir: Path | None = None
    """New run folder; by default runs/ENV-seedN-TIME-PID."""

    def __post_init__(self) -> None:
        for name, annotation in _annotations(TrainConfig).items():
            given = getattr(self, name)
            value = _plain(annotation, given)
            if not _fits(annotation, value):
                wanted = _describe(annotation)
                raise ConfigError(f"{option(name)} must be {wanted}, got {short_repr(given)}")
            object.__setattr__(self, name, value)
        _check_together(self)

    @property
    def length_matters(self) -> bool:
        """Whether the number of updates changes what each update does."""
        return self.anneal_lr or self.anneal_entropy

    def to_json(self) -> dict[str, Any]:
        """Settings as JSON values, without run_dir, which may differ between machines."""
        values = dataclasses.asdict(self)
        del values["run_dir"]
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TrainConfig":
        """Make a config from the values that `to_json` returns.

        Raises:
          ConfigError: for an unknown or missing name, or a value of the wrong type or out of range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := values.keys() - known:
            names = ", ".join(sorted(unknown))
            raise ConfigError(
                f"config.json has settings that this version of pgjax does not know: {names}; use "
                "the version that manifest.json names"
            )
        if missing := known - values.keys() - {"run_dir"}:
            names = ", ".join(sorted(missing))
            raise ConfigError(
                f"settings that this version of pgjax needs are missing: {names}; manifest.json "
                "names the version that wrote the others"
            )
        return cls(**values)

    @classmethod
    def preset(cls, env_id: str, **overrides: Any) -> "TrainConfig":
        """Return the settings that `pgjax train` starts from.

        Use it to train with tuned settings.

        Args:
          env_id: Gymnasium id of the environment.
          **overrides: settings that replace those of the preset.

        Returns:
          The tuned settings of an environment that has a preset, else the defaults.

        Raises:
          ConfigError: as for TrainConfig.

        >>> TrainConfig.preset("Pendulum-v1", seed=3).gamma
        0.95
        """
        if not isinstance(env_id, str):
            raise ConfigError(
                f"an environment is named by its id, such as CartPole-v1, not {short_repr(env_id)}"
            )
        warn_of_similar_presets(env_id)
        return cls(**{"env_id": env_id, **PRESETS.get(env_id, {}), **overrides})


def warn_of_similar_presets(env_id: str) -> None:
    """Warn if an environment has no preset, but a similar or a versioned name has one."""
    if env_id in PRESETS:
        return
    close = [name for name in PRESETS if name.rpartition("-v")[0] == env_id]
    if close := close or difflib.get_close_matches(env_id, PRESETS, cutoff=0.85):
        warnings.warn(
            f"no preset for {env_id!r}, so it has the defaults; presets with similar names: "
            f"{', '.join(close)}",
            RunWarning,
            stacklevel=3,
        )


def _describe_fields(cls: type) -> None:
    """Add what each field means to the docstring of a class, for `help`."""
    lines = [f"  {name}: {' '.join(text.split())}" for name, text in field_docs(cls).items()]
    cls.__doc__ = "\n".join([inspect.cleandoc(cls.__doc__ or ""), "", "Attributes:", *lines])


_describe_fields(TrainConfig)


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


def _plain(annotation: Any, value: Any) -> Any:
    """Return a value as plain Python: arrays, lists and NumPy's numbers are what users may write.

    A string becomes a path where the annotation allows one.
    """
    if hasattr(value, "dtype") and hasattr(value, "tolist"):  # of NumPy or JAX
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(_plain(None, x) for x in value)
    if isinstance(value, str) and Path in typing.get_args(annotation):
        return Path(value)
    return value


def _fits(annotation: Any, value: Any) -> bool:
    """Whether a value has the type and range that an annotation gives."""
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
        return f"a tuple of one or more values, each {_describe(arguments[0])}"
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
            raise ConfigError(
                f"{option(name)} needs whole episodes: leave out --collect steps, or, if a preset "
                f"sets it, add {option(f'no_{name}')}"
            )
    if config.vectorization == "envpool" and config.frame_stack > 1:
        raise ConfigError("--frame-stack is a Gymnasium wrapper: leave out --vectorization envpool")
