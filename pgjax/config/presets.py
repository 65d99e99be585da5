"""Tuned settings of some environments; benchmarks/README.md describes how they were found."""

from typing import Any

# Each preset overrides the defaults of TrainConfig, and the command line overrides the preset.
PRESETS: dict[str, dict[str, Any]] = {
    # leave_one_out compares returns at the same time step: late steps have small returns, however
    # good they are. Once all episodes reach the time limit, advantages are zero, so the policy does
    # not drift away.
    "CartPole-v1": dict(
        updates=200, learning_rate=0.02, anneal_lr=True, gamma=0.995, leave_one_out=True
    ),
    "Acrobot-v1": dict(
        updates=1000,
        hidden_sizes=(64, 64),
        activation="tanh",
        normalize_obs=True,
        learning_rate=3e-3,
        anneal_lr=True,
        estimator="gae",
        critic=True,
    ),
    # The entropy bonus keeps the policy from converging to standing still, which costs nothing.
    "MountainCarContinuous-v0": dict(
        updates=200,
        hidden_sizes=(64, 64),
        activation="tanh",
        normalize_obs=True,
        learning_rate=5e-3,
        anneal_lr=True,
        gamma=0.999,
        estimator="gae",
        gae_lambda=0.97,
        critic=True,
        normalize_rewards=True,
        entropy_coef=0.03,
    ),
    "Pendulum-v1": dict(
        updates=3500,
        episodes_per_update=4,
        hidden_sizes=(64, 64),
        activation="tanh",
        learning_rate=1.5e-3,
        anneal_lr=True,
        estimator="gae",
        critic=True,
        gamma=0.95,
        reward_scale=0.1,
    ),
    # One environment per episode of an update, since a step of this environment is fast compared to
    # a call of the policy.
    "InvertedPendulum-v5": dict(
        updates=150,
        num_envs=16,
        hidden_sizes=(32, 32),
        activation="tanh",
        learning_rate=0.01,
        anneal_lr=True,
        leave_one_out=True,
    ),
    "HalfCheetah-v5": dict(
        updates=750,
        episodes_per_update=4,
        hidden_sizes=(64, 64),
        activation="tanh",
        normalize_obs=True,
        learning_rate=3e-3,
        anneal_lr=True,
        estimator="gae",
        critic=True,
        normalize_rewards=True,
    ),
    # With a critic, or with fewer episodes per update, some seeds never learned to come to rest
    # before the time limit. Observations are not normalised, since they are already of order 1.
    "LunarLander-v3": dict(
        updates=1000,
        hidden_sizes=(64, 64),
        activation="tanh",
        learning_rate=5e-3,
        anneal_lr=True,
        leave_one_out=True,
    ),
}
