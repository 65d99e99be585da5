"""The settings of a training run: plain values, checked before anything starts."""

import dataclasses
import difflib
import inspect
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from pgjax.config.groups import (
    ONLY_WITH,
    CollectSettings,
    EpochSettings,
    NetworkSettings,
    NPGSettings,
    OptimizerSettings,
    PPOSettings,
    ReturnSettings,
    RunSettings,
)
from pgjax.config.presets import PRESETS, preset_values
from pgjax.config.ranges import annotations, describe, fits, plain
from pgjax.errors import ConfigError, RunWarning, short_repr
from pgjax.types import field_docs

EnvSource = Callable[..., gym.Env] | EnvSpec


@dataclasses.dataclass(frozen=True)
class TrainConfig(
    NPGSettings,  # the last base has the first fields
    PPOSettings,
    EpochSettings,
    OptimizerSettings,
    ReturnSettings,
    NetworkSettings,
    CollectSettings,
    RunSettings,
):
    """Settings of a training run.

    Use it to configure `pgjax.train`. `TrainConfig(env_id)` has the defaults below, and so has
    `TrainConfig(env=function)`;
    `TrainConfig.preset(env_id, algorithm=...)` has the settings that `pgjax train` starts from,
    which suit the algorithm and are tuned for some environments. Annotations give the type and
    range of each setting.

    Raises:
      ConfigError: if a value has the wrong type or is out of range, or if settings are
        incompatible.

    Example:
      >>> config = TrainConfig("CartPole-v1", updates=50)
      >>> config.updates, config.learning_rate
      (50, 0.01)
    """

    env_id: str = ""
    """Gymnasium id of the environment, such as CartPole-v1; <NAME> if `env` makes it."""
    env: EnvSource | None = dataclasses.field(default=None, compare=False, kw_only=True)
    """Only in Python: a function that returns a new environment, given `env_kwargs`, or a gymnasium
    EnvSpec. It is not in config.json, so pass it again to `pgjax.load` and the like."""

    def __post_init__(self) -> None:
        for name, annotation in annotations(TrainConfig).items():
            given = getattr(self, name)
            value = plain(annotation, given)
            if not fits(annotation, value):
                wanted = describe(annotation)
                raise ConfigError(f"{option(name)} must be {wanted}, got {short_repr(given)}")
            object.__setattr__(self, name, value)
        if self.env is not None:
            object.__setattr__(self, "env_id", f"<{self.env_id.strip('<>') or _name(self.env)}>")
        elif not self.env_id:
            raise ConfigError("an environment is needed: its id, such as CartPole-v1, or env")
        _check_together(self)

    @property
    def named(self) -> bool:
        """Whether an id names the environment, so that config.json says all about it."""
        return not self.env_id.startswith("<")

    @property
    def length_matters(self) -> bool:
        """Whether the number of updates changes what each update does."""
        return self.anneal_lr or self.anneal_entropy or self.anneal_clip

    @property
    def restarts_episodes(self) -> bool:
        """Whether a resumed run begins new episodes: Gymnasium's cannot be saved."""
        return self.collect == "steps" and not self.on_device

    @property
    def shards(self) -> int:
        """Number of groups of columns whose gradients are summed separately."""
        if not self.on_device:
            return 1
        if self.collect == "steps":  # all of the same size, so that none of them is empty
            return math.gcd(self.num_shards, self.num_envs)
        return self.num_shards

    def to_json(self) -> dict[str, Any]:
        """Settings as JSON values, without env and run_dir, which may differ between machines."""
        names = ["env_id", *(field.name for field in dataclasses.fields(self))]
        values = {name: getattr(self, name) for name in names if name not in _NOT_IN_JSON}
        return {**values, "env_kwargs": dict(self.env_kwargs)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TrainConfig":
        """Make a config from the values that `to_json` returns.

        Raises:
          ConfigError: for an unknown or missing name, or a value of the wrong type or out of range.
        """
        known = {field.name for field in dataclasses.fields(cls)} - {"env"}
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
    def preset(
        cls, env_id: str = "", *, algorithm: str = "reinforce", **overrides: Any
    ) -> "TrainConfig":
        """Return the settings that `pgjax train` starts from.

        Use it to train with tuned settings.

        Args:
          env_id: Gymnasium id of the environment; leave it out if `env` makes it.
          algorithm: "reinforce", "ppo" or "npg".
          **overrides: settings that replace those of the preset.

        Returns:
          The tuned settings of an environment that has a preset for the algorithm, else those of
          the algorithm.

        Raises:
          ConfigError: as for TrainConfig.

        >>> TrainConfig.preset("Pendulum-v1", seed=3).gamma
        0.95
        """
        if not isinstance(env_id, str):
            raise ConfigError(
                f"an environment is named by its id, such as CartPole-v1, not {short_repr(env_id)}"
            )
        warn_of_similar_presets(env_id, algorithm)
        preset = preset_values(env_id, algorithm)
        return cls(**{"env_id": env_id, "algorithm": algorithm, **preset, **overrides})


_NOT_IN_JSON = {"env", "run_dir"}


def _name(env: EnvSource) -> str:
    """Return a name for an environment that is not named by its id."""
    function = getattr(env, "func", env)  # of a functools.partial
    name = env.id if isinstance(env, EnvSpec) else getattr(function, "__name__", "")
    return re.sub(r"[^\w./-]", "", name) or "env"


def warn_of_similar_presets(env_id: str, algorithm: str) -> None:
    """Warn if an environment has no preset, but a similar or a versioned name has one."""
    presets = PRESETS.get(algorithm, {}) if isinstance(algorithm, str) else {}
    if env_id in presets:
        return
    close = [name for name in presets if name.rpartition("-v")[0] == env_id]
    if close := close or difflib.get_close_matches(env_id, presets, cutoff=0.85):
        warnings.warn(
            f"no preset for {env_id!r}, so it has the defaults of {algorithm}; presets with "
            f"similar names: {', '.join(close)}",
            RunWarning,
            stacklevel=3,
        )


def _describe_fields(cls: type) -> None:
    """Add what each field means to the docstring of a class, for `help`."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        docs |= field_docs(base)
    lines = [f"  {name}: {' '.join(text.split())}" for name, text in docs.items()]
    cls.__doc__ = "\n".join([inspect.cleandoc(cls.__doc__ or ""), "", "Attributes:", *lines])


_describe_fields(TrainConfig)


def option(name: str) -> str:
    """Return the command-line option of a setting.

    >>> option("learning_rate")
    '--learning-rate'
    """
    return "--" + name.replace("_", "-")


def _check_together(config: TrainConfig) -> None:
    """Raise ConfigError for settings that exclude each other."""
    if config.eval_every and not config.eval_episodes:
        raise ConfigError("--eval-every needs --eval-episodes of at least 1")
    if config.estimator == "gae" and not config.critic:
        raise ConfigError("--estimator gae bootstraps from a critic: add --critic")
    if config.vectorization == "envpool" and config.collect != "steps":
        raise ConfigError(
            "--vectorization envpool cannot collect whole episodes: add --collect steps"
        )
    if config.collect == "steps":
        _check_streams(config)
    _check_environment(config)
    if config.leave_one_out and config.episodes_per_update < 2:
        raise ConfigError("--leave-one-out needs at least 2 episodes: raise --episodes-per-update")
    for group, algorithms in ONLY_WITH.items():
        if config.algorithm in algorithms:
            continue
        for field in dataclasses.fields(group):
            if getattr(config, field.name) != field.default:
                raise ConfigError(
                    f"{option(field.name)} is a setting of {' and '.join(algorithms)}: add "
                    f"--algorithm {' or '.join(algorithms)}"
                )
    if config.value_clip is not None and not config.critic:
        raise ConfigError("--value-clip limits the loss of a critic: add --critic")


_GYMNASIUM_ONLY = {
    "env_kwargs": "holds arguments of gymnasium.make",
    "wrappers": "wraps Gymnasium environments",
    "env": "makes a Gymnasium environment",
    "action_mask": "reads the infos of Gymnasium environments",
    "frame_stack": "is a Gymnasium wrapper",
}


def _check_environment(config: TrainConfig) -> None:
    """Raise ConfigError for settings that the environments of a config cannot have."""
    if "max_episode_steps" in config.env_kwargs:
        raise ConfigError("--env-kwargs cannot set the time limit: use --max-episode-steps")
    if not config.on_device and config.vectorization != "envpool":
        return
    other = "--on-device" if config.on_device else "--vectorization envpool"
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name, what in _GYMNASIUM_ONLY.items():
        if getattr(config, name) != defaults[name]:
            raise ConfigError(f"{option(name)} {what}: leave out {other}")


def _check_streams(config: TrainConfig) -> None:
    """Raise ConfigError for settings that cannot be combined with --collect steps."""
    if not config.critic:
        raise ConfigError("--collect steps bootstraps from a critic: add --critic")
    for name in ("leave_one_out", "time_discount"):
        if getattr(config, name):
            raise ConfigError(
                f"{option(name)} needs whole episodes: leave out --collect steps, or, if a preset "
                f"sets it, add {option(f'no_{name}')}"
            )
    if config.vectorization == "envpool" and config.on_device:
        raise ConfigError("--vectorization envpool steps Gymnasium: leave out --on-device")
