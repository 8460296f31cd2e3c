"""Rows that depend on each other, as an attribute of a file says: their clusters."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from clipkit.base import console
from clipkit.base.errors import UsageError
from clipkit.base.matrices import Int64
from clipkit.features.annotations import CLASS, Annotations, read_attribute
from clipkit.features.arguments import Features, Several, as_file, checked
from clipkit.features.attribute_tables import Table
from clipkit.features.draws import number_groups
from clipkit.features.history import History
from clipkit.features.matching import choose_splits
from clipkit.features.model import FeatureFile
from clipkit.statistics import metrics
from clipkit.statistics.dependence import FEW, unless_separate


@checked
def read_clusters(
    file: Features,
    table: Table | None,
    column: str | None,
    splits: Several[str] | None = None,
    *,
    common: bool = False,
) -> Annotations | None:
    """Read the attribute `column` of the rows of some splits or all; None without a column."""
    file = as_file(file, "file")
    if column is None:
        return None
    if table is None and column != CLASS:
        raise UsageError(f"expected --table for --cluster {column}, got none")
    file, names = choose_splits(file, splits)
    rows = replace(file, splits={name: file.splits[name] for name in names})
    return read_attribute(rows, table, column, categories=False, common=common)


class RowClusters(NamedTuple):
    """The clusters (N,) of some rows, or None, and what a history records of them."""

    numbers: Int64 | None
    entry: dict[str, str]
    inputs: dict[str, str]


def find_clusters(
    file: FeatureFile,
    split: str,
    rows: Int64,
    table: Table | None,
    column: str | None,
    *,
    common: bool = False,
) -> RowClusters:
    """Return the clusters of some rows (N,) of a split by an attribute, if one is named.

    With `common`, a row that the table lacks is a cluster alone.
    """
    if column is None:
        if table is not None:
            raise UsageError("expected --cluster for --table, got none")
        return RowClusters(None, {}, {})
    used = replace(file.splits[split], features=None).take(rows)
    annotations = read_clusters(replace(file, splits={split: used}), table, column, common=common)
    assert annotations is not None  # there is a column
    where = f"{file.display_name}: {split}: {column}"
    numbers = number_clusters(annotations.attributes[0].codes[split], where)
    entry = {"cluster": column, "attributes": annotations.source}
    return RowClusters(numbers, entry, annotations.inputs)


def number_clusters(codes: Int64, where: str) -> Int64:
    """Return the cluster (N,) of each row, from 0; a row without a value (-1) is one alone."""
    clusters = number_groups(codes, 2, where)
    note_few(clusters, where)
    return clusters


def note_few(clusters: Int64 | None, where: str) -> None:
    """Note clusters (N,), if any, that are too few or too unequal for an interval."""
    if clusters is None:
        return
    sizes = np.unique(clusters, return_counts=True)[1]
    equal = len(clusters) ** 2 / float((sizes**2).sum())
    if len(sizes) == 1:
        console.note(f"{where}: all rows are in one cluster: intervals say little")
    elif len(sizes) < FEW:
        console.note(f"{where}: {len(sizes)} clusters are few: intervals may be too narrow")
    elif equal < FEW:
        console.note(
            f"{where}: {len(sizes)} clusters of unequal size are as few as {equal:.0f} of one "
            "size: intervals say little"
        )


def _divide(codes: Int64, ids: Sequence[str], scored: Sequence[str]) -> tuple[Int64, Int64]:
    """Return the codes of the scored ids, in their order, and those of the other rows."""
    code_of = dict(zip(ids, codes.tolist(), strict=True))
    of_scored = [code_of[row_id] for row_id in scored]
    of_others = [code_of[row_id] for row_id in code_of.keys() - set(scored)]
    return np.array(of_scored), np.array(of_others, np.int64)


def _warn_of_fitted(scored: Int64, fitted: Int64, where: str, attribute: str) -> None:
    """Warn of clusters with scored and with fitted rows; -1 is a row without a cluster."""
    shared = len(set(scored.tolist()).intersection(fitted.tolist()) - {-1})
    if shared:
        console.warn(
            f"{where}: {shared:,} clusters were also fitted, so that others may be predicted "
            f"worse; hint: keep them together with clipkit split --attribute {attribute}"
        )


@checked
def count_by_cluster(
    result: Features, file: Features, annotations: Annotations | None
) -> FeatureFile:
    """Return a result of `probe` or `zeroshot` with intervals over another draw of clusters.

    See `metrics.effective_rows`. The column `clusters` has their number. `annotations` are of the
    file that the result was made from; without them, the result is returned as it is. A warning
    says if a probe was fitted on clusters that are scored.
    """
    result, file = as_file(result, "result"), as_file(file, "file")
    if annotations is None:
        return result
    (attribute,) = annotations.attributes
    result = replace(result, splits={name: replace(one) for name, one in result.splits.items()})
    entry, runs = result.history[-1], copy.deepcopy(result.runs)
    runs["clusters"] = np.zeros(result.run_count, np.int64)
    codes, fit_split = attribute.codes, str(entry.get("fit_split"))
    none = len(result.class_names or []) - 1 if "coverage" in runs else None  # the last class
    for name, split in result.splits.items():
        where = f"{file.display_name}: {name}: {attribute.name}"
        if name in codes:
            scored, fitted = codes[name], codes.get(fit_split, np.empty(0, np.int64))
        else:  # rows of the fitted split were held out
            scored, fitted = _divide(codes[fit_split], file.splits[fit_split].ids, split.ids)
        clusters = number_clusters(scored, where)
        split.cluster = unless_separate(clusters)
        if name != fit_split:
            _warn_of_fitted(scored, fitted, where, attribute.name)
        on_split = result.numbers_on(name)
        runs["clusters"][on_split] = clusters.max() + 1
        assert split.predicted is not None
        for run, predicted in zip(on_split, split.predicted, strict=True):
            for column, value in metrics.scores(split.labels, predicted, none, clusters).items():
                runs[column][run] = value
    recorded = {"cluster": attribute.name, "attributes": annotations.source}
    inputs = {**entry.inputs, **annotations.inputs}
    history = History([*result.history[:-1], {**entry, **recorded, "inputs": inputs}])
    return replace(result, runs=runs, history=history)
