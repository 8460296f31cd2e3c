"""Let library functions take what their commands take: paths of files, one value for a list.

The annotations of a function say what it takes. A wrong argument is refused in one line that names
it, and not by what the function does with it.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeVar

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


def _convert(name: str, value: Any, annotation: str, kinds: str | None) -> Any:
    """Return the value of a parameter as its annotation says; refuse another."""
    alternatives = annotation.split(" | ")
    known = {"None", *TYPES}
    items = [SEQUENCE.fullmatch(one) for one in alternatives]
    types = [match[1] if match else one for match, one in zip(items, alternatives, strict=True)]
    if not known.issuperset(types) or (value is None and "None" in types):
        return value
    for match, kind in zip(items, types, strict=True):
        if match and isinstance(value, Iterable) and not isinstance(value, str | FeatureFile):
            values = [_as_type(one, kind, kinds) for one in value]
            if not any(one is None for one in values):
                return values if kind == "FeatureFile" else value
        else:
            converted = _as_type(value, kind, kinds)
            if converted is not None:
                return [converted] if match else converted
    expected = " or ".join(TYPES[kind][1] for kind in types if kind != "None")
    if any(items):
        expected += ", or several"
    got = shorten(repr(value), SHOWN)
    raise UsageError(f"{name}: expected {expected}, got {got}")


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
