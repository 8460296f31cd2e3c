"""Summarise a feature file: what `clipkit info` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clipkit.base import console
from clipkit.base.errors import shorten
from clipkit.base.names import abridged, omit
from clipkit.features.arguments import Features, as_file, checked

LONGEST = 1000  # characters of a value
SHOWN_DIGITS = 8  # of a digest


@checked
def overview(file: Features) -> dict[str, Any]:
    """Summarise the content and the history of a file in full.

    All features are read, so that they are checked against their digests.

    Returns
    -------
    dict
        The same keys for every file; None for what a file of its kind does not hold. `features` is
        the shape (K, D) of prompts. `splits` holds for each split the number of `rows`, the shapes
        of `features` and `predicted`, whether there are `labels`, and the number of `clusters`,
        None if each row is separate. `feature_bytes` is the size
        of all features in memory, and `runs` the number of runs.
    """
    file = as_file(file, "file")
    size = 0
    for matrix in file.matrices().values():
        size += sum(block.nbytes for block in matrix.iter_blocks())
    splits = {}
    for name, split in file.splits.items():
        splits[name] = {
            "rows": len(split),
            "features": _shape(split.features),
            "predicted": _shape(split.predicted),
            "labels": split.labels is not None,
            "clusters": None if split.cluster is None else len(np.unique(split.cluster)),
        }
    return {
        "kind": file.kind,
        "digest": file.digest,
        "features": _shape(file.features),
        "splits": splits,
        "feature_bytes": size,
        "class_names": file.class_names,
        "texts": list(file.texts or []) or None,
        "other_texts": list(file.other_texts or []) or None,
        "runs": file.run_count or None,
        "columns": list(file.runs) or None,
        "temperature": file.temperature,
        "logit_scale": file.logit_scale,
        "history": file.history,
    }


def _shape(array: Any) -> list[int] | None:
    if array is None:
        return None
    return list(array.shape)


def summarize(description: dict[str, Any]) -> list[dict[str, Any]]:
    """Return at most nine rows of `field` and `value`: what a file holds, and what made it."""
    splits = []
    for name, split in description["splits"].items():
        words = [name]
        if split["features"]:
            words.append(_size(split["features"]))
        if split["predicted"]:
            words.append(f"{_size(split['predicted'])} predictions")
        if not split["labels"]:
            words.append("without labels")
        splits.append(" ".join(words))
    history = description["history"]
    skipped = sum(len(entry.list_of("skipped")) for entry in history)
    model = str(history.model.get("name", ""))
    if "weights" in history.model:
        model += f", weights {_short(str(history.model['weights']))}"
    runs = ""
    if description["columns"]:
        runs = f"{description['runs']}: {', '.join(description['columns'])}"
    rows = {
        "kind": description["kind"],
        "digest": _short(description["digest"]),
        "features": _size(description["features"] or []),
        "splits": abridged(splits),
        "classes": _counted(description["class_names"]),
        "texts": _counted(description["texts"]),
        "runs": runs,
        "temperature": description["temperature"],
        "skipped": console.count(skipped, "image") if skipped else "",
        "model": model,
        "data set": ", ".join(dict.fromkeys(history.dataset_names)),
        "made by": ", ".join(entry.command for entry in history),
    }
    return _cut([(field, value) for field, value in rows.items() if value not in (None, "")])


def _counted(texts: list[str] | None) -> str:
    """Return the number of texts, and the first ones."""
    return f"{len(texts)}: {abridged(texts)}" if texts else ""


def _short(digest: str) -> str:
    """Return the start of a digest, by which people recognise it."""
    return digest[: len("sha256:") + SHOWN_DIGITS]


def abridge(description: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all of a description as rows of `field` and `value`: the start of each list."""
    rows = [("kind", description["kind"]), ("digest", description["digest"])]
    if description["features"]:
        rows.append(("features", _size(description["features"])))
    for name, split in description["splits"].items():
        if split["features"]:
            rows.append((f"{name} features", _size(split["features"])))
        if split["predicted"]:
            rows.append((f"{name} predictions", _size(split["predicted"])))
        if not split["labels"]:
            rows.append((f"{name} labels", "none"))
        if split["clusters"]:
            rows.append((f"{name} clusters", split["clusters"]))
    if description["feature_bytes"]:
        rows.append(("memory", f"{description['feature_bytes'] / 1e6:.1f} MB"))
    names, texts = description["class_names"], description["texts"]
    if names:
        rows += [("classes", len(names)), ("class names", abridged(names))]
    if texts:
        rows += [("texts", len(texts)), ("prompts", abridged(texts))]
    if description["other_texts"]:
        rows.append(("other texts", len(description["other_texts"])))
    if description["columns"]:
        rows += [("runs", description["runs"]), ("columns", ", ".join(description["columns"]))]
    for name in ("temperature", "logit_scale"):
        if description[name] is not None:
            rows.append((name, description[name]))
    for number, entry in enumerate(description["history"], 1):
        parameters = omit(entry, {"command"})
        rows += _history_rows(f"{number} {entry['command']}", parameters)
    return _cut(rows)


def _cut(rows: Sequence[tuple[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of `field` and `value`, of which no text fills a terminal."""
    cut = []
    for field, value in rows:
        if isinstance(value, str):
            value = shorten(value, LONGEST)
        cut.append({"field": shorten(field, LONGEST), "value": value})
    return cut


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
            values.append(f"{key} {value_text(value)}")
    if values:
        rows.append((field, ", ".join(values)))
    return sorted(rows)


def value_text(value: Any) -> str:
    """Return a value of a history as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        items = [f"{key} {value_text(item)}" for key, item in value.items()]
        return f"({', '.join(items)})"
    if isinstance(value, list):
        return f"[{abridged(list(map(value_text, value)))}]"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
