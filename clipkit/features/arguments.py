"""Let library functions take what their commands take, and arrays and tables of a notebook.

The annotations of a function say what it takes: `Features` are a feature file, its path or an
array, `Several[int]` is one number or some. Its first lines convert these: then a type checker
knows what they are. `checked` refuses plain values of another type. Each refuses a wrong argument
in one line that names it.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from types import NoneType
from typing import Any, ParamSpec, TypeAlias, TypeGuard, TypeVar, get_args, overload

from clipkit.base.errors import UsageError, quote
from clipkit.base.options import is_list
from clipkit.features.arrays import Kind, Matrix, from_array
from clipkit.features.model import KINDS, FeatureFile

P = ParamSpec("P")
T = TypeVar("T")
Plain = TypeVar("Plain", int, float, str)
FilePath: TypeAlias = str | os.PathLike[str]
Features: TypeAlias = FeatureFile | FilePath | Matrix
Several: TypeAlias = T | Iterable[T]

OF_FEATURES = "a feature file, its path or an array of features"
Types: TypeAlias = dict[str, tuple[type, str]]
TYPES: Types = {  # by the name in an annotation: the type, and its noun
    "bool": (bool, "True or False"),
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "str": (str, "a text"),
    "Mapping[str, float]": (Mapping, "a dict of numbers, such as {'test': 0.2}"),
    "None": (type(None), ""),
}
PLAIN = ("bool", "int", "float", "str")
ARRAY_KINDS: tuple[Kind, ...] = ("images", "texts", "logits")


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """Check the plain arguments of a function by its annotations, before it runs.

    Raises
    ------
    UsageError
        By the function, for a number, text, flag, dict or None in the place of another, and for an
        argument that it lacks or does not take.
    """
    signature = inspect.signature(function)
    annotations = {}
    for name, parameter in signature.parameters.items():
        is_one = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if is_one and parameter.annotation != "Any":
            annotations[name] = str(parameter.annotation)
    nouns = TYPES | _classes(function, annotations.values())
    takes_list = any("Several[Features]" in one for one in annotations.values())
    hint = f"give several files as a list: {function.__name__}([a, b])" if takes_list else None

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise UsageError(f"{function.__name__}: {error}", hint) from None
        for name, value in bound.arguments.items():
            if name in annotations:
                bound.arguments[name] = _check(name, value, annotations[name], nouns, hint)
        return function(*bound.args, **bound.kwargs)

    return call


@overload
def as_file(value: Features, name: str, kinds: str = "") -> FeatureFile: ...
@overload
def as_file(value: None, name: str, kinds: str = "") -> None: ...
def as_file(value: Features | None, name: str, kinds: str = "") -> FeatureFile | None:
    """Return a feature file that is given as such, by its path or as an array; None if none is.

    Parameters
    ----------
    value : FeatureFile, str, path or (N, D) array
    name : str
        Of the argument: an error names it.
    kinds : str
        The kinds that are taken, such as ``images logits``: by default the one that the name says,
        or else all. An array becomes the first of them.

    Raises
    ------
    UsageError
        If it is something else, or an array where none can be.
    ClipkitError
        If a file is of another kind, or cannot be read.
    """
    from clipkit.features.hdf5 import check_kind, read  # imports h5py

    if value is None:
        return None
    accepted = [name] if not kinds and name in KINDS else kinds.split()
    if isinstance(value, str | os.PathLike):
        return read(os.fspath(value), kinds=accepted)
    if isinstance(value, FeatureFile):
        check_kind(value, accepted)
        return value
    kind = next((kind for kind in ARRAY_KINDS if kind in (accepted or ARRAY_KINDS)), None)
    if isinstance(value, Matrix) and kind is not None:
        return from_array(value, kind, name=name)
    raise refused(name, OF_FEATURES if kind else "a feature file or its path", value)


def as_files(values: Several[Features], name: str, kinds: str = "") -> list[FeatureFile]:
    """Return feature files that are given as `as_file` takes them; one is a list of one."""
    if is_features(values):
        return [as_file(values, name, kinds)]
    if not isinstance(values, Iterable):
        raise refused(name, f"{OF_FEATURES}, or several", values)
    return [as_file(one, f"{name}[{number}]", kinds) for number, one in enumerate(values)]


def is_features(value: object) -> TypeGuard[Features]:
    """Whether a value is one of those that `as_file` takes, and no list of them."""
    if isinstance(value, Matrix):
        return len(value.shape) != 1  # else it is an array of paths
    return isinstance(value, str | os.PathLike | FeatureFile)


@overload
def as_list(values: None, name: str, kind: type[Plain]) -> None: ...
@overload
def as_list(values: Several[FilePath], name: str, kind: type[str]) -> list[str]: ...
@overload
def as_list(values: Several[Plain], name: str, kind: type[Plain]) -> list[Plain]: ...
def as_list(values: Any, name: str, kind: type[Any]) -> list[Any] | None:
    """Return one value, or several in any form, as a list of values of a type; None if none is.

    Texts may be paths.
    """
    if values is None:
        return None
    listed = [_as_type(one, kind.__name__) for one in _listed(values)]
    if any(one is None for one in listed):
        raise refused(name, f"{TYPES[kind.__name__][1]}, or several", values)
    return listed


def as_plain(value: Any, name: str, annotation: Any, hint: str | None = None) -> Any:
    """Return a plain value, or one or several as a list, for a parameter with such an annotation.

    A number may stand for a text: for the word that a command line has. Parameters of other types
    are returned as they are: what they are given to checks them.
    """
    takes_list = is_list(annotation)
    types = get_args(annotation) or (annotation,)
    if takes_list and NoneType in types:  # of the list
        types = get_args(types[0])
    kinds = [getattr(kind, "__name__", "") for kind in types if kind is not NoneType]
    is_left_out = value is None and NoneType in types
    if is_left_out or not set(kinds) <= set(PLAIN):
        return value
    values = _listed(value) if takes_list else [value]
    converted = [_as_one_of(kinds, one) for one in values]
    if any(one is None for one in converted):
        expected = " or ".join(TYPES[kind][1] for kind in kinds)
        raise refused(name, f"{expected}, or several" if takes_list else expected, value, hint)
    return converted if takes_list else converted[0]


def _listed(values: Any) -> list[Any]:
    """Return one value, or several in any form, as a list."""
    plain = _plain(values)
    is_one = isinstance(plain, str | os.PathLike | Mapping) or not isinstance(plain, Iterable)
    return [plain] if is_one else list(plain)


def _as_one_of(kinds: Iterable[str], value: Any) -> Any:
    """Return a value of one of the types, or None if it is of none; a number may be a text."""
    for kind in kinds:
        converted = _as_type(value, kind)
        if converted is not None:
            return converted
    number = _as_type(value, "float")
    return None if number is None or "str" not in kinds else str(number)


def refused(name: str, expected: str, value: object, hint: str | None = None) -> UsageError:
    """Return the error of one line for an argument of another type."""
    return UsageError(f"{name}: expected {expected}, got {quote(value)}", hint)


def _classes(function: Callable[..., Any], annotations: Iterable[str]) -> Types:
    """Return the classes that annotations name, which the module of a function has imported."""
    classes: Types = {}
    for name in " | ".join(annotations).split(" | "):
        found = inspect.unwrap(function).__globals__.get(name)
        if isinstance(found, type) and not getattr(found, "_is_protocol", False):
            classes[name] = (found, f"a {name}")
    return classes


def _check(name: str, value: Any, annotation: str, types: Types, hint: str | None) -> Any:
    """Return the plain value of a parameter; refuse one of another type. The hint is for a file."""
    accepted = annotation.split(" | ")
    if value is None and "None" in accepted:
        return None
    if not types.keys() >= set(accepted):  # the function converts it
        if value is None:
            raise refused(name, OF_FEATURES if "Features" in annotation else "a value", None)
        return value
    plain = _plain(value)
    for kind in accepted:
        converted = _as_type(plain, kind, types)
        if converted is not None:
            return converted
    expected = " or ".join(types[kind][1] for kind in accepted if kind != "None")
    raise refused(name, expected, value, hint if is_features(value) else None)


def _as_type(value: Any, kind: str, types: Types = TYPES) -> Any:
    """Return a value of a type of TYPES, or None if it is of another; a path is a text."""
    value = _plain(value)
    if kind == "str" and isinstance(value, os.PathLike):
        return os.fspath(value)
    is_flag = isinstance(value, bool)
    if is_flag != (kind == "bool") or not isinstance(value, types[kind][0]):
        return None
    return value


def _plain(value: Any) -> Any:
    """Return a number of NumPy as one of Python, and an array as a list."""
    return value.tolist() if hasattr(value, "tolist") else value
