"""Tuned settings for some environments: how they were found is in benchmarks/README.md."""

from typing import Any

# Tuned settings, over the defaults below; every value can be overridden from the command line.
PRESETS: dict[str, dict[str, Any]] = {
    # Leaving one out tells late steps, of which little can follow, from bad ones; and where all
    # episodes reach the time limit nothing is left that could drive the policy away from there.
    "CartPole-v1": dict(
        updates=200, learning_rate=0.02, anneal=True, gamma=0.995, leave_one_out=True
    ),
    "Acrobot-v1": dict(
        updates=1000,
        hidden_sizes=(64, 64),
        activation="tanh",
        normalize_obs=True,
        learning_rate=3e-3,
        anneal=True,
        estimator="gae",
        critic=True,
    ),
    # The entropy bonus is against settling for standing still, which costs nothing.
    "MountainCarContinuous-v0": dict(
        updates=200,
        hidden_sizes=(64, 64),
        activation="tanh",
        normalize_obs=True,
        learning_rate=5e-3,
        anneal=True,
        gamma=0.999,
        estimator="gae",
        gae_lambda=0.97,
        critic=True,
        scale_rewards=True,
        entropy_coef=0.03,
    ),
    "Pendulum-v1": dict(
        updates=3500,
        episodes_per_update=4,
        hidden_sizes=(64, 64),
        activation="tanh",
        learning_rate=1.5e-3,
        anneal=True,
        estimator="gae",
        critic=True,
        gamma=0.95,
        reward_scale=0.1,
    ),
    # All episodes of an update at once: its environment is quick, beside a call of the policy.
    "InvertedPendulum-v5": dict(
        updates=150,
        num_envs=16,
        hidden_sizes=(32, 32),
        activation="tanh",
        learning_rate=0.01,
        anneal=True,
        leave_one_out=True,
    ),
    "HalfCheetah-v5": dict(
        updates=750,
        episodes_per_update=4,
        hidden_sizes=(64, 64),
        activation="tanh",
        normalize_obs=True,
        learning_rate=3e-3,
        anneal=True,
        estimator="gae",
        critic=True,
        scale_rewards=True,
    ),
    # With a critic, or fewer episodes to be measured against, some seeds never learned to come to
    # rest before they are cut off. Observations are of the order of 1 already.
    "LunarLander-v3": dict(
        updates=1000,
        hidden_sizes=(64, 64),
        activation="tanh",
        learning_rate=5e-3,
        anneal=True,
        leave_one_out=True,
    ),
}
