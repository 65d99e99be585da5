"""An immutable JSON object: what a setting holds whose names are not pgjax's."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

_DEEPEST = 100  # nested lists and objects, far fewer than Python can follow


class JsonObject(Mapping[str, Any]):
    """A mapping of names to JSON values that cannot change, and can be hashed.

    It keeps its canonical text and parses it on every access, so that changing a list in it changes
    only a copy.

    Args:
      values: a mapping, or the text of a JSON object. Tuples and arrays become lists.

    Raises:
      ValueError: if a value has no JSON form, or a name is not a string.

    Example:
      >>> from pgjax.config.json_object import JsonObject
      >>> given = JsonObject({"size": (4, 4), "is_slippery": False})
      >>> given["size"], str(given)
      ([4, 4], '{"is_slippery": false, "size": [4, 4]}')
      >>> given == JsonObject(str(given))
      True
    """

    __slots__ = ("_text",)

    def __init__(self, values: Mapping[str, Any] | str = "{}"):
        try:
            plain = _plain(json.loads(values) if isinstance(values, str) else values)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        if not isinstance(plain, dict):
            raise ValueError("it is not a JSON object")
        self._text = json.dumps(plain, sort_keys=True)

    def __getitem__(self, name: str) -> Any:
        return json.loads(self._text)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(json.loads(self._text))

    def __len__(self) -> int:
        return len(json.loads(self._text))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, JsonObject):
            return self._text == other._text  # so that 1, 1.0 and true differ, as their hashes do
        return Mapping.__eq__(self, other)

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return self._text


def _plain(value: Any, depth: int = 0) -> Any:
    """Return a JSON value as Python's own types; ValueError if it is none."""
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    if hasattr(value, "dtype") and hasattr(value, "tolist"):  # of NumPy or JAX
        value = value.tolist()
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _plain(x, depth + 1) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(x, depth + 1) for x in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ValueError(f"{value!r} has no JSON form")
