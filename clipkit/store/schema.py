"""What a feature file may hold: its kinds, names, types and lengths, and the digest over all of it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipkit.errors import ClipkitError

FORMAT, VERSION = "clipkit", 1
BLOCK_BYTES = 1 << 24
CHUNK_ROWS, CHUNK_BYTES = 512, 1 << 22
MAX_CLASSES = 1 << 20

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
History = list[dict[str, Any]]

# For each kind, the data sets at the root and those of a split; a star marks one that must be there.
KINDS: dict[str, tuple[set[str], set[str]]] = {
    "images": ({"class_names"}, {"features*", "labels", "ids*"}),
    "texts": ({"features*", "texts*", "class_index*", "class_names"}, set()),
    "logits": ({"texts*", "class_index*", "class_names"}, {"features*", "labels", "ids*"}),
    "result": ({"class_names"}, {"predicted*", "labels", "ids*"}),
}
# The number types that a data set may have (S: fixed-length UTF-8) and its dimensions.
TYPES: dict[str, tuple[set[str], int]] = {
    "features": ({"<f4"}, 2),
    "labels": ({"<i8"}, 1),
    "ids": ({"S"}, 1),
    "predicted": ({"<i8"}, 2),
    "texts": ({"S"}, 1),
    "class_index": ({"<i8"}, 1),
    "class_names": ({"S"}, 1),
    "runs": ({"S", "<i8", "<f8"}, 1),
}
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
RESERVED = {"features", "texts", "class_index", "class_names", "runs"}


@dataclass(frozen=True)
class Rows:
    """A matrix (N, D) float32 that comes a block of rows at a time, from a file or from a computation."""

    shape: tuple[int, int]
    start: Callable[[], Iterable[Float32]]

    @classmethod
    def of(cls, features: Float32 | Rows) -> Rows:
        """Wrap an array (N, D); what already comes in blocks is left as it is."""
        if isinstance(features, Rows):
            return features
        array = np.ascontiguousarray(features, dtype="<f4")
        if array.ndim != 2:
            raise ClipkitError(f"features must be a matrix (N, D); got {array.ndim} dimensions")
        step = block_rows(array.shape[1])
        return cls(array.shape, lambda: (array[i : i + step] for i in range(0, len(array), step)))

    def blocks(self) -> Iterator[Float32]:
        """Yield blocks (B, D) in order; of a file, the last one passes only if the digest was right."""
        yield from self.start()

    def read(self) -> Float32:
        """The whole matrix (N, D) in memory."""
        out, at = np.empty(self.shape, np.float32), 0
        for block in self.blocks():
            out[at : at + len(block)] = block
            at += len(block)
        return out


@dataclass
class Split:
    """One split: `features` (N, D), `labels` (N) or None, `ids` (N); results have `predicted` (R, N) instead."""

    features: Any = None  # Float32 in memory, Rows otherwise
    labels: Int64 | None = None
    ids: list[str] = field(default_factory=list)
    predicted: Int64 | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class FeatureFile:
    """What a feature file holds. Which fields are set depends on `kind`: images, texts, logits or result.

    Attributes
    ----------
    history : list of dict
        One entry for each command that made the file, oldest first.
    splits : dict of str to Split
        Of images, logits, and results with predictions.
    features, texts, class_index : (K, D) float32, list of K str, (K) int64
        Of texts; logits carry `texts` and `class_index` along. -1 stands for a prompt that belongs to no class.
    class_names : list of C str, or None
    runs : dict of str to array (R)
        The columns of a result.
    temperature, logit_scale : float or None
        Of logits: features times `temperature` are cosines; `logit_scale` is what the model learned.
    digest : str
        Of the whole content; set when the file is written or read.
    """

    kind: str
    history: History = field(default_factory=list)
    splits: dict[str, Split] = field(default_factory=dict)
    features: Any = None  # Float32 in memory, Rows otherwise
    texts: list[str] | None = None
    class_index: Int64 | None = None
    class_names: list[str] | None = None
    runs: dict[str, NDArray[Any]] = field(default_factory=dict)
    temperature: float | None = None
    logit_scale: float | None = None
    digest: str = ""

    def datasets(self) -> dict[str, Any]:
        """Every array that the file holds, by its HDF5 name."""
        found = {
            name: getattr(self, name)
            for name in ("features", "texts", "class_index", "class_names")
        }
        found |= {f"runs/{name}": column for name, column in self.runs.items()}
        for name, split in self.splits.items():
            found |= {
                f"{name}/{key}": getattr(split, key)
                for key in ("features", "labels", "ids", "predicted")
            }
        return {name: value for name, value in found.items() if value is not None}

    def attributes(self) -> dict[str, Any]:
        """The root attributes that the digest covers."""
        found = {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.kind,
            "history": dump(self.history),
        }
        found |= {"temperature": self.temperature, "logit_scale": self.logit_scale}
        return {name: value for name, value in found.items() if value is not None}


def dump(value: Any) -> str:
    """JSON with sorted keys and no spaces: the same value is always the same text."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def chunk_rows(width: int) -> int:
    """Rows of a chunk: 512, fewer where a row is long."""
    return max(1, min(CHUNK_ROWS, CHUNK_BYTES // (width * 4)))


def block_rows(width: int) -> int:
    """Rows of a block of about 16 MiB, a multiple of the chunk's."""
    chunk = chunk_rows(width)
    return chunk * max(1, BLOCK_BYTES // (chunk * width * 4))


def file_digest(attributes: Mapping[str, Any], datasets: Mapping[str, Mapping[str, Any]]) -> str:
    """SHA-256 over the attributes and over each data set's type, shape and own SHA-256."""
    text = dump(
        {
            "attributes": dict(attributes),
            "datasets": {name: dict(entry) for name, entry in datasets.items()},
        }
    )
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def entry(dtype: np.dtype[Any], shape: tuple[int, ...], sha256: str) -> dict[str, Any]:
    """A data set's part in the file's digest."""
    return {"dtype": dtype.str, "shape": list(shape), "sha256": sha256}


def not_finite(block: Float32) -> list[int]:
    """The rows of a block that hold NaN or Inf."""
    return (
        [] if np.isfinite(block).all() else np.flatnonzero(~np.isfinite(block).all(axis=1)).tolist()
    )


def refuse_rows(what: str, bad: list[int]) -> ClipkitError:
    """The error for rows that hold NaN or Inf."""
    return ClipkitError(
        f"{what} must be finite; got NaN or Inf in {len(bad)} rows, the first is row {bad[0]}"
    )


def check(file: FeatureFile, shown: str) -> None:
    """Hold a file against the format: which data sets its kind has, and lengths that agree.

    Raises
    ------
    ClipkitError
        Naming `shown` and the data set that breaks a rule.
    """
    root, split = KINDS[file.kind]
    here = set(file.datasets())
    for name, value in file.datasets().items():
        if (
            name.rpartition("/")[2] == "features"
            and len(value.shape) != 2
            and not name.startswith("runs/")
        ):
            raise ClipkitError(
                f"{shown}: {name} must be a matrix (N, D); got {len(value.shape)} dimensions"
            )
    for name in {n.rstrip("*") for n in root if n.endswith("*")} - here:
        raise ClipkitError(f"{shown} must hold {name}; it does not")
    if file.kind in ("images", "logits") and not file.splits:
        raise ClipkitError(f"{shown} must hold at least one split; it holds none")
    for name in [*file.splits, *file.runs]:
        if not NAME.fullmatch(name) or (name in RESERVED and name in file.splits):
            raise ClipkitError(
                f"{shown}: a split's name must be letters, digits, '.', '_' or '-'; got {name!r}"
            )
    for name in file.splits:
        for key in {n.rstrip("*") for n in split if n.endswith("*")}:
            if f"{name}/{key}" not in here:
                raise ClipkitError(f"{shown} must hold {name}/{key}; it does not")
    _check_scales(file, shown)
    _check_lengths(file, shown)
    _check_classes(file, shown)


def _check_scales(file: FeatureFile, shown: str) -> None:
    if (file.kind == "logits") != (file.temperature is not None):
        raise ClipkitError(
            f"{shown} must have a temperature if it holds logits, and only then; it holds {file.kind}"
        )
    for name, scale in {"temperature": file.temperature, "logit_scale": file.logit_scale}.items():
        if scale is not None and not (math.isfinite(scale) and scale > 0):
            raise ClipkitError(f"{shown}: {name} must be a finite number above 0; got {scale}")


def _check_lengths(file: FeatureFile, shown: str) -> None:
    if file.kind == "texts":
        _same(
            shown,
            {
                "features": file.features.shape[0],
                "texts": len(file.texts or []),
                "class_index": _length(file.class_index),
            },
        )
    if file.kind == "logits":
        _same(shown, {"texts": len(file.texts or []), "class_index": _length(file.class_index)})
    for name, part in file.splits.items():
        lengths = {"ids": len(part.ids)}
        if part.labels is not None:
            lengths["labels"] = len(part.labels)
        if part.features is not None:
            lengths["features"] = part.features.shape[0]
        if part.predicted is not None:
            lengths["predicted"] = part.predicted.shape[1]
        _same(shown, {f"{name}/{key}": n for key, n in lengths.items()})
    widths = {
        f"{name}/features": s.features.shape[1]
        for name, s in file.splits.items()
        if s.features is not None
    }
    if file.kind == "logits":
        widths["texts"] = len(file.texts or [])
    if len(set(widths.values())) > 1:
        raise ClipkitError(f"{shown}: all features must have one width; got {_listed(widths)}")
    if file.runs:
        _same(shown, {f"runs/{name}": len(column) for name, column in file.runs.items()})


def _check_classes(file: FeatureFile, shown: str) -> None:
    if file.class_names is not None:
        _same(shown, {"class_names": len(file.class_names)})
    n = len(file.class_names) if file.class_names else MAX_CLASSES
    for name, index in file.datasets().items():
        key = name.rpartition("/")[2]
        if key not in ("labels", "predicted", "class_index") or name.startswith("runs/"):
            continue
        low = -1 if key == "class_index" else 0
        if not (low <= np.min(index) and np.max(index) < n):
            raise ClipkitError(
                f"{shown}: {name} must lie in {low}..{n - 1} ({n} class names); got {np.min(index)}..{np.max(index)}"
                if file.class_names
                else f"{shown}: {name} must lie in {low}..{n - 1}; got {np.min(index)}..{np.max(index)}"
            )


def _length(array: Int64 | None) -> int:
    return 0 if array is None else len(array)


def _same(shown: str, lengths: dict[str, int]) -> None:
    if len(set(lengths.values())) > 1:
        raise ClipkitError(f"{shown}: lengths must agree; got {_listed(lengths)}")
    if 0 in lengths.values():
        raise ClipkitError(f"{shown} must hold at least one row; got {_listed(lengths)}")


def _listed(lengths: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in lengths.items())
