"""Rows that depend on each other, as an attribute of a file says: their clusters."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from clipkit.base import console, suggestions
from clipkit.base.errors import UsageError
from clipkit.base.matrices import Int64
from clipkit.features.annotations import CLASS, TABLE_HINT, Annotations, Attribute, read_attribute
from clipkit.features.arguments import Features, Several, as_file, as_list, checked
from clipkit.features.attribute_tables import Table
from clipkit.features.clusters import fill_clusters, has_clusters
from clipkit.features.draws import number_groups
from clipkit.features.history import History
from clipkit.features.matching import choose_splits
from clipkit.features.model import FeatureFile
from clipkit.statistics import metrics
from clipkit.statistics.dependence import FEW, unless_separate

CLUSTER = "cluster"  # what messages call the clusters of a file
OF_FILE = "file"  # the source of clusters that no table names


@checked
def read_clusters(
    file: Features,
    table: Table | None,
    column: str | None,
    splits: Several[str] | None = None,
    *,
    common: bool = False,
) -> Annotations | None:
    """Read the attribute `column` of the rows of some splits or all.

    Without a column, the file says which rows belong together; None if it does not. This is the
    only place where a question learns the clusters of its rows.
    """
    file, splits = as_file(file, "file"), as_list(splits, "splits", str)
    if column is None:
        return _clusters_of(*choose_splits(file, splits))
    if table is None and column != CLASS:
        given = suggestions.command("--cluster", column)
        raise UsageError(f"expected --table for {given}, got none", TABLE_HINT)
    file, names = choose_splits(file, splits)
    rows = replace(file, splits={name: file.splits[name] for name in names})
    return read_attribute(rows, table, column, categories=False, common=common)


def _clusters_of(file: FeatureFile, splits: Sequence[str]) -> Annotations | None:
    """Return the clusters that a file has of some splits as an attribute; None if it has none."""
    if not has_clusters({name: file.splits[name] for name in splits}):
        return None
    filled = fill_clusters(file.splits)
    codes = {}
    for name in splits:
        numbers = filled[name].cluster
        assert numbers is not None  # they are filled
        codes[name] = numbers
    return Annotations([Attribute(CLUSTER, [], codes)], OF_FILE)


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

    Without one, they are those of the file. With `common`, a row that the table lacks is a cluster
    alone.
    """
    if column is None and table is not None:
        raise UsageError("expected --cluster for --table, got none")
    used = replace(file.splits[split], features=None).take(rows)
    annotations = read_clusters(replace(file, splits={split: used}), table, column, common=common)
    if annotations is None:
        return RowClusters(None, {}, {})
    (attribute,) = annotations.attributes
    where = f"{file.display_name}: {split}: {attribute.name}"
    numbers = number_clusters(attribute.codes[split], where, _least(annotations))
    return RowClusters(numbers, _recorded(annotations), annotations.inputs)


def own_clusters(file: FeatureFile, split: str, rows: Int64 | None = None) -> Int64 | None:
    """Return the clusters (N,) that the file has of some rows of a split, all by default.

    None if no row depends on another one.
    """
    if rows is None:
        rows = np.arange(len(file.splits[split]))
    numbers = find_clusters(file, split, rows, None, None).numbers
    return None if numbers is None else unless_separate(numbers)


def _least(annotations: Annotations) -> int:
    """Return the number of clusters that are needed: rows of a file may all be in one."""
    return 1 if annotations.source == OF_FILE else 2


def _recorded(annotations: Annotations) -> dict[str, str]:
    """Return what a history says of clusters: nothing if the file has them itself."""
    if annotations.source == OF_FILE:
        return {}
    return {"cluster": annotations.attributes[0].name, "attributes": annotations.source}


def number_clusters(codes: Int64, where: str, least: int = 2) -> Int64:
    """Return the cluster (N,) of each row, from 0; a row without a value (-1) is one alone.

    Fewer than `least` clusters are refused.
    """
    clusters = number_groups(codes, least, where)
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
    how = () if attribute == CLUSTER else ("--attribute", attribute)
    if shared:
        console.warn(
            f"{where}: {shared:,} clusters were also fitted, so that others may be predicted "
            f"worse; hint: keep them together with {suggestions.command('clipkit', 'split', *how)}"
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
        else:  # rows of the fitted split were held out, and clusters of the file kept together
            scored, fitted = _divide(codes[fit_split], file.splits[fit_split].ids, split.ids)
            if annotations.source == OF_FILE:
                fitted = np.empty(0, np.int64)
        clusters = number_clusters(scored, where, _least(annotations))
        split.cluster = unless_separate(clusters)
        if name != fit_split:
            _warn_of_fitted(scored, fitted, where, attribute.name)
        on_split = result.numbers_on(name)
        runs["clusters"][on_split] = clusters.max() + 1
        assert split.predicted is not None
        for run, predicted in zip(on_split, split.predicted, strict=True):
            for column, value in metrics.scores(split.labels, predicted, none, clusters).items():
                runs[column][run] = value
    inputs = {**entry.inputs, **annotations.inputs}
    last = {**entry, **_recorded(annotations), "inputs": inputs}
    history = History([*result.history[:-1], last])
    return replace(result, runs=runs, history=history)
