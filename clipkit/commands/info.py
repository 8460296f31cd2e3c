"""`clipkit info`: what is in a feature file, or in a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipkit import console
from clipkit.commands._options import Format, check_report_options

if TYPE_CHECKING:
    from clipkit.features import FeatureFile


def info(
    what: Annotated[
        str,
        typer.Argument(
            metavar="[FILE|MODEL]", help="Feature file, or a model; standard input if left out."
        ),
    ] = "-",
    format: Format = None,
) -> None:
    """What a feature file holds and how it came about, or the sizes of a model.

    A file is checked to its last byte.

    Example: clipkit info img.h5
    """
    from clipkit import features, tables

    check_report_options(None, format, False)
    if what == "-" or (Path(what).exists() and not Path(what).is_dir()):
        with features.open_file(what) as file:
            rows = describe(file)
    else:
        from clipkit import models

        with console.progress("reading the weights"):
            rows = [
                {"field": key, "value": value} for key, value in _sizes(models.describe_model(what))
            ]
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
    found += [
        (key, value)
        for key in ("temperature", "logit_scale")
        if (value := getattr(file, key)) is not None
    ]
    for number, entry in enumerate(file.history, 1):
        found += _told(
            f"{number} {entry['command']}",
            {key: value for key, value in entry.items() if key != "command"},
        )
    return [{"field": field, "value": value} for field, value in found]


def _read(features: Any) -> int:
    """Bytes of features that were read, and so checked, to the last."""
    return sum(block.nbytes for block in features.iter_blocks())


def _shape(array: Any) -> str:
    return " x ".join(map(str, array.shape))


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f", ... ({len(names) - 5} more)" if len(names) > 5 else "")


def _told(at: str, entry: dict[str, Any]) -> list[tuple[str, str]]:
    """One line for what an entry of the history says itself, and one for each group of things within it."""
    plain = {key: value for key, value in entry.items() if not isinstance(value, dict)}
    found = (
        [(at, ", ".join(f"{key} {_value(value)}" for key, value in plain.items()))] if plain else []
    )
    for key in entry.keys() - plain.keys():
        found += _told(f"{at} {key}", entry[key])
    return sorted(found)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "[" + _some([_value(item) for item in value]) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _sizes(found: dict[str, Any], at: str = "") -> list[tuple[str, Any]]:
    """A model's sizes, those of a tower under the tower's name."""
    rows = []
    for key, value in found.items():
        name = f"{at} {key}".strip()
        rows += _sizes(value, name) if isinstance(value, dict) else [(name, value)]
    return rows
