"""Stable-Baselines3's A2C or PPO on CartPole-v1 with RL Zoo's settings; modes as in rejax_ppo.py.

`halfcheetah` times PPO on HalfCheetah-v5: 8 environments x 256 steps, minibatches of 64, 10 epochs.

Prints one line of JSON.
"""

import argparse
import json
import time

import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy


def make(name: str, envs: int, seed: int) -> A2C | PPO:
    env = make_vec_env("CartPole-v1", n_envs=envs, seed=seed)
    if name == "a2c":
        return A2C("MlpPolicy", env, seed=seed, device="cpu")
    return PPO(
        "MlpPolicy", env, n_steps=32, batch_size=256, gae_lambda=0.8, gamma=0.98, n_epochs=20,
        learning_rate=1e-3, clip_range=0.2, seed=seed, device="cpu",
    )  # fmt: skip


def train_halfcheetah(seconds: float, seed: int) -> float:
    """Steps per second of training."""
    env = make_vec_env("HalfCheetah-v5", n_envs=8, seed=seed)
    model = PPO("MlpPolicy", env, n_steps=256, batch_size=64, n_epochs=10, seed=seed, device="cpu")
    model.learn(2_048)
    trained, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        model.learn(4_096, reset_num_timesteps=False)
        trained += 4_096
    return trained / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=["threshold", "throughput", "halfcheetah"])
    parser.add_argument("--algorithm", choices=["a2c", "ppo"], default="a2c")
    parser.add_argument("--envs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)  # faster for networks this small
    if args.mode == "halfcheetah":
        print(json.dumps({"steps_per_second": train_halfcheetah(args.seconds, args.seed)}))
        return
    model = make(args.algorithm, args.envs, args.seed)
    if args.mode == "throughput":
        model.learn(2_000)
        trained, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < args.seconds:
            model.learn(4_000, reset_num_timesteps=False)
            trained += 4_000
        print(json.dumps({"steps_per_second": trained / (time.perf_counter() - begun)}))
        return
    tests, score, trained = make_vec_env("CartPole-v1", n_envs=10, seed=args.seed + 1000), 0.0, 0
    while score < 475 and trained < 500_000:
        model.learn(10_000, reset_num_timesteps=False)
        trained += 10_000
        score, _ = evaluate_policy(model, tests, n_eval_episodes=20)
    print(json.dumps({"evaluation": float(score), "steps": trained}))


if __name__ == "__main__":
    main()
