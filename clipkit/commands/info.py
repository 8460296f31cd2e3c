"""`clipkit info`: what is in a feature file, or in a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipkit import console
from clipkit.commands import Format, check_format

if TYPE_CHECKING:
    from clipkit.store import FeatureFile


def info(
    what: Annotated[
        str, typer.Argument(metavar="[FILE|MODEL]", help="Feature file, or a model; standard input if left out.")
    ] = "-",
    format: Format = None,
) -> None:
    """What a feature file holds and how it came about, or the sizes of a model.

    A file is checked to its last byte.

    Example: clipkit info img.h5
    """
    from clipkit import store, tables

    check_format(format)
    if what == "-" or (Path(what).exists() and not Path(what).is_dir()):
        with store.opened(what) as file:
            rows = describe(file)
    else:
        from clipkit import models

        with console.progress("reading the weights"):
            rows = [{"field": key, "value": value} for key, value in _flat(models.describe(what))]
    tables.emit(rows, format)


def describe(file: FeatureFile) -> list[dict[str, Any]]:
    """A file's content as rows of field and value; reads it all, so that its digests are checked."""
    found: list[tuple[str, Any]] = [("kind", file.kind), ("digest", file.digest)]
    size = 0
    if file.features is not None:
        size += _read(file.features)
        found.append(("features", _shape(file.features)))
    for name, split in file.splits.items():
        if split.features is not None:
            size += _read(split.features)
            found.append((f"{name} features", _shape(split.features)))
        if split.predicted is not None:
            found.append((f"{name} predictions", _shape(split.predicted)))
        if split.labels is None:
            found.append((f"{name} labels", "none"))
    if size:
        found.append(("memory", f"{size / 1e6:.1f} MB"))
    if file.class_names:
        found += [("classes", len(file.class_names)), ("class names", _some(file.class_names))]
    if file.texts:
        found += [("texts", len(file.texts)), ("first texts", _some(file.texts))]
    if file.runs:
        found += [("runs", len(next(iter(file.runs.values())))), ("columns", ", ".join(file.runs))]
    found += [(key, value) for key in ("temperature", "logit_scale") if (value := getattr(file, key)) is not None]
    for number, entry in enumerate(file.history, 1):
        found.append((f"history {number}", entry["command"]))
        found += [(f"history {number} {key}", value) for key, value in _flat(entry) if key != "command"]
    return [{"field": field, "value": value} for field, value in found]


def _read(features: Any) -> int:
    """Bytes of features that were read, and so checked, to the last."""
    return sum(block.nbytes for block in features.blocks())


def _shape(array: Any) -> str:
    return " x ".join(map(str, array.shape))


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f", ... ({len(names) - 5} more)" if len(names) > 5 else "")


def _flat(value: dict[str, Any], at: str = "") -> list[tuple[str, Any]]:
    """Nested keys joined by a space; long lists cut."""
    found = []
    for key, part in value.items():
        name = f"{at} {key}".strip()
        if isinstance(part, dict):
            found += _flat(part, name)
        elif isinstance(part, list):
            found.append((name, _some([str(item) for item in part])))
        else:
            found.append((name, part))
    return found
