from . import actions, spaces, stepping

__all__ = [
    "actions",
    "spaces",
    "stepping",
]
