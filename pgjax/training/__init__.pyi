from . import engines, loop

__all__ = [
    "engines",
    "loop",
]
