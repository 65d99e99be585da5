from .ppo import ppo
from .reinforce import reinforce

__all__ = [
    "ppo",
    "reinforce",
]
