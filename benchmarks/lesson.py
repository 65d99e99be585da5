"""The PyTorch lesson as it was taught, the yardstick of the benchmarks.

    python benchmarks/lesson.py

It acts and learns as the lesson does: three linear layers and a softmax, np.random.choice on the
probabilities, a list of log-probabilities, and returns computed in O(T^2). Only its flaw of running
on after `truncated` is corrected, because other episodes would not be comparable.
"""

import argparse

import gymnasium as gym
import numpy as np
import torch
from torch import nn


class Policy(nn.Module):
    def __init__(self, obs_dim: int, num_actions: int, hidden: int = 16) -> None:
        super().__init__()
        self.first = nn.Linear(obs_dim, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.third = nn.Linear(hidden, num_actions)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(obs))
        x = torch.relu(self.second(x))
        return torch.softmax(self.third(x), dim=-1)


def act(policy: Policy, obs: np.ndarray) -> tuple[int, torch.Tensor]:
    """Draw an action; return it and its log-probability."""
    probs = policy(torch.from_numpy(obs))
    action = np.random.choice(len(probs), p=probs.detach().numpy())
    return action, torch.log(probs[action])


def episode(env: gym.Env, policy: Policy) -> tuple[list[torch.Tensor], list[float]]:
    """Run an episode; return its log-probabilities and rewards."""
    obs, _ = env.reset()
    log_probs, rewards, done = [], [], False
    while not done:
        action, log_prob = act(policy, obs)
        obs, reward, terminated, truncated, _ = env.step(action)
        log_probs.append(log_prob)
        rewards.append(reward)
        done = terminated or truncated
    return log_probs, rewards


def update(
    optimizer: torch.optim.Optimizer,
    log_probs: list[torch.Tensor],
    rewards: list[float],
    gamma: float = 0.99,
) -> None:
    """Take one step along the gradient of an episode."""
    returns = []
    for t in range(len(rewards)):
        g = 0.0
        for k, reward in enumerate(rewards[t:]):
            g += gamma**k * reward
        returns.append(g)
    g_t = torch.tensor(returns)
    g_t = (g_t - g_t.mean()) / (g_t.std() + 1e-9)
    loss = torch.stack([-log_prob * g for log_prob, g in zip(log_probs, g_t, strict=True)]).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def make(seed: int) -> tuple[Policy, torch.optim.Optimizer]:
    """Seed the generators; return a new policy for CartPole and its optimiser."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    policy = Policy(4, 2)
    return policy, torch.optim.Adam(policy.parameters(), lr=0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    env = gym.make("CartPole-v1")
    policy, optimizer = make(args.seed)
    for k in range(1, args.episodes + 1):
        log_probs, rewards = episode(env, policy)
        update(optimizer, log_probs, rewards)
        print(f"Episode {k}: {sum(rewards):.0f}")


if __name__ == "__main__":
    main()
