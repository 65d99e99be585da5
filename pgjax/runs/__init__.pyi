from . import digests, store
from .export import from_orbax, to_orbax
from .run import Run, load

__all__ = [
    "Run",
    "digests",
    "from_orbax",
    "load",
    "store",
    "to_orbax",
]
