"""Every rule of the feature file's content: names, types, lengths, classes, history.

`validate` runs on each file that is read and on each that is about to be written, whatever its
form, so that a file which clipkit writes is one that clipkit reads. docs/format.md states the same
rules for people.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipkit.base import probe_arrays
from clipkit.base.bounds import MAX_CLASSES, MAX_NAMES
from clipkit.base.errors import LARGEST, SMALLEST, ClipkitError, UsageError, quote, shorten
from clipkit.base.matrices import BlockMatrix, Float32
from clipkit.base.probe_arrays import ProbeArray, ProbeModel
from clipkit.features.history import check_history, check_scale
from clipkit.features.model import (
    CLAIM_FIELDS,
    KINDS,
    NAME,
    OTHER_TEXTS,
    PROBE_ARRAYS,
    RESERVED,
    TEXTS_AT_ONCE,
    FeatureFile,
    find_probe_array,
    is_allowed,
    is_features,
    key_of,
    number_code,
    stored_types,
    unit_of,
)

PROBE_INPUTS = ("embeddings", "logits", "probs")
TYPE_NAMES = {"S": "texts", "<i8": "whole numbers", "<f4": "numbers", "<f8": "numbers"}
PADDED_BYTES = 1 << 26  # texts may be padded to this many bytes, or to a multiple of what they have
PADDED_RATIO = 100
MAX_COUNTED = 5000  # classes: their confusions take 1.4 GB, and a probe has a score of each
MAX_INTEGER = 2**63 - 1


def validate(file: FeatureFile) -> None:
    """Check a file against the format. Features are checked for NaN and Inf by `finite_blocks`.

    Raises
    ------
    ClipkitError
        Naming the file and the data set that breaks a rule.
    """
    if not isinstance(file, FeatureFile):
        hint = "make one with: clipkit.from_array(features)"
        raise UsageError(f"file: expected a feature file, got {quote(file)}", hint)
    try:
        datasets = file.datasets()
        _check_names(file)
        _check_layout(file, datasets)
        for name, value in datasets.items():
            _check_type(name, value)
        _check_scales(file)
        check_history(file.history)
        _check_lengths(file, datasets)
        _check_classes(file, datasets)
        if file.claims:
            _check_claims(file)
        _check_other_texts(file)
        if file.kind == "probe":
            _check_probe(file)
    except ClipkitError as error:
        raise ClipkitError(f"{file.display_name}: {error.message}", error.hint) from None


def _check_names(file: FeatureFile) -> None:
    if file.kind not in KINDS:
        raise ClipkitError(f"kind: expected one of {', '.join(KINDS)}, got {file.kind!r}")
    if file.kind in ("images", "logits") and not file.splits:
        raise ClipkitError("expected at least one split, got none")
    reserved = RESERVED
    if file.kind == "probe":
        reserved = RESERVED | {"fitted"}
    for name in file.splits.keys() & reserved:
        raise ClipkitError(f"name of a split: expected no reserved name, got {name!r}")
    for what, names in (("split", file.splits), ("column", file.runs)):
        for name in names:
            if not NAME.fullmatch(name):
                characters = "letters, digits, '.', '_' and '-'"
                message = f"name of a {what}: expected up to 100 {characters}, got {name!r}"
                raise ClipkitError(message)


def _check_layout(file: FeatureFile, datasets: dict[str, Any]) -> None:
    layout = KINDS[file.kind]
    required = sorted(layout.root)
    for split in file.splits:
        required += [f"{split}/{key}" for key in sorted(layout.split)]
    for name in required:
        if name not in datasets:
            raise ClipkitError(f"expected {name} in a file of {file.kind}, got none")
    for name in datasets:
        if not is_allowed(file.kind, name):
            raise ClipkitError(f"{name} is not part of a file of {file.kind}")
    at_root = {name.partition("/")[0] for name in datasets}
    for group, names in (("/", at_root), ("runs", file.runs)):
        if len(names) > MAX_NAMES:
            raise ClipkitError(f"{group}: expected at most {MAX_NAMES:,} names, got {len(names):,}")


def _check_type(name: str, value: Any) -> None:
    types, ndim = stored_types(name)
    expected = "an array"
    accepted: Any = np.ndarray | BlockMatrix
    if types == {"S"}:
        expected = "a list of texts"
        accepted = np.ndarray | list
    if not isinstance(value, accepted):
        raise ClipkitError(f"{name}: expected {expected}, got {type(value).__name__}")
    stored = _stored_type(name, value)
    if stored not in types:
        expected = " or ".join(dict.fromkeys(TYPE_NAMES[code] for code in sorted(types)))
        raise ClipkitError(f"{name}: expected {expected}, got {TYPE_NAMES.get(stored, stored)}")
    shape = (len(value),) if isinstance(value, list) else value.shape
    if len(shape) != ndim:
        raise ClipkitError(f"{name}: expected {ndim} dimensions, got {len(shape)}")
    if 0 in shape:
        raise ClipkitError(f"{name}: expected at least one row, got the shape {shape}")
    if stored == "S":
        _check_texts(name, value)
    if stored == "<i8" and value.max() > MAX_INTEGER:
        raise ClipkitError(f"{name}: expected whole numbers of 64 bits, got {value.max()}")
    unit = unit_of(name)
    if unit and stored != "S":
        outside = value[(value < unit.low) | (value > unit.high)]  # NaN passes
        if len(outside):
            expected = f"numbers between {unit.low:g} and {unit.high:g}"
            raise ClipkitError(f"{name}: expected {expected}, got {outside[0]:g}")


def _stored_type(name: str, value: Any) -> str:
    """Return the type in which a value is stored, or a description of one that cannot be."""
    if isinstance(value, list):
        return "S"
    if isinstance(value, BlockMatrix):
        return "<f4"
    kind = value.dtype.kind
    if is_features(name) and kind in "biuf":
        return "<f4"
    if kind in "biuf":
        return number_code(value, name)
    return "S" if kind == "U" else f"type {value.dtype}"


def _check_texts(name: str, texts: list[Any] | NDArray[np.str_]) -> None:
    longest = total = 0
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        lengths = _utf8_lengths(name, list(texts[start : start + TEXTS_AT_ONCE]))
        longest = max(longest, *lengths)
        total += sum(lengths)
    padded = longest * len(texts)
    if padded > max(PADDED_BYTES, PADDED_RATIO * total):
        raise ClipkitError(
            f"{name}: expected texts of more equal lengths, since each takes the room of the "
            f"longest: {len(texts):,} texts of {longest:,} bytes are {padded:,} bytes",
            "shorten the longest text",
        )


def _utf8_lengths(name: str, texts: list[Any]) -> list[int]:
    """Check texts, and return the UTF-8 length of each."""
    with contextlib.suppress(TypeError):  # if one is not a text
        joined = "".join(texts)
        if joined.isascii() and "\0" not in joined:  # nearly always, and six times as fast
            return list(map(len, texts))
    lengths = []
    for text in texts:
        if not isinstance(text, str):
            raise _text_error(name, "texts", text)
        if "\0" in text:
            raise _text_error(name, "texts without NUL characters", text)
        try:
            lengths.append(len(text.encode()))
        except UnicodeEncodeError:
            raise _text_error(name, "UTF-8 text", text) from None
    return lengths


def _text_error(name: str, expected: str, got: object) -> ClipkitError:
    return ClipkitError(f"{name}: expected {expected}, got {shorten(got)!r}")


def _check_scales(file: FeatureFile) -> None:
    if file.kind == "logits" and file.temperature is None:
        raise ClipkitError("expected a temperature in a file of logits, got none")
    if file.kind != "logits" and file.temperature is not None:
        message = f"expected no temperature in a file of {file.kind}, got {file.temperature}"
        raise ClipkitError(message)
    for name in ("temperature", "logit_scale"):
        if getattr(file, name) is not None:
            check_scale(name, getattr(file, name))


def _check_lengths(file: FeatureFile, datasets: dict[str, Any]) -> None:
    """Check that the arrays of a group have equal lengths, and all features of splits one width."""
    lengths: dict[str, dict[str, int]] = {}
    widths: dict[str, int] = {}
    for name, value in datasets.items():
        group = name.rpartition("/")[0]
        key = key_of(name)
        if key == "class_names" or (group == "fitted" and file.kind == "probe"):
            continue
        if key in OTHER_TEXTS:
            group = "other"
        rows = value.shape[1] if key == "predicted" else len(value)
        lengths.setdefault(group, {})[name] = rows
        if key in ("features", "other_features"):
            widths[name] = value.shape[1]
    for group_lengths in lengths.values():
        _check_equal("equal lengths", group_lengths)
    if file.kind == "logits":
        widths["texts"] = len(file.texts or [])
    _check_equal("features of equal width", widths)


def _check_claims(file: FeatureFile) -> None:
    for name in CLAIM_FIELDS:
        if name not in file.claims:
            raise ClipkitError(f"expected claims/{name} beside other claims, got none")
    runs = file.claims["run"]
    if not ((runs >= -1) & (runs < file.run_count)).all():
        raise ClipkitError(f"claims/run: expected numbers of runs or -1, got {runs.max()}")


def _check_equal(expected: str, sizes: dict[str, int]) -> None:
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ClipkitError(f"expected {expected}, got {listed}")


def _check_classes(file: FeatureFile, datasets: dict[str, Any]) -> None:
    """Check that labels, predictions and class indices lie among the classes."""
    for name, index in datasets.items():
        key = key_of(name)
        if key == "cluster" and index.min() < 0:
            raise ClipkitError(f"{name}: expected numbers from 0, got {index.min()}")
        if key not in ("labels", "predicted", "class_index"):
            continue
        names = file.class_names
        if key == "predicted" and file.holds_clusters:
            names = None
        classes = len(names or []) or MAX_CLASSES
        known = f" ({classes} class names)" if names else ""
        lowest = -1 if key == "class_index" else 0
        _check_class_range(name, index, classes, known, lowest=lowest)


def _check_other_texts(file: FeatureFile) -> None:
    """Check that other texts have finite embeddings, if there are any."""
    rows, texts = file.other_features, file.other_texts
    if (rows is None) != (texts is None):
        raise ClipkitError("expected other_features and other_texts, got one of them")
    if rows is not None and not np.isfinite(rows).all():
        raise ClipkitError("other_features: expected finite numbers, got NaN or Inf")


def _check_probe(file: FeatureFile) -> None:
    """Check what was fitted: the arrays that a classifier has, their shapes and their values."""
    fitted = file.fitted
    for name, known in (("classifier", tuple(probe_arrays.MODELS)), ("input", PROBE_INPUTS)):
        texts = fitted.get(name, ())
        if len(texts) != 1:
            raise ClipkitError(f"fitted/{name}: expected one text")
        if texts[0] not in known:
            got = repr(shorten(texts[0]))
            raise ClipkitError(f"fitted/{name}: expected {', '.join(known)}, got {got}")
    model = probe_arrays.MODELS[fitted["classifier"][0]]
    _check_probe_names(file, model)
    sizes = _probe_sizes(file, model)
    for name in sorted(fitted.keys() - {"classifier", "input"}):
        array = find_probe_array(name)
        assert array is not None
        expected = tuple(sizes[axis] for axis in array.axes.split())
        if fitted[name].shape != expected:
            got = fitted[name].shape
            raise ClipkitError(f"fitted/{name}: expected the shape {expected}, got {got}")
        _check_probe_values(name, array, fitted[name], sizes["n"])
    classes = fitted["classes"]
    if (classes[1:] <= classes[:-1]).any():
        raise ClipkitError("fitted/classes: expected ascending numbers without repeats")
    most = len(file.class_names or []) or MAX_CLASSES
    _check_class_range("fitted/classes", classes, most)


def _check_probe_names(file: FeatureFile, model: ProbeModel) -> None:
    source = file.fitted["input"][0]
    required = {"classifier", "input", "classes", "balanced", "rms", "factor"}
    if model.has_centre:
        required.add("centre")
    if source != "embeddings":
        required.add("temperature")
    if "mean" in file.fitted:
        required |= {"mean", "deviation"}
    required |= model.arrays.keys()
    allowed = required | {"row_hashes"}
    what = f"{file.fitted['classifier'][0]} on {source}"
    for name in sorted(required - file.fitted.keys()):
        raise ClipkitError(f"expected fitted/{name} of {what}, got none")
    for name in sorted(file.fitted.keys() - allowed):
        raise ClipkitError(f"fitted/{name} is not part of {what}")
    if (source == "embeddings") != (file.texts is None):
        raise ClipkitError(f"expected texts for logits and probs only, got a probe on {source}")


def _probe_sizes(file: FeatureFile, model: ProbeModel) -> dict[str, int]:
    """Return the sizes of a probe's axes, as `ProbeArray` names them.

    The first array that has an axis gives its size, except for classes and for the columns of
    logits, which are the prompts.
    """
    fitted = file.fitted
    n = len(fitted["classes"])
    if not 2 <= n <= MAX_COUNTED:
        raise ClipkitError(f"fitted/classes: expected 2 to {MAX_COUNTED:,} classes, got {n}")
    sizes = {"1": 1, "n": n, "P": n * (n - 1) // 2}
    if file.texts is not None:
        sizes["D"] = len(file.texts)
    for name, array in {**model.arrays, "row_hashes": PROBE_ARRAYS["row_hashes"]}.items():
        if name not in fitted:
            continue
        for axis, length in zip(array.axes.split(), fitted[name].shape, strict=True):
            sizes.setdefault(axis.strip("+"), length - axis.count("+"))
    if sizes["D"] < 1:
        raise ClipkitError("expected a probe of at least one column, got none")
    return sizes | {f"{axis}+": size + 1 for axis, size in sizes.items()}


def _check_probe_values(name: str, array: ProbeArray, values: NDArray[Any], n_classes: int) -> None:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ClipkitError(f"fitted/{name}: expected finite numbers, got NaN or Inf")
    if array.is_positive and values.min() <= 0:
        raise ClipkitError(f"fitted/{name}: expected numbers above 0, got {values.min():g}")
    if name == "temperature" and not SMALLEST <= values[0] <= LARGEST:
        expected = f"a number between {SMALLEST:g} and {LARGEST:g}"
        raise ClipkitError(f"fitted/temperature: expected {expected}, got {values[0]:g}")
    if name == "balanced" and values[0] not in (0, 1):
        raise ClipkitError(f"fitted/balanced: expected 0 or 1, got {values[0]}")
    if array.holds_classes:
        _check_class_range(f"fitted/{name}", values, n_classes)


def _check_class_range(
    name: str, numbers: NDArray[Any], count: int, known: str = "", *, lowest: int = 0
) -> None:
    low, high = int(numbers.min()), int(numbers.max())
    if low < lowest or high >= count:
        expected = f"values in {lowest}..{count - 1}{known}"
        raise ClipkitError(f"{name}: expected {expected}, got {low}..{high}")


def finite_blocks(blocks: Iterator[Float32], name: str) -> Iterator[Float32]:
    """Yield blocks (B, D) until one holds NaN or Inf; then only count the bad rows, and raise."""
    bad: list[int] = []
    start = 0
    for block in blocks:
        is_finite = np.isfinite(block)
        if not is_finite.all():
            bad += (start + np.flatnonzero(~is_finite.all(axis=1))).tolist()
        start += len(block)
        if not bad:
            yield block
    if bad:
        raise ClipkitError(
            f"{name}: expected finite values, got NaN or Inf in {len(bad)} of {start} rows, "
            f"the first is row {bad[0]}"
        )
