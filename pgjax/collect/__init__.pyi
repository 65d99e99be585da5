from . import dispatch
from .device_loop import init_on_device, training_step
from .device_streams import DeviceStream, collect_steps_on_device, init_stream
from .episodes import collect_episodes
from .on_device import collect_episodes_on_device
from .steps import Stream, collect_steps

__all__ = [
    "DeviceStream",
    "Stream",
    "collect_episodes",
    "collect_episodes_on_device",
    "collect_steps",
    "collect_steps_on_device",
    "dispatch",
    "init_on_device",
    "init_stream",
    "training_step",
]
