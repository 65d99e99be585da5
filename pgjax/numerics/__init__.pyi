from . import running_moments, sums, xla

__all__ = [
    "running_moments",
    "sums",
    "xla",
]
