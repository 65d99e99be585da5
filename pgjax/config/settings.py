"""What a run is made of: plain values, checked before anything starts."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from pgjax.config.presets import PRESETS
from pgjax.errors import ConfigError
from pgjax.numerics.sums import CHUNK_SIZE


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run.

    `TrainConfig(env_id)` has the general defaults; `TrainConfig.preset(env_id)` the tuned settings
    that `pgjax train` starts from.
    """

    env_id: str
    """Gymnasium's name of the environment, such as CartPole-v1."""
    _: dataclasses.KW_ONLY
    seed: int = 0
    """Root of all randomness of the run, 0 to 2**32 - 1."""
    updates: int = 200
    """How many in all; each is one optimiser step."""
    collect: Literal["episodes", "steps"] = "episodes"
    """Whole episodes, or streams of steps that go on from one update to the next, where a critic
    bootstraps; these are resumed with episodes begun anew, and so not to the bit."""
    episodes_per_update: int = 16
    """Whole episodes collected for each update."""
    num_steps: int = 256
    """With --collect steps: how many of each environment are collected for each update."""

    num_envs: int = 8
    """Environments side by side; changes the speed, never the result (but for --collect steps)."""
    vectorization: Literal["sync", "async", "envpool"] = "sync"
    """Environments in this process (sync), each in its own (async, for slow ones), or in the
    threads of envpool, for --collect steps."""
    step_timeout: float = 60.0
    """Seconds after which an environment's step that has not come back ends the run; not of
    envpool's."""
    on_device: bool = False
    """Compile environment and learner into one program; needs a functional environment."""
    num_shards: int = 8
    """On the device: groups of episodes whose gradients are summed alone; as many devices, or a
    divisor of them, can share them."""
    max_episode_steps: int | None = None
    """Truncate episodes after so many steps, in place of the environment's own limit."""

    frame_stack: int = 1
    """Show the policy so many of the last observations, by Gymnasium's wrapper."""
    hidden_sizes: tuple[int, ...] = (16, 16)
    """Units of each hidden layer, of the policy and of the critic."""
    activation: Literal["relu", "tanh"] = "relu"
    """After each hidden layer."""
    normalize_obs: bool = False
    """Show policy and critic observations less their running mean, over their running deviation."""
    squash: bool = False
    """Bound continuous actions by tanh rather than by clipping them."""

    learning_rate: float = 0.01
    """Adam's step size."""
    anneal: bool = False
    """Bring the step size linearly to zero over all updates."""
    max_grad_norm: float | None = None
    """Clip gradients to this global L2 norm."""
    gamma: float = 0.99
    """Discount per step, 0 to 1."""
    estimator: Literal["reward_to_go", "gae"] = "reward_to_go"
    """How advantages are estimated; gae needs the critic."""
    gae_lambda: float = 0.95
    """Lambda of gae, 0 to 1: 1 has no bias from the critic; less variance below, if it is good."""
    critic: bool = False
    """Learn a value function, as a baseline and to bootstrap from."""
    reward_scale: float = 1.0
    """Factor on rewards before returns are formed, to bring a critic's values near 1."""
    scale_rewards: bool = False
    """Divide rewards by the running root mean square of the returns, besides."""
    leave_one_out: bool = False
    """Subtract the mean return-to-go of the other episodes of the batch."""
    normalize: bool = True
    """Bring the advantages of a batch to mean 0 and standard deviation 1."""
    time_discount: bool = False
    """Weigh step t by gamma**t: the textbook gradient of the discounted objective."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus, at least 0."""
    anneal_entropy: bool = False
    """Bring the weight of the entropy bonus linearly to zero over all updates."""
    value_coef: float = 0.5
    """Weight of the critic's loss, at least 0."""
    mean_over: Literal["episodes", "steps"] = "episodes"
    """What the loss is divided by: the number of episodes, or of steps."""
    chunk_size: int | None = CHUNK_SIZE
    """Steps per gradient chunk, 1 to 128; None takes the batch whole: the same bits are then not
    promised."""

    checkpoint_seconds: float = 30.0
    """Seconds between checkpoints; what a killed run made after its last is made again."""
    eval_episodes: int = 100
    """Episodes of the evaluation at the end."""
    run_dir: Path | None = None
    """Where to write; by default runs/ENV-seedN-TIME."""

    def __post_init__(self) -> None:
        _check_types(self)
        _check_ranges(self)
        if self.estimator == "gae" and not self.critic:
            raise ConfigError("estimator gae bootstraps from a critic: add --critic")
        if self.vectorization == "envpool" and self.collect != "steps":
            raise ConfigError("envpool resets by itself, and so gives streams: add --collect steps")
        if self.collect == "steps":
            _check_streams(self)
        if self.on_device and self.frame_stack > 1:
            raise ConfigError("frames are stacked by Gymnasium's wrapper: not with --on-device")
        if self.leave_one_out and self.episodes_per_update < 2:
            raise ConfigError(
                "leave-one-out needs at least 2 episodes: raise --episodes-per-update"
            )

    @property
    def length_matters(self) -> bool:
        """Does what is learned depend on the number of updates to come?"""
        return self.anneal or self.anneal_entropy

    def to_json(self) -> dict[str, Any]:
        """Values that JSON can hold; without run_dir, which may differ from machine to machine."""
        values = dataclasses.asdict(self)
        del values["run_dir"]
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TrainConfig":
        """The inverse of to_json.

        Raises:
          ConfigError: for an unknown name, or a value out of range.
        """
        if unknown := values.keys() - {field.name for field in dataclasses.fields(cls)}:
            names = ", ".join(sorted(unknown))
            raise ConfigError(
                f"settings that this version of pgjax does not know: {names}; manifest.json names "
                "the version that does"
            )
        try:
            sizes = tuple(values.get("hidden_sizes", cls.hidden_sizes))
            return cls(**values | {"hidden_sizes": sizes})
        except TypeError as e:
            raise ConfigError(f"not the configuration of a run: {e}") from None

    @classmethod
    def preset(cls, env_id: str, **overrides: Any) -> "TrainConfig":
        """The tuned settings for an environment where there are any, else the defaults."""
        return cls(**{"env_id": env_id, **PRESETS.get(env_id, {}), **overrides})


# Settings that earlier runs did not have, and so are left out of digests where they hold defaults.
ADDED = (
    "collect",
    "num_steps",
    "frame_stack",
    "normalize_obs",
    "scale_rewards",
    "anneal_entropy",
)
_INTEGERS = (
    "seed",
    "updates",
    "episodes_per_update",
    "num_steps",
    "num_envs",
    "num_shards",
    "frame_stack",
    "eval_episodes",
)
_OPTIONAL_INTEGERS = ("max_episode_steps", "chunk_size")
_FLAGS = (
    "on_device",
    "normalize_obs",
    "squash",
    "anneal",
    "critic",
    "scale_rewards",
    "leave_one_out",
    "normalize",
    "time_discount",
    "anneal_entropy",
)
_CHOICES = {
    "collect": ("episodes", "steps"),
    "vectorization": ("sync", "async", "envpool"),
    "activation": ("relu", "tanh"),
    "estimator": ("reward_to_go", "gae"),
    "mean_over": ("episodes", "steps"),
}
_MOST = 2**14  # of what costs memory before anything is learned
_LARGEST_INT, _LARGEST = 2**31 - 1, 1e38  # that a step or a rate holds in 32 bits
# name: (lowest, highest), both allowed
_RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),
    "updates": (1, _LARGEST_INT),
    "episodes_per_update": (1, _LARGEST_INT),
    "num_steps": (1, 2**20),
    "num_envs": (1, _MOST),
    "num_shards": (1, _MOST),
    "max_episode_steps": (1, _LARGEST_INT),
    "frame_stack": (1, 64),
    "max_grad_norm": (1e-30, _LARGEST),
    "step_timeout": (0.01, 1e9),
    "checkpoint_seconds": (0, 1e9),
    "learning_rate": (0, _LARGEST),
    "gamma": (0, 1),
    "gae_lambda": (0, 1),
    "reward_scale": (1e-30, _LARGEST),
    "entropy_coef": (0, _LARGEST),
    "value_coef": (0, _LARGEST),
    "chunk_size": (1, CHUNK_SIZE),
    "eval_episodes": (1, _LARGEST_INT),
}


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _check_types(config: TrainConfig) -> None:
    if not isinstance(config.env_id, str):
        raise ConfigError(f"the environment is named by a text, got {config.env_id!r}")
    for name in _FLAGS:
        if not isinstance(getattr(config, name), bool):
            given = getattr(config, name)
            raise ConfigError(f"{_option(name)} must be True or False, got {given!r}")
    for name in _INTEGERS + _OPTIONAL_INTEGERS:
        value = getattr(config, name)
        if not (_is_integer(value) or (value is None and name in _OPTIONAL_INTEGERS)):
            raise ConfigError(f"{_option(name)} must be an integer, got {value!r}")
    if not config.hidden_sizes or not all(
        _is_integer(n) and 0 < n <= _MOST for n in config.hidden_sizes
    ):
        raise ConfigError(
            f"--hidden-sizes must be one or more integers from 1 to {_MOST}, got "
            f"{config.hidden_sizes!r}"
        )
    for name, choices in _CHOICES.items():
        if getattr(config, name) not in choices:
            given = getattr(config, name)
            raise ConfigError(f"{_option(name)} must be {' or '.join(choices)}, got {given!r}")


def _check_streams(config: TrainConfig) -> None:
    """What needs whole episodes, or the device, does not go with streams of steps."""
    if not config.critic:
        raise ConfigError("streams of steps bootstrap from a critic: add --critic")
    for name in ("on_device", "leave_one_out", "time_discount"):
        if getattr(config, name):
            raise ConfigError(f"{_option(name)} needs whole episodes: leave out --collect steps")
    if config.vectorization == "envpool" and config.frame_stack > 1:
        raise ConfigError("frames are stacked by Gymnasium's wrapper: not with envpool")


def _check_ranges(config: TrainConfig) -> None:
    for name, (lowest, highest) in _RANGES.items():
        value = getattr(config, name)
        if value is None and name in (*_OPTIONAL_INTEGERS, "max_grad_norm"):
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not lowest <= value <= highest:
            raise ConfigError(
                f"{_option(name)} must be a number from {lowest} to {highest:.15g}, got {value!r}"
            )
