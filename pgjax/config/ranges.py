"""Types and ranges of settings: the annotations that give them, and what they accept."""

import contextlib
import dataclasses
import functools
import re
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from gymnasium.envs.registration import EnvSpec

from pgjax.config.json_object import JsonObject


class Between(typing.NamedTuple):
    """Range of a setting, as metadata of its annotation."""

    low: float
    high: float
    ends: bool = True  # whether the ends are allowed too

    def accepts(self, value: Any) -> bool:
        """Whether a number is in the range."""
        return self.low <= value <= self.high and (self.ends or value not in self[:2])

    def describe(self, kind: str) -> str:
        """Say which values of a kind are accepted."""
        if not self.ends:
            return f"{kind} between {self.low} and {self.high}, both excluded"
        return f"{kind} from {self.low} to {self.high:.15g}"


class Form(typing.NamedTuple):
    """Form of a string, as metadata of its annotation."""

    pattern: str
    words: str

    def accepts(self, value: Any) -> bool:
        """Whether a string has the form."""
        return re.fullmatch(self.pattern, value) is not None

    def describe(self, kind: str) -> str:
        """Say which strings are accepted."""
        return f"{kind} of the form {self.words}"


class NonEmpty(typing.NamedTuple):
    """Metadata of the annotation of a tuple."""

    def accepts(self, value: Any) -> bool:
        """Whether a tuple has a value."""
        return len(value) > 0

    def describe(self, kind: str) -> str:
        """Say which tuples are accepted."""
        return f"{kind}, at least one"


_UNIONS = (typing.Union, types.UnionType)
_TYPE_NAMES = {
    int: "an integer",
    float: "a number",
    bool: "True or False",
    str: "a string",
    Path: "a path",
    types.NoneType: "None",
    EnvSpec: "a gymnasium EnvSpec",
}
_LARGEST_INT, _LARGEST = 2**31 - 1, 1e38  # limits of int32 and, roughly, float32
_MOST = 2**14  # limit for settings that allocate memory before training starts

Count = Annotated[int, Between(1, _LARGEST_INT)]
Width = Annotated[int, Between(1, _MOST)]
UnitInterval = Annotated[float, Between(0, 1)]
NonNegative = Annotated[float, Between(0, _LARGEST)]
Positive = Annotated[float, Between(1e-30, _LARGEST)]
Reference = Annotated[str, Form(r"[^\W\d][\w.]*:[^\W\d][\w.]*", "module:function")]


@functools.cache
def annotations(cls: type) -> dict[str, Any]:
    """Return the annotation of each field of a dataclass."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def plain(annotation: Any, value: Any) -> Any:
    """Return a value as plain Python: arrays, lists and NumPy's numbers are what users may write.

    A string becomes a path or a JSON object, and a mapping a JSON object, where the annotation
    allows one.
    """
    if typing.get_origin(annotation) is Mapping and isinstance(value, Mapping | str):
        with contextlib.suppress(ValueError):
            return JsonObject(value)
    if hasattr(value, "dtype") and hasattr(value, "tolist"):  # of NumPy or JAX
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(plain(None, x) for x in value)
    if isinstance(value, str) and Path in typing.get_args(annotation):
        return Path(value)
    return value


def fits(annotation: Any, value: Any) -> bool:
    """Whether a value has the type and range that an annotation gives."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in _UNIONS:
        return any(fits(each, value) for each in arguments)
    if origin is Annotated:
        return fits(arguments[0], value) and arguments[1].accepts(value)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, tuple) and all(fits(arguments[0], x) for x in value)
    if origin is Mapping:
        return isinstance(value, JsonObject)
    if origin is Callable:
        return callable(value)
    if annotation in (int, float):
        accepted = int if annotation is int else int | float
        return isinstance(value, accepted) and not isinstance(value, bool)
    return isinstance(value, annotation)


def describe(annotation: Any) -> str:
    """Say which values an annotation accepts."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in _UNIONS:
        return " or ".join(map(describe, arguments))
    if origin is Annotated:
        return arguments[1].describe(describe(arguments[0]))
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is tuple:
        return f"a tuple of values, each {describe(arguments[0])}"
    if origin is Mapping:
        return 'a JSON object, such as {"name": 1}'
    if origin is Callable:
        return "a function that returns an environment"
    return _TYPE_NAMES[annotation]
