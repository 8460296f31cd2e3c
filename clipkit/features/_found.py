"""What was found in another tool's file, under the feature file's names and in its types."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipkit.errors import ClipkitError, unknown

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

KINDS = ("images", "texts", "logits")
ROOT = ("texts", "class_index", "class_names")
SPLIT = ("features", "labels", "ids")
UNNAMED = "all"  # the split of rows that name none, as for a folder of images
BLOCK_BYTES = 1 << 24
BOMB_BYTES, BOMB_RATIO = 1 << 26, 100


class Matrix(Protocol):
    """Features (N, D) float32 that come a block of rows at a time."""

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""

    def iter_blocks(self) -> Iterator[Float32]:
        """Blocks (B, D), in order."""


@dataclass
class Found:
    """The content of a file.

    Attributes
    ----------
    kind : str
        images, texts or logits.
    arrays : dict
        By the feature file's names: matrices, int64 arrays, lists of str.
    about : dict
        kind, history, temperature and logit_scale, where clipkit wrote the file; empty otherwise.
    unused : list of str
        What is in the file and has no place in a feature file.
    """

    kind: str
    arrays: dict[str, Any]
    about: dict[str, Any] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)

    @property
    def splits(self) -> list[str]:
        """The splits' names, in the file's order."""
        return [
            name.removesuffix("/features") for name in self.arrays if name.endswith("/features")
        ]


def complete(found: Found, shown: str) -> Found:
    """Fill in what a file may leave out: row numbers as ids, -1 as class_index, numbers for classes that are names."""
    arrays = found.arrays
    if found.kind == "texts":
        arrays.setdefault("class_index", np.full(len(arrays["texts"]), -1, np.int64))
    elif not found.splits:
        names = (
            ", ".join(sorted({name.partition("/")[0] for name in arrays} | set(found.unused)))
            or "nothing"
        )
        raise ClipkitError(
            f"{shown} must hold features; it holds {names}",
            "name them features, or train_features and test_features",
        )
    for split in found.splits:
        arrays.setdefault(f"{split}/ids", numbered(arrays[f"{split}/features"].shape[0]))
    labels = {name: value for name, value in arrays.items() if name.endswith("/labels")}
    if any(isinstance(value, list) for value in labels.values()):
        _number_classes(arrays, labels, shown)
    return found


def _number_classes(arrays: dict[str, Any], labels: dict[str, Any], shown: str) -> None:
    """Labels that are names become places among the class names, which are the names sorted where none are listed."""
    if not all(isinstance(value, list) for value in labels.values()):
        raise ClipkitError(
            f"{shown}: labels must be numbers in all splits or names in all; got both"
        )
    names = arrays.setdefault(
        "class_names", sorted({name for value in labels.values() for name in value})
    )
    number = {name: i for i, name in enumerate(names)}
    for where, value in labels.items():
        if strange := next((name for name in value if name not in number), None):
            raise ClipkitError(f"{shown}: {where} must be among the class names; got {strange!r}")
        arrays[where] = np.array([number[name] for name in value], np.int64)


def choose(split: str | None, splits: Sequence[str], shown: str) -> list[str]:
    """The splits that are asked for, all by default."""
    if split is not None and split not in splits:
        raise unknown(f"split of {shown}", split, splits)
    return list(splits) if split is None else [split]


def numbered(n: int) -> list[str]:
    """Row numbers as ids of one width.

    >>> numbered(11)[-2:]
    ['09', '10']
    """
    width = len(str(n - 1))
    return [f"{row:0{width}d}" for row in range(n)]


def whole(array: NDArray[Any], shown: str) -> Int64:
    """Numbers (N) as int64; they may come as another type, but must be whole."""
    if array.ndim != 1:
        raise ClipkitError(f"{shown} must have one dimension; its shape is {array.shape}")
    if array.dtype.kind not in "biuf":
        raise ClipkitError(f"{shown} must be whole numbers; got type {array.dtype}")
    with np.errstate(invalid="ignore"):
        numbers = array.astype(np.int64)
    if len(bad := np.flatnonzero(numbers != array)):
        raise ClipkitError(f"{shown} must be whole numbers; got {array[bad[0]]} in row {bad[0]}")
    return numbers


def strings(values: Any, shown: str) -> list[str]:
    """Texts (N), as Unicode, UTF-8 bytes or whole numbers, as a list of str."""
    values = values.tolist() if isinstance(values, np.ndarray) else values
    if not isinstance(values, list):
        raise ClipkitError(f"{shown} must have one dimension; it is a single value")
    if (
        strange := next((item for item in values if not isinstance(item, str | bytes | int)), None)
    ) is not None:
        raise ClipkitError(f"{shown} must be texts; got {str(strange)[:40]!r}")
    try:
        return [item.decode() if isinstance(item, bytes) else str(item) for item in values]
    except UnicodeDecodeError as error:
        raise ClipkitError(f"{shown} must be UTF-8; got {error.object!r}") from error


def floats(array: NDArray[Any]) -> Float32:
    """As float32; what is too large becomes infinite, which the store refuses."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=np.float32)


def check_size(unpacked: int, packed: int, shown: str) -> None:
    """Refuse data that would unpack to a hundred times its size, unless that is little.

    >>> check_size(10_000, 20, "labels")
    """
    if unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * packed:
        raise ClipkitError(
            f"{shown} must unpack to at most {BOMB_RATIO} times its size; {packed} bytes declare {unpacked}",
            "save it without compression if it is meant",
        )


def parse_about(text: str, shown: str) -> dict[str, Any]:
    """What clipkit said about the file that it wrote.

    Raises
    ------
    ClipkitError
        If it is not as clipkit writes it, is of a newer clipkit, or of a kind that cannot be brought in.
    """
    try:
        about = json.loads(text, parse_constant=float)
        history, kind, version = about["history"], about["kind"], about["version"]
        sound = isinstance(history, list) and all(
            isinstance(e, dict) and isinstance(e.get("command"), str) for e in history
        )
        scales = [about[name] for name in ("temperature", "logit_scale") if name in about]
        sound = sound and all(isinstance(x, float) and math.isfinite(x) and x > 0 for x in scales)
        json.dumps(history, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, TypeError, KeyError, RecursionError):
        sound = False
    if not sound or not isinstance(version, int):
        raise ClipkitError(
            f"{shown}: 'clipkit' must be the JSON that clipkit convert writes; it was changed",
            "remove it",
        )
    if version > 1:
        raise ClipkitError(
            f"{shown} was made by a newer clipkit (format version {version}): update"
        )
    if kind not in KINDS:
        raise ClipkitError(
            f"{shown} must hold {', '.join(KINDS)} to be brought in; it holds {kind}"
        )
    return {"kind": kind, "history": history} | {
        name: about[name] for name in ("temperature", "logit_scale") if name in about
    }


def dump_about(about: Mapping[str, Any]) -> str:
    """The same as text, always the same for the same content."""
    return json.dumps(dict(about), sort_keys=True, ensure_ascii=False, allow_nan=False)
