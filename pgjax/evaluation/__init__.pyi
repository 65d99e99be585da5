from . import video

__all__ = [
    "video",
]
