"""Measure which values of attributes the errors of a result keep, and which they change."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clipkit.analysis import results
from clipkit.analysis.results import Predictions, Row
from clipkit.base import console
from clipkit.base.errors import ClipkitError, unknown
from clipkit.base.matrices import Int64
from clipkit.features.annotations import Attribute, read_annotations
from clipkit.features.arguments import Features, Several, as_file, as_list, checked
from clipkit.features.attribute_tables import Table
from clipkit.features.matching import choose_split
from clipkit.features.model import FeatureFile
from clipkit.statistics import metrics
from clipkit.statistics.shared_errors import (
    Changes,
    Kept,
    SharedError,
    code_values,
    kept_values,
    largest_changes,
    shared_error,
    words_of_names,
)

OF_NAMES = "names"  # the source of values that are words of class names
BUNDLED = "shapes"  # the data set that has its own table of attributes
NO_ERRORS = Kept(math.nan, math.nan, math.nan)


@checked
def measure(
    result: Features,
    *,
    table: Table | None = None,
    columns: Several[str] = (),
    split: str | None = None,
    run: int | None = None,
    common: bool = False,
    seed: int = 42,
) -> FeatureFile:
    """Measure what the errors of a result keep: what `clipkit mistakes` reports.

    Parameters
    ----------
    result : Features
        Of `probe`, `zeroshot` or `predict`, with labels.
    table : Table, optional
        Attributes of the images. By default those of ``shapes`` if they are its images, else the
        words of class names.
    columns : str or sequence of str, optional
        Attributes to use, by default all that the images of each class share.
    split : str, optional
        By default test, else the first.
    run : int, optional
        By default the most accurate.
    common : bool
        Whether images may have no line in the table.
    seed : int
        Random seed of the permutations.

    Raises
    ------
    ClipkitError
        If the images of each class share no attribute.
    """
    result, columns = as_file(result, "result"), as_list(columns, "columns", str)
    scored = results.predictions(result, split, run)
    result, split = choose_split(result, split)
    found = read_values(result, split, scored, table, columns, common=common)
    caveats = results.caveats(result, split)
    if not results.is_testable(caveats):
        console.warn(results.untestable(result, split))
    rows = _rows(scored, split, found, is_testable=results.is_testable(caveats), seed=seed)
    history = result.extended_history(
        "mistakes",
        attributes=found.source,
        column=list(columns) or None,
        split=split,
        run=run,
        common=common or None,
        seed=seed,
        inputs={"result": result.digest, **found.inputs},
    )
    return results.make_result(history, rows)


class ClassValues(NamedTuple):
    """The value (C,) that the images of each class have, by attribute, and where it is from.

    `classes` (C,) are the numbers of the classes that have images. `inputs` has the digest of a
    table.
    """

    values: dict[str, list[str]]
    classes: Int64
    source: str
    inputs: dict[str, str]

    def counts(self, scored: Predictions) -> Int64:
        """Return the images of each class (C) that are predicted as each class (C)."""
        return np.asarray(results.count(scored).counts)[np.ix_(self.classes, self.classes)]


def read_values(
    result: FeatureFile,
    split: str,
    scored: Predictions,
    table: Table | None,
    columns: Sequence[str] = (),
    *,
    common: bool = False,
) -> ClassValues:
    """Return the values of classes: of a table or, without one, those that the images bring.

    An attribute is left out if it differs among the images of a class.
    """
    if table is not None:
        found, differing = _values_of_table(result, split, scored, table, columns, common=common)
        if differing:
            names = results.join_names(differing)
            console.note(f"left out {names}: images of one class differ in it")
        return found
    found = own_values(result, split, scored)
    if not code_values(found.values):
        raise ClipkitError(
            f"{result.display_name}: the class names have no words in common",
            "name a table of attributes with --table",
        )
    for name in columns:
        if name not in found.values:
            raise unknown("attribute", name, [*found.values])
    return found._replace(values={name: found.values[name] for name in columns or found.values})


def own_values(result: FeatureFile, split: str, scored: Predictions) -> ClassValues:
    """Return the values of classes: of a bundled table or, of other images, the words of names."""
    if result.history.dataset_names == [BUNDLED]:
        with contextlib.suppress(ClipkitError):  # a folder of other images may have the same name
            return _values_of_table(result, split, scored, BUNDLED)[0]
    classes = np.unique(scored.labels)
    names = [scored.class_names[label] for label in classes]
    return ClassValues(words_of_names(names), classes, OF_NAMES, {})


def _values_of_table(
    result: FeatureFile,
    split: str,
    scored: Predictions,
    table: Table,
    columns: Sequence[str] = (),
    *,
    common: bool = False,
) -> tuple[ClassValues, list[str]]:
    """Return the values that images of a class share, and the attributes in which they differ."""
    annotations = read_annotations(result, table, columns, splits=[split], common=common)
    values, differing = {}, []
    for attribute in annotations.attributes:
        if attribute.is_class:
            continue
        of_classes = _values_of_classes(attribute, scored.labels, attribute.codes[split])
        if of_classes is None:
            differing.append(attribute.name)
        else:
            values[attribute.name] = of_classes
    usable = code_values(values)
    if not usable:
        raise ClipkitError(
            f"{result.display_name}: expected an attribute that the images of a class share, and "
            "several classes, got none",
            "clipkit compare RESULT --table TABLE --attribute NAME has the accuracy by value",
        )
    classes = np.unique(scored.labels)
    values = {name: values[name] for name in usable}
    return ClassValues(values, classes, annotations.source, dict(annotations.inputs)), differing


def find_shared_error(
    result: FeatureFile, split: str, scored: Predictions, table: Table | None = None
) -> SharedError | None:
    """Return the change of an attribute's value that errors share; see `shared_error`.

    The attributes are those of a table or, without one, those that the images bring.
    """
    if table is None:
        found = own_values(result, split, scored)
    else:
        found = read_values(result, split, scored, table)
    return shared_error(found.counts(scored), found.values)


def _values_of_classes(attribute: Attribute, labels: Int64, codes: Int64) -> list[str] | None:
    """Return the value of each class that has images; None if one has several, or none."""
    values = []
    for label in np.unique(labels):
        found = np.unique(codes[labels == label])
        found = found[found >= 0]
        if len(found) != 1:
            return None
        values.append(attribute.values[int(found[0])])
    return values


def _rows(
    scored: Predictions, split: str, found: ClassValues, *, is_testable: bool, seed: int
) -> list[Row]:
    """Return a row for each attribute."""
    counts = found.counts(scored)
    kept = kept_values(counts, found.values, seed)
    changes = largest_changes(counts, found.values, seed)
    is_error = ~scored.right & np.isin(scored.predicted, found.classes)
    true, predicted = (
        np.searchsorted(found.classes, of_images[is_error])
        for of_images in (scored.labels, scored.predicted)
    )
    clusters = None if scored.clusters is None else scored.clusters[is_error]
    rows: list[Row] = []
    for name, (distinct, code) in code_values(found.values).items():
        row: Row = {"split": split, "attribute": name, "values": len(distinct)}
        row["errors"] = len(true)
        if clusters is not None:
            row["clusters"] = len(np.unique(clusters))
        row |= metrics.share("kept", code[true] == code[predicted], clusters)
        of_name = kept.get(name, NO_ERRORS)
        row |= {"chance": of_name.chance, "p": of_name.p}
        if not is_testable:
            row |= dict.fromkeys(("kept_low", "kept_high", "p"), math.nan)
        for end in ("", "_low", "_high"):
            row[f"difference{end}"] = row[f"kept{end}"] - row["chance"]
        rows.append(row | _largest(changes.get(name)))
    if is_testable and len(true):
        corrected = metrics.holm(results.column(rows, "p")).tolist()
        rows = [row | {"p": p} for row, p in zip(rows, corrected, strict=True)]
    return rows


def _largest(change: Changes | None) -> Row:
    """Return the columns of the largest change of a value; empty without any."""
    if change is None:
        counted = dict.fromkeys(("images", "of", "classes_with", "classes"), 0)
        return {"value": "", "predicted": "", **counted, "change_p": 1.0}
    error = change.error
    return {
        "value": error.true,
        "predicted": error.predicted,
        "images": error.images,
        "of": error.of,
        "classes_with": error.classes_with,
        "classes": error.classes,
        "change_p": change.p,
    }
