from . import dispatch
from .episodes import collect_episodes
from .on_device import collect_episodes_on_device, init_on_device, training_step
from .steps import Stream, collect_steps

__all__ = [
    "Stream",
    "collect_episodes",
    "collect_episodes_on_device",
    "collect_steps",
    "dispatch",
    "init_on_device",
    "training_step",
]
