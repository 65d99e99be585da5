from . import digests, store
from .checkpoints import with_key_data, with_typed_key
from .export import from_orbax, to_orbax
from .run import Run, load

__all__ = [
    "Run",
    "digests",
    "from_orbax",
    "load",
    "store",
    "to_orbax",
    "with_key_data",
    "with_typed_key",
]
