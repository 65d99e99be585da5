from .npg import npg
from .ppo import ppo
from .reinforce import reinforce

__all__ = [
    "npg",
    "ppo",
    "reinforce",
]
