from .reinforce import reinforce

__all__ = [
    "reinforce",
]
