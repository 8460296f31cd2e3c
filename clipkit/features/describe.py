"""Describe a feature file: what `clipkit info` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clipkit.features.model import FeatureFile

MOST_NAMES = 5  # of a list, before the rest is counted
LONGEST = 1000  # characters of a value


def describe(file: FeatureFile) -> list[dict[str, Any]]:
    """Describe the content and the history of a file in full.

    All features are read, so that they are checked against their digests.

    Returns
    -------
    list of dict
        Rows of `field` and `value`: a text, a number, a list of texts or, for an entry of the
        history, its parameters.
    """
    rows: list[tuple[str, Any]] = [("kind", file.kind), ("digest", file.digest), *_arrays(file)]
    size = 0
    for matrix in file.matrices().values():
        size += sum(block.nbytes for block in matrix.iter_blocks())
    if size:
        rows.append(("memory", f"{size / 1e6:.1f} MB"))
    rows += _lists(file)
    for name in ("temperature", "logit_scale"):
        if getattr(file, name) is not None:
            rows.append((name, getattr(file, name)))
    for number, entry in enumerate(file.history, 1):
        parameters = {key: value for key, value in entry.items() if key != "command"}
        rows.append((f"{number} {entry['command']}", parameters))
    return [{"field": field, "value": value} for field, value in rows]


def abridge(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Shorten the rows of `describe` for reading: one line per value, the start of each list."""
    short: list[tuple[str, Any]] = []
    for row in rows:
        field, value = row["field"], row["value"]
        if isinstance(value, dict):
            short += _history_rows(field, value)
        elif isinstance(value, list):
            short.append((field, abridged(value)))
        else:
            short.append((field, value))
    return [{"field": _cut(field), "value": _cut(value)} for field, value in short]


def _cut(value: Any) -> Any:
    """Cut a text that would fill the terminal."""
    if isinstance(value, str) and len(value) > LONGEST:
        return value[: LONGEST - 1] + "…"
    return value


def _lists(file: FeatureFile) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    if file.class_names:
        rows += [("classes", len(file.class_names)), ("class names", file.class_names)]
    if file.texts:
        rows += [("texts", len(file.texts)), ("prompts", file.texts)]
    if file.runs:
        rows += [("runs", file.run_count), ("columns", ", ".join(file.runs))]
    return rows


def _arrays(file: FeatureFile) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    if file.features is not None:
        rows.append(("features", _shape(file.features)))
    for name, split in file.splits.items():
        if split.features is not None:
            rows.append((f"{name} features", _shape(split.features)))
        if split.predicted is not None:
            rows.append((f"{name} predictions", _shape(split.predicted)))
        if split.labels is None:
            rows.append((f"{name} labels", "none"))
    return rows


def flatten(nested: dict[str, Any], separator: str) -> dict[str, Any]:
    """Return the leaves of nested dicts by their joined names.

    >>> flatten({"model": {"name": "tiny", "dim": 64}, "batch_size": 4}, ".")
    {'model.name': 'tiny', 'model.dim': 64, 'batch_size': 4}
    """
    leaves = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            for inner, leaf in flatten(value, separator).items():
                leaves[f"{name}{separator}{inner}"] = leaf
        else:
            leaves[name] = value
    return leaves


def _history_rows(field: str, entry: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a row for the plain values of an entry, and rows for each object in it, sorted."""
    rows: list[tuple[str, str]] = []
    values = []
    for key, value in entry.items():
        if isinstance(value, dict):
            rows += _history_rows(f"{field} {key}", value)
        else:
            values.append(f"{key} {_text(value)}")
    if values:
        rows.append((field, ", ".join(values)))
    return sorted(rows)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return f"[{abridged([_text(item) for item in value])}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def abridged(names: Sequence[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    listed = ", ".join(names[:MOST_NAMES])
    rest = len(names) - MOST_NAMES
    return f"{listed}, ... ({rest} more)" if rest > 0 else listed


def _shape(array: Any) -> str:
    return " x ".join(map(str, array.shape))
