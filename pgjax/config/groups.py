"""The settings of a training run, in the groups in which `--help` shows them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pgjax.config.json_object import JsonObject
from pgjax.config.ranges import (
    Between,
    Count,
    NonEmpty,
    NonNegative,
    Positive,
    Reference,
    UnitInterval,
    Width,
)
from pgjax.numerics.sums import CHUNK_SIZE


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What to run, and how long."""

    algorithm: Literal["reinforce", "ppo", "npg"] = "reinforce"
    """REINFORCE, proximal policy optimisation, or the natural policy gradient; each has its own
    presets."""
    seed: Annotated[int, Between(0, 2**32 - 1)] = 0
    """Random seed of the run."""
    updates: Count = 200
    """Number of updates, each with newly collected experience."""
    checkpoint_seconds: Annotated[float, Between(0, 1e9)] = 30.0
    """Seconds between checkpoints; resuming a killed run repeats the work since the last one."""
    eval_episodes: Annotated[int, Between(0, 2**31 - 1)] = 100
    """Number of episodes of the evaluation at the end; 0 for none."""
    eval_every: Annotated[int, Between(0, 2**31 - 1)] = 0
    """Also evaluate after every so many updates, for RUN/evaluations.jsonl; 0 for never. It changes
    no result."""
    run_dir: Path | None = None
    """New run folder; by default runs/ENV-seedN-TIME-PID."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CollectSettings:
    """The environments, and how experience is collected."""

    env_kwargs: Mapping[str, Any] = JsonObject()
    """Arguments of the environment, as a JSON object: '{"is_slippery": false}'. They are passed to
    gymnasium.make."""
    wrappers: tuple[Reference, ...] = ()
    """Wrap each environment, in this order: names module:function of callables that take an
    environment and return one, such as gymnasium.wrappers:FlattenObservation."""
    collect: Literal["episodes", "steps"] = "episodes"
    """Collect whole episodes, or streams of steps that continue from one update to the next; a
    critic bootstraps where a stream is cut. Over Gymnasium, resuming restarts the episodes of
    streams, so such a run is not bit-exact."""
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
    """On the device: number of groups of episodes or environments whose gradients are summed
    separately. It must be divisible by the number of devices that share them. With --collect steps
    it is reduced to a divisor of --num-envs."""
    max_episode_steps: Count | None = None
    """Truncate episodes after this many steps instead of at the environment's limit. If neither
    exists, the evaluation cuts episodes off after 10,000 steps."""
    action_mask: bool = False
    """Rule out actions by the mask that the environment gives, in info["action_mask"] or under that
    key of its observations."""
    frame_stack: Annotated[int, Between(1, 64)] = 1
    """Number of stacked observations the policy sees (Gymnasium's wrapper)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Policy and critic."""

    hidden_sizes: Annotated[tuple[Width, ...], NonEmpty()] = (16, 16)
    """Units of each hidden layer of the policy and of the critic."""
    activation: Literal["relu", "tanh"] = "relu"
    """Activation function of the hidden layers."""
    orthogonal_init: bool = False
    """Initialise the hidden layers with orthogonal matrices, of gain sqrt 2."""
    init_std: Positive = 1.0
    """Standard deviation of continuous actions before training."""
    normalize_obs: bool = False
    """Normalise observations with a running mean and standard deviation, clipped to [-10, 10]."""
    squash: bool = False
    """Bound continuous actions by tanh instead of clipping."""
    critic: bool = False
    """Learn a value function, as a baseline and for bootstrapping."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReturnSettings:
    """Returns and advantages."""

    gamma: UnitInterval = 0.99
    """Discount factor per step."""
    estimator: Literal["reward_to_go", "gae"] = "reward_to_go"
    """Advantage estimator; gae needs --critic."""
    gae_lambda: UnitInterval = 0.95
    """Lambda of gae. At 1 the critic adds no bias (except by bootstrapping truncated episodes).
    Smaller values add bias from critic errors, and reduce the variance if the critic is good."""
    reward_scale: Positive = 1.0
    """Multiply rewards by this before computing returns, to bring the critic's values near 1."""
    normalize_rewards: bool = False
    """Divide rewards by the running RMS of past discounted returns, in addition to
    --reward-scale."""
    reward_clip: Positive | None = None
    """Clip rewards to this size, after dividing them with --normalize-rewards."""
    leave_one_out: bool = False
    """Subtract the mean return-to-go of the other episodes at the same step."""
    normalize_advantages: bool = True
    """Normalise the advantages of each batch to mean 0 and standard deviation 1."""
    time_discount: bool = False
    """Weight step t by gamma**t, as in the exact gradient of the discounted return."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Loss and optimiser."""

    learning_rate: NonNegative = 0.01
    """Adam's learning rate; with npg, the critic's."""
    anneal_lr: bool = False
    """Decay the learning rate linearly to zero over the run."""
    adam_eps: Positive = 1e-8
    """Adam's epsilon."""
    max_grad_norm: Positive | None = None
    """Clip gradients to this global L2 norm; with npg, those of the critic."""
    entropy_coef: NonNegative = 0.0
    """Coefficient of the entropy bonus."""
    anneal_entropy: bool = False
    """Decay the entropy coefficient linearly to zero over the run."""
    value_coef: NonNegative = 0.5
    """Coefficient of the critic's loss; npg fits the critic alone and does not use it."""
    mean_over: Literal["episodes", "steps"] = "episodes"
    """Average the loss of REINFORCE over episodes or over steps; ppo and npg average over
    steps."""
    chunk_size: Annotated[int, Between(1, CHUNK_SIZE)] | None = CHUNK_SIZE
    """Steps per gradient chunk. None processes the whole batch together, and gives up bit-for-bit
    reproducibility across threads, padding and devices."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochSettings:
    """With --algorithm ppo, and for the critic of npg."""

    num_epochs: Count = 10
    """Passes over each rollout."""
    minibatch_size: Count | None = 64
    """Steps per minibatch; None takes all steps of a rollout together."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPOSettings:
    """With --algorithm ppo only."""

    clip: Annotated[float, Between(0, 1, ends=False)] = 0.2
    """Range around 1 outside which the ratio of probabilities has no gradient."""
    anneal_clip: bool = False
    """Decay the clip range linearly to zero over the run."""
    value_clip: Positive | None = None
    """Range around the old value outside which the critic's loss has no gradient."""
    recompute_advantages: bool = False
    """Compute advantages anew for each epoch, with the critic as it is then."""
    target_kl: Positive | None = None
    """End an update when the approximate KL divergence exceeds 1.5 times this number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NPGSettings:
    """With --algorithm npg only."""

    max_kl: Positive = 0.01
    """Size of each step of the policy: its KL divergence, to second order."""
    damping: NonNegative = 0.1
    """Multiple of the identity that is added to the Fisher matrix."""
    cg_steps: Count = 10
    """Steps of the conjugate gradient method."""
    line_search: bool = False
    """Shorten steps until they improve the objective within --max-kl, as in TRPO."""


GROUPS = (
    RunSettings,
    CollectSettings,
    NetworkSettings,
    ReturnSettings,
    OptimizerSettings,
    EpochSettings,
    PPOSettings,
    NPGSettings,
)
ONLY_WITH: dict[type, tuple[str, ...]] = {
    EpochSettings: ("ppo", "npg"),
    PPOSettings: ("ppo",),
    NPGSettings: ("npg",),
}
