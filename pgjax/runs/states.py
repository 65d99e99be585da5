"""The state of a run: a TrainState, and the stream of steps of a run on the device."""

from typing import Any, NamedTuple

from pgjax.collect.device_streams import init_stream
from pgjax.config.settings import TrainConfig
from pgjax.types import TrainState


class StreamState(NamedTuple):
    """A TrainState and its stream; checkpoints hold both, so that episodes continue."""

    params: Any
    opt_state: Any
    key: Any
    step: Any
    stream: Any  # DeviceStream


RunState = TrainState | StreamState


def with_stream(config: TrainConfig, env: Any, state: TrainState) -> RunState:
    """Return what a run begins with: `state`, and a new stream if the run is on streams.

    Args:
      config: the settings.
      env: the environment of the config.
      state: the initial TrainState.
    """
    if not (config.on_device and config.collect == "steps"):
        return state
    return StreamState(*state, init_stream(env, state.key, config.num_envs))


def train_state(state: RunState) -> TrainState:
    """Return the TrainState in the state of a run."""
    return TrainState(state.params, state.opt_state, state.key, state.step)
