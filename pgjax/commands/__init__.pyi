from . import progress

__all__ = [
    "progress",
]
