"""Compare training speed on InvertedPendulum-v5 with the loop of Gymnasium's tutorial.

    python benchmarks/tutorial.py         (needs gymnasium[mujoco] and torch)

The tutorial, "Training using REINFORCE for MuJoCo", is reimplemented here: one environment in
its wrapper, a PyTorch network of 16 and 32 tanh units with two heads, one action at a time, and an
AdamW step after every episode. It alternates with pgjax's preset, after compilation, in one
process; each trains from scratch for the same number of environment steps. Writes its table into
README.md.
"""

import statistics
import time

import gymnasium as gym
import jax
import numpy as np
import readme
import torch
from torch import nn

from pgjax.collect.episodes import collect_episodes
from pgjax.config.agent import make_agent
from pgjax.config.env import make_env, with_spaces
from pgjax.config.settings import TrainConfig

ENV_ID = "InvertedPendulum-v5"


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 32), nn.Tanh())
        self.mean, self.spread = nn.Linear(32, 1), nn.Linear(32, 1)

    def forward(self, obs):
        x = self.shared(obs)
        return self.mean(x), torch.log1p(torch.exp(self.spread(x)))


def tutorial(steps: int, seed: int) -> float:
    """Steps per second of the tutorial's loop over at least `steps` steps."""
    torch.manual_seed(seed)
    env, network = gym.wrappers.RecordEpisodeStatistics(gym.make(ENV_ID), 50), Network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    done, episode = 0, 0
    begun = time.perf_counter()
    while done < steps:
        obs, _ = env.reset(seed=seed + episode)
        log_probs, rewards, over = [], [], False
        while not over:
            mean, std = network(torch.tensor(np.array([obs]), dtype=torch.float32))
            normal = torch.distributions.Normal(mean[0] + 1e-6, std[0] + 1e-6)
            action = normal.sample()
            log_probs.append(normal.log_prob(action))
            obs, reward, terminated, truncated, _ = env.step(action.numpy())
            rewards.append(float(reward))
            over = terminated or truncated
        returns, g = [], 0.0
        for reward in reversed(rewards):
            g = reward + 0.99 * g
            returns.insert(0, g)
        loss = -(torch.stack(log_probs).mean() * torch.tensor(returns)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        done, episode = done + len(rewards), episode + 1
    return done / (time.perf_counter() - begun)


class Ours:
    """pgjax's Python loop with the environment's preset, compiled in advance."""

    def __init__(self) -> None:
        self.config = TrainConfig.preset(ENV_ID)
        self.env = make_env(self.config)
        self.agent = make_agent(self.config, with_spaces(self.env))
        self.update = self.agent.algorithm.update
        self._compile()

    def _compile(self) -> None:
        """Compile the update for every length that a batch may be padded to."""
        state, algorithm = self.agent.init(10**6), self.agent.algorithm
        rollout = collect_episodes(self.env, algorithm, state, self.config.episodes_per_update)
        while len(rollout.weight) <= 1024:
            state, _ = self.update(state, rollout)
            rollout = jax.tree.map(lambda x: np.concatenate([x, np.zeros_like(x)]), rollout)

    def train(self, steps: int, seed: int) -> float:
        """Steps per second over at least `steps` steps."""
        state, done = self.agent.init(seed), 0
        begun = time.perf_counter()
        while done < steps:
            algorithm, count = self.agent.algorithm, self.config.episodes_per_update
            state, info = self.update(state, collect_episodes(self.env, algorithm, state, count))
            done += info["env_steps"]
        return done / (time.perf_counter() - begun)


def main() -> None:
    parser = readme.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200_000, help="environment steps per turn")
    args = parser.parse_args()
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    ours, speeds = Ours(), []
    for seed in range(args.rounds):
        speeds.append((tutorial(args.steps, seed), ours.train(args.steps, seed)))
        print("{:,.0f} and {:,.0f} steps/s".format(*speeds[-1]), flush=True)
    ratios = [b / a for a, b in speeds]
    theirs, mine = (statistics.median(x) for x in zip(*speeds, strict=True))
    readme.put_measured(
        "tutorial",
        [
            "| the tutorial's loop, steps/s | pgjax, steps/s | median ratio | range |",
            "|---|---|---|---|",
            f"| {theirs:,.0f} | {mine:,.0f} | {statistics.median(ratios):.1f} "
            f"| {min(ratios):.1f} to {max(ratios):.1f} |",
        ],
    )


if __name__ == "__main__":
    main()
