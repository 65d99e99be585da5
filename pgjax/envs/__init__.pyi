from . import tabular
from .adapters import as_gymnasium, from_brax, from_func_env, from_gymnax
from .base import Box, Discrete, Env, check
from .classic import make
from .wrappers import (
    bound_actions,
    flatten_observations,
    map_observations,
    scale_observations,
    time_limit,
)

__all__ = [
    "Box",
    "Discrete",
    "Env",
    "as_gymnasium",
    "bound_actions",
    "check",
    "flatten_observations",
    "from_brax",
    "from_func_env",
    "from_gymnax",
    "make",
    "map_observations",
    "scale_observations",
    "tabular",
    "time_limit",
]
