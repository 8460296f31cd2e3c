"""Count rows with the same value of an attribute together, such as the images of a patient."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from clipkit.analysis import metrics
from clipkit.base import console
from clipkit.base.errors import UsageError
from clipkit.features.annotations import CLASS, Annotations, read_attribute
from clipkit.features.history import History
from clipkit.features.matching import choose_splits
from clipkit.features.model import FeatureFile, Int64
from clipkit.features.splitting import number_groups

FEW = 30  # clusters, with which intervals hold the true value less often than in 95 % of draws


def read_clusters(
    file: FeatureFile,
    table: str | None,
    column: str | None,
    splits: Sequence[str] | None = None,
    *,
    common: bool = False,
) -> Annotations | None:
    """Read the attribute `column` of the rows of some splits or all; None without a column."""
    if column is None:
        return None
    if table is None and column != CLASS:
        raise UsageError(f"expected --table for --cluster {column}, got none")
    file, names = choose_splits(file, splits)
    rows = replace(file, splits={name: file.splits[name] for name in names})
    return read_attribute(rows, table, column, categories=False, common=common)


def number_clusters(codes: Int64, where: str) -> Int64:
    """Return the cluster (N,) of each row, from 0; a row without a value (-1) is one alone."""
    clusters = number_groups(codes, 2, where)
    count = int(clusters.max()) + 1
    if count < FEW:
        console.note(f"{where}: {count} clusters are few: intervals may be too narrow")
    return clusters


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


def count_by_cluster(
    result: FeatureFile, file: FeatureFile, annotations: Annotations | None
) -> FeatureFile:
    """Return a result of `probe` or `zeroshot` with intervals over another draw of clusters.

    See `metrics.effective_rows`. The column `clusters` has their number. `annotations` are of the
    file that the result was made from; without them, the result is returned as it is. A warning
    says if a probe was fitted on clusters that are scored.
    """
    if annotations is None:
        return result
    (attribute,) = annotations.attributes
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
