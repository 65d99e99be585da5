"""Settings that `pgjax train` starts from, for each algorithm and environment.

benchmarks/README.md describes how they were found.
"""

from typing import Any

_STREAMS_WITH_CRITIC: dict[str, Any] = dict(
    updates=488,
    collect="steps",
    hidden_sizes=(64, 64),
    activation="tanh",
    orthogonal_init=True,
    normalize_obs=True,
    critic=True,
    estimator="gae",
    normalize_rewards=True,
    reward_clip=10.0,
)
# Settings of an algorithm replace the defaults of TrainConfig, those of an environment replace
# both, and options on the command line replace all.
ALGORITHMS: dict[str, dict[str, Any]] = {
    "reinforce": {},
    # As in most implementations: 2,048 steps per update, and a million steps in all.
    "ppo": dict(
        _STREAMS_WITH_CRITIC,
        learning_rate=3e-4,
        anneal_lr=True,
        adam_eps=1e-5,
        max_grad_norm=0.5,
        recompute_advantages=True,
    ),
    "npg": dict(_STREAMS_WITH_CRITIC, learning_rate=1e-3),
}

_REINFORCE: dict[str, dict[str, Any]] = {
    # leave_one_out compares each step with the same time step of other episodes, so late steps,
    # which have little return left, do not look bad. Once every episode reaches the time limit, the
    # advantages are 0 and the policy stays there.
    "CartPole-v1": dict(
        updates=60, learning_rate=0.02, anneal_lr=True, gamma=0.995, leave_one_out=True
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
    # As many environments as episodes per update: a step of this environment is quick compared with
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
    # With a critic or fewer episodes, some seeds never learned to stop before the time limit.
    # Observations need no normalisation: they are of order 1.
    "LunarLander-v3": dict(
        updates=1000,
        hidden_sizes=(64, 64),
        activation="tanh",
        learning_rate=5e-3,
        anneal_lr=True,
        leave_one_out=True,
    ),
}

# What the tasks of MuJoCo share. With a standard deviation of 1, a third of the first actions
# exceed bounds of -1 and 1.
_MUJOCO: dict[str, Any] = dict(init_std=0.6)
_PPO: dict[str, dict[str, Any]] = {
    # Close to the settings of Stable-Baselines3's PPO for this task (RL Zoo), with a larger rate.
    "CartPole-v1": dict(
        updates=390,
        num_steps=32,
        num_shards=2,  # with more, an update has more and smaller chunks
        normalize_obs=False,
        normalize_rewards=False,
        reward_clip=None,
        gamma=0.98,
        gae_lambda=0.8,
        learning_rate=2e-3,
        minibatch_size=256,
        num_epochs=20,
        recompute_advantages=False,
        anneal_clip=True,
    ),
    "Acrobot-v1": dict(updates=122, num_envs=16),
    "MountainCarContinuous-v0": dict(updates=48, gamma=0.999, learning_rate=1e-3),
    "Pendulum-v1": dict(updates=195, num_envs=4, gamma=0.95, learning_rate=5e-4),
    # Close to RL Zoo's settings, with normalised observations and rewards.
    "LunarLander-v3": dict(
        updates=61,
        num_envs=16,
        num_steps=1024,
        gamma=0.999,
        gae_lambda=0.98,
        entropy_coef=0.01,
        num_epochs=4,
    ),
    "HalfCheetah-v5": _MUJOCO,
    "Hopper-v5": _MUJOCO,
    "Walker2d-v5": _MUJOCO,
    # RL Zoo's discount and lambda, and less noise at first.
    "Ant-v5": dict(gamma=0.98, gae_lambda=0.8, init_std=0.4),
    "InvertedPendulum-v5": _MUJOCO,
    "Reacher-v5": _MUJOCO,
    # Close to RL Zoo's settings: what a swimmer does now pays off much later.
    "Swimmer-v5": dict(
        _MUJOCO,
        updates=244,
        num_envs=4,
        num_steps=1024,
        gamma=0.9999,
        gae_lambda=0.98,
        learning_rate=6e-4,
        minibatch_size=256,
    ),
}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "reinforce": _REINFORCE,
    "ppo": _PPO,
    "npg": {"HalfCheetah-v5": {}, "Walker2d-v5": {}},
}


def preset_values(env_id: str, algorithm: str) -> dict[str, Any]:
    """Return the settings that `pgjax train` starts from, where they are not the defaults.

    Empty for an algorithm that does not exist.
    """
    if algorithm not in list(PRESETS):  # it may be anything, a list too
        return {}
    return {"algorithm": algorithm, **ALGORITHMS[algorithm], **PRESETS[algorithm].get(env_id, {})}
