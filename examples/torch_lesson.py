"""The PyTorch lesson that pgjax reimplements, rewritten as a reference for tests and benchmarks.

    python examples/torch_lesson.py

Each update uses one episode, with normalised reward-to-go computed in O(T^2), and Adam with
learning rate 0.01. One flaw is corrected: an episode also ends when it is truncated.
"""

import argparse
from collections.abc import Callable

import gymnasium as gym
import torch
from torch.distributions import Categorical, Independent, Normal

Policy = Callable[[torch.Tensor], torch.distributions.Distribution]


def mlp(obs_dim: int, out_dim: int, hidden: int = 16) -> torch.nn.Sequential:
    """Linear, ReLU, Linear, ReLU, Linear: the network of both experiments."""
    return torch.nn.Sequential(
        torch.nn.Linear(obs_dim, hidden),
        torch.nn.ReLU(),
        torch.nn.Linear(hidden, hidden),
        torch.nn.ReLU(),
        torch.nn.Linear(hidden, out_dim),
    )


class Softmax(torch.nn.Module):
    """A softmax policy."""

    def __init__(self, obs_dim: int, num_actions: int) -> None:
        super().__init__()
        self.net = mlp(obs_dim, num_actions)

    def forward(self, obs: torch.Tensor) -> Categorical:
        return Categorical(logits=self.net(obs))


class LessonGaussian(torch.nn.Module):
    """The lesson's Gaussian policy: a final ReLU gives x, with mean = x.mean() and std = exp(x)."""

    def __init__(self, obs_dim: int, action_dim: int) -> None:
        super().__init__()
        self.net = mlp(obs_dim, action_dim)

    def forward(self, obs: torch.Tensor) -> Independent:
        x = torch.relu(self.net(obs))
        mean = x.mean(-1, keepdim=True).expand_as(x)
        return Independent(Normal(mean, torch.exp(x)), 1)


class Gaussian(torch.nn.Module):
    """A well-posed Gaussian policy: any mean, and a std that does not depend on the state."""

    def __init__(self, obs_dim: int, action_dim: int) -> None:
        super().__init__()
        self.net = mlp(obs_dim, action_dim)
        self.log_std = torch.nn.Parameter(torch.zeros(action_dim))

    def forward(self, obs: torch.Tensor) -> Independent:
        mean = self.net(obs)
        return Independent(Normal(mean, torch.exp(self.log_std).expand_as(mean)), 1)


def normalized_returns(
    rewards: list[float], gamma: float = 0.99, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Reward-to-go, each sum computed from scratch, normalised to mean 0 and std 1."""
    returns = []
    for t in range(len(rewards)):
        g = 0.0
        for k, reward in enumerate(rewards[t:]):
            g += gamma**k * reward
        returns.append(g)
    g_t = torch.tensor(returns, dtype=dtype)
    return (g_t - g_t.mean()) / (g_t.std() + 1e-9)


def reinforce_loss(log_probs: list[torch.Tensor], g_t: torch.Tensor) -> torch.Tensor:
    """The sum over an episode of -log_prob * return."""
    return torch.stack([-log_p * g for log_p, g in zip(log_probs, g_t, strict=True)]).sum()


def episode(env: gym.Env, policy: Policy, seed: int) -> tuple[list[torch.Tensor], list[float]]:
    """Run one episode and return its log-probabilities and rewards."""
    obs, _ = env.reset(seed=seed)
    log_probs, rewards = [], []
    done = False
    while not done:
        distribution = policy(torch.from_numpy(obs))
        action = distribution.sample()
        log_probs.append(distribution.log_prob(action))
        obs, reward, terminated, truncated, _ = env.step(action.numpy())
        rewards.append(float(reward))
        done = terminated or truncated
    return log_probs, rewards


def update(
    optimizer: torch.optim.Optimizer, log_probs: list[torch.Tensor], rewards: list[float]
) -> None:
    """Take one optimiser step on one episode."""
    loss = reinforce_loss(log_probs, normalized_returns(rewards))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def train(env_id: str = "CartPole-v1", episodes: int = 80, seed: int = 0) -> list[float]:
    """Run the lesson's first experiment and return the return of every episode."""
    torch.manual_seed(seed)
    env = gym.make(env_id)
    policy = Softmax(env.observation_space.shape[0], int(env.action_space.n))
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    returns = []
    for k in range(episodes):
        log_probs, rewards = episode(env, policy, seed=1000 * seed + k)
        update(optimizer, log_probs, rewards)
        returns.append(sum(rewards))
    env.close()
    return returns


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=80)
    for k, value in enumerate(train(episodes=parser.parse_args().episodes), start=1):
        print(f"Episode {k}: {value:.0f}")
