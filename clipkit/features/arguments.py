"""Let library functions take what their commands take: paths of files, one value for a list.

The annotations of a function say what it takes. A wrong argument is refused in one line that names
it, and not by what the function does with it.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator
from numbers import Integral, Real
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from clipkit.base.errors import UsageError, shorten
from clipkit.features.model import FeatureFile

P = ParamSpec("P")
T = TypeVar("T")
SEQUENCE = re.compile(r"Sequence\[(\w+)\]")
TYPES: dict[str, tuple[type, str]] = {  # by the name in an annotation: the type, and its noun
    "bool": (bool, "True or False"),
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "str": (str, "a text"),
    "FeatureFile": (FeatureFile, "a feature file or its path"),
}
SHOWN = 60  # characters of a wrong value


def natural_arguments(**kinds: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Convert and check the arguments of a function by its annotations, before it runs.

    A `FeatureFile` may be given by its path, and one value in place of a sequence of values.

    Parameters
    ----------
    **kinds : str
        The kinds that a parameter of feature files takes, such as ``images="images logits"``.

    Raises
    ------
    UsageError
        By the function, for an argument of another type.
    ClipkitError
        By the function, for a file of another kind, or one that cannot be read.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)
        annotations = {name: str(one.annotation) for name, one in signature.parameters.items()}

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            bound = signature.bind(*args, **kwargs)
            for name, value in bound.arguments.items():
                bound.arguments[name] = _convert(name, value, annotations[name], kinds.get(name))
            return function(*bound.args, **bound.kwargs)

        return call

    return decorate


class _Accepted(NamedTuple):
    """One of the alternatives of an annotation."""

    kind: str  # in TYPES, or None
    is_sequence: bool


def _parse(annotation: str) -> list[_Accepted]:
    """Return the alternatives of an annotation; [] if it names others than those of TYPES."""
    accepted = []
    for text in annotation.split(" | "):
        match = SEQUENCE.fullmatch(text)
        kind = match[1] if match else text
        if kind not in TYPES and kind != "None":
            return []
        accepted.append(_Accepted(kind, bool(match)))
    return accepted


def _convert(name: str, value: Any, annotation: str, kinds: str | None) -> Any:
    """Return the value of a parameter as its annotation says; refuse another."""
    accepted = _parse(annotation)
    if not accepted or (value is None and _Accepted("None", False) in accepted):
        return value
    for kind, is_sequence in accepted:
        converted = _as_accepted(value, kind, is_sequence, kinds)
        if converted is not None:
            return converted
    expected = " or ".join(TYPES[kind][1] for kind, _ in accepted if kind != "None")
    if any(is_sequence for _, is_sequence in accepted):
        expected += ", or several"
    raise UsageError(f"{name}: expected {expected}, got {shorten(repr(value), SHOWN)}")


def _as_accepted(value: Any, kind: str, is_sequence: bool, kinds: str | None) -> Any:
    """Return a value, or its items, as a type of TYPES, or None if one is of another."""
    is_list = isinstance(value, Iterable) and not isinstance(value, str | FeatureFile)
    if not (is_sequence and is_list):
        converted = _as_type(value, kind, kinds)
        return [converted] if is_sequence and converted is not None else converted
    values = [_as_type(one, kind, kinds) for one in value]
    if any(one is None for one in values):
        return None
    return values if kind == "FeatureFile" or isinstance(value, Iterator) else value


def _as_type(value: Any, kind: str, kinds: str | None) -> Any:
    """Return a value of a type of TYPES, or None if it is of another; read a file by its path."""
    if kind == "None":
        return None
    is_path = isinstance(value, str | os.PathLike)
    if kind == "FeatureFile" and is_path:
        from clipkit.features.hdf5 import read

        return read(os.fspath(value), kinds=(kinds or "").split())
    if kind == "str" and is_path:
        return os.fspath(value)
    is_flag = isinstance(value, bool | np.bool_)
    if is_flag != (kind == "bool"):
        return None
    if kind != "bool" and not isinstance(value, TYPES[kind][0]):
        return None
    if kind == "FeatureFile":
        from clipkit.features.hdf5 import check_kind

        check_kind(value, (kinds or "").split(), value.display_name)
    return value
