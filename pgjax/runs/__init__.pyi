from . import digests, store
from .checkpoints import with_key_data, with_typed_key
from .export import from_orbax, to_orbax
from .metrics import Metrics

__all__ = [
    "Metrics",
    "digests",
    "from_orbax",
    "store",
    "to_orbax",
    "with_key_data",
    "with_typed_key",
]
