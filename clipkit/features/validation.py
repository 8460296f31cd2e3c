"""Every rule of the feature file's content: names, types, lengths, classes, history.

`validate` runs on each file that is read and on each that is about to be written, whatever its
form, so that a file which clipkit writes is one that clipkit reads. docs/format.md states the same
rules for people.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from clipkit.errors import ClipkitError
from clipkit.features.model import BlockMatrix, FeatureFile, Float32, canonical_json

# For each kind, the data sets at the root and those of a split. A star marks a required one.
KINDS: dict[str, tuple[set[str], set[str]]] = {
    "images": ({"class_names"}, {"features*", "labels", "ids*"}),
    "texts": ({"features*", "texts*", "class_index*", "class_names"}, set()),
    "logits": ({"texts*", "class_index*", "class_names"}, {"features*", "labels", "ids*"}),
    "result": ({"class_names"}, {"predicted*", "labels", "ids*"}),
}
# The stored types that a data set may have (S: fixed-length UTF-8) and its number of dimensions.
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
MAX_CLASSES = 1 << 20  # without class names; a label must not make a command allocate without end
MAX_DEPTH = 16  # of a history: what walks it is recursive


def key_of(name: str) -> str:
    """Return the entry of `TYPES` that a data set's name stands for.

    >>> key_of("train/labels"), key_of("runs/features"), key_of("texts")
    ('labels', 'runs', 'texts')
    """
    group, _, key = name.rpartition("/")
    return "runs" if group == "runs" else key


def is_features(name: str) -> bool:
    """Whether a data set is a matrix of features, which comes in blocks."""
    return key_of(name) == "features"


def allowed_names(kind: str) -> tuple[set[str], set[str]]:
    """Return the names that may stand at the root and in a split of a file of this kind."""
    root, split = KINDS[kind]
    return {name.rstrip("*") for name in root}, {name.rstrip("*") for name in split}


def _required_names(kind: str) -> tuple[set[str], set[str]]:
    root, split = KINDS[kind]
    return (
        {name.rstrip("*") for name in root if name.endswith("*")},
        {name.rstrip("*") for name in split if name.endswith("*")},
    )


def validate(file: FeatureFile) -> None:
    """Check a file against the format. Features are checked for NaN and Inf by `finite_blocks`.

    Raises
    ------
    ClipkitError
        Naming the file and the data set that breaks a rule.
    """
    try:
        _check_names(file)
        for name, value in file.datasets().items():
            _check_type(name, value)
        _check_scales(file)
        check_history(file.history)
        _check_lengths(file)
        _check_classes(file)
    except ClipkitError as error:
        raise ClipkitError(f"{file.display_name}: {error.message}", error.hint) from None


def _check_names(file: FeatureFile) -> None:
    if file.kind not in KINDS:
        raise ClipkitError(f"kind: expected one of {', '.join(KINDS)}, got {file.kind!r}")
    datasets = file.datasets()
    root, split = allowed_names(file.kind)
    required_root, required_split = _required_names(file.kind)
    for name in sorted(required_root - set(datasets)):
        raise ClipkitError(f"expected {name} in a file of {file.kind}, got none")
    if file.kind in ("images", "logits") and not file.splits:
        raise ClipkitError("expected at least one split, got none")
    for name in [*file.splits, *file.runs]:
        check_name(name)
    for name in file.splits:
        if name in RESERVED:
            raise ClipkitError(f"expected a split's name, got the reserved name {name!r}")
        for key in sorted(required_split):
            if f"{name}/{key}" not in datasets:
                raise ClipkitError(f"expected {name}/{key} in a file of {file.kind}, got none")
    for name in datasets:
        group, _, key = name.rpartition("/")
        allowed = split if group else root
        if group == "runs" and file.kind == "result":
            continue
        if key not in allowed:
            raise ClipkitError(f"{name} is not part of a file of {file.kind}")


def check_name(name: str) -> None:
    """Check the name of a split or of a result's column."""
    if not NAME.fullmatch(name):
        raise ClipkitError(f"expected a name of letters, digits, '.', '_' and '-', got {name!r}")


def _check_type(name: str, value: Any) -> None:
    key = key_of(name)
    types, ndim = TYPES[key]
    if key == "features":
        if not isinstance(value, BlockMatrix) and np.asarray(value).dtype.kind not in "biuf":
            raise ClipkitError(f"{name}: expected numbers, got type {np.asarray(value).dtype}")
    elif isinstance(value, list):
        if "S" not in types:
            raise ClipkitError(f"{name}: expected numbers, got a list")
        _check_texts(name, value)
        return
    elif value.dtype.kind == "U":
        _check_texts(name, value.tolist())
    elif value.dtype.kind not in ("bif" if key == "runs" else "bi"):
        raise ClipkitError(f"{name}: expected whole numbers, got type {value.dtype}")
    if len(value.shape) != ndim:
        raise ClipkitError(f"{name}: expected {ndim} dimensions, got {len(value.shape)}")


def _check_texts(name: str, texts: list[Any]) -> None:
    for text in texts:
        if not isinstance(text, str):
            raise ClipkitError(f"{name}: expected texts, got {str(text)[:40]!r}")
        if "\0" in text:
            raise ClipkitError(f"{name}: expected texts without NUL characters, got {text!r}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ClipkitError(f"{name}: expected UTF-8 text, got {text!r}") from None


def _check_scales(file: FeatureFile) -> None:
    if file.kind == "logits" and file.temperature is None:
        raise ClipkitError("expected a temperature in a file of logits, got none")
    if file.kind != "logits" and file.temperature is not None:
        raise ClipkitError(f"a file of {file.kind} has no temperature")
    for name in ("temperature", "logit_scale"):
        value = getattr(file, name)
        if value is not None:
            check_scale(name, value)


def check_scale(name: str, value: Any) -> None:
    """Check a temperature or logit scale: a finite number above 0."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise ClipkitError(f"{name}: expected a finite number above 0, got {value!r}")


def check_history(history: Any) -> None:
    """Check a history: a list of JSON objects, each naming its command and, if any, its model.

    Raises
    ------
    ClipkitError
        Naming the entry that breaks a rule, counted from 1.
    """
    if not isinstance(history, list):
        raise ClipkitError(f"history: expected a list, got {type(history).__name__}")
    try:
        if _depth(history) > MAX_DEPTH:
            raise ClipkitError(f"history: expected at most {MAX_DEPTH} levels, got more")
        canonical_json(history).encode()
    except (ValueError, TypeError, RecursionError) as error:  # NaN, half a surrogate pair, a set
        raise ClipkitError(f"history: expected plain JSON, got {error}") from None
    for number, entry in enumerate(history, 1):
        _check_entry(f"history, entry {number}", entry)


def _check_entry(where: str, entry: Any) -> None:
    if not isinstance(entry, dict) or not isinstance(entry.get("command"), str):
        raise ClipkitError(f"{where}: expected an object with the name of a command")
    if "model" not in entry:
        return
    model = entry["model"]
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        raise ClipkitError(f"{where}: expected a model with a name")
    if "logit_scale" in model:
        check_scale(f"{where}: logit_scale", model["logit_scale"])


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, list | tuple):
        parts = list(value)
    else:
        return 1
    return 1 + max(map(_depth, parts), default=0)


def _check_lengths(file: FeatureFile) -> None:
    texts = {"texts": _length(file.texts), "class_index": _length(file.class_index)}
    if file.kind == "texts":
        _check_equal({"features": len(file.features), **texts})
    if file.kind == "logits":
        _check_equal(texts)
    if file.class_names is not None:
        _check_equal({"class_names": len(file.class_names)})
    if file.runs:
        _check_equal({f"runs/{name}": len(column) for name, column in file.runs.items()})
    widths = {}
    for name, split in file.splits.items():
        lengths = {"ids": len(split.ids)}
        if split.labels is not None:
            lengths["labels"] = len(split.labels)
        if split.predicted is not None:
            lengths["predicted"] = split.predicted.shape[1]
        if split.features is not None:
            lengths["features"] = split.features.shape[0]
            widths[f"{name}/features"] = split.features.shape[1]
        _check_equal({f"{name}/{key}": n for key, n in lengths.items()})
    if file.kind == "logits":
        widths["texts"] = texts["texts"]
    if len(set(widths.values())) > 1:
        raise ClipkitError(f"expected features of equal width, got {_listed(widths)}")


def _length(values: Any) -> int:
    return 0 if values is None else len(values)


def _check_equal(lengths: dict[str, int]) -> None:
    if len(set(lengths.values())) > 1:
        raise ClipkitError(f"expected equal lengths, got {_listed(lengths)}")
    if 0 in lengths.values():
        raise ClipkitError(f"expected at least one row, got {_listed(lengths)}")


def _listed(lengths: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in lengths.items())


def _check_classes(file: FeatureFile) -> None:
    """Check that labels, predictions and class indices lie among the classes."""
    classes = len(file.class_names) if file.class_names else MAX_CLASSES
    for name, index in file.datasets().items():
        key = key_of(name)
        if key not in ("labels", "predicted", "class_index"):
            continue
        lowest = -1 if key == "class_index" else 0
        low, high = int(np.min(index)), int(np.max(index))
        if low < lowest or high >= classes:
            known = f" ({classes} class names)" if file.class_names else ""
            raise ClipkitError(
                f"{name}: expected values in {lowest}..{classes - 1}{known}, got {low}..{high}"
            )


def finite_blocks(blocks: Iterator[Float32], name: str) -> Iterator[Float32]:
    """Yield blocks (B, D) until one holds NaN or Inf; then count the bad rows and raise.

    Raises
    ------
    ClipkitError
        Naming `name`, the number of bad rows and the first of them.
    """
    bad: list[int] = []
    start = 0
    for block in blocks:
        if not np.isfinite(block).all():
            bad += (start + np.flatnonzero(~np.isfinite(block).all(axis=1))).tolist()
        start += len(block)
        if not bad:
            yield block
    if bad:
        rows = "row" if len(bad) == 1 else "rows"
        raise ClipkitError(
            f"{name}: expected finite values, got NaN or Inf in {len(bad)} {rows}, first row {bad[0]}"
        )
