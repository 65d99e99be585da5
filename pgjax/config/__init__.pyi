from .settings import TrainConfig

__all__ = [
    "TrainConfig",
]
