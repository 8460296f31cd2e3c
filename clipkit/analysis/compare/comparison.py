"""Compare results on the same images, as a whole or by group, and list the images that differ.

Two accuracies on the same images are not independent. All tests and intervals are therefore paired:
they depend on the images that only one of the two results gets right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipkit.analysis.compare.pairing import (
    describe_pairing,
    match_ids,
    name_files,
    same_split,
    warn_of_caveats,
)
from clipkit.analysis.relabeling import groups_digest
from clipkit.analysis.results import (
    RECALLS,
    Caveat,
    Row,
    caveats,
    chance,
    check_predicted_classes,
    check_run,
    class_names,
    column,
    holds_classes,
    is_retrieval,
    is_testable,
    labels_of,
    majority,
    make_result,
    newest_entry,
    read_groups,
    run_label,
    scored_runs,
)
from clipkit.analysis.row_clusters import note_few, number_clusters, read_clusters
from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError, unknown
from clipkit.base.matrices import Int64
from clipkit.features.annotations import TABLE_HINT, Annotations, Attribute, read_attribute
from clipkit.features.arguments import Features, Several, as_files, as_list, checked
from clipkit.features.attribute_tables import Table, open_table
from clipkit.features.compatibility import SAME_IDS, SAME_IMAGES, origin, relate
from clipkit.features.matching import choose_split
from clipkit.features.model import FeatureFile, Split
from clipkit.features.provenance import shots
from clipkit.statistics import main_number, metrics
from clipkit.statistics.dependence import (
    LEAST,
    join,
    paired_test,
    unless_separate,
    worst_group_null,
)

Bools = NDArray[np.bool_]

LISTS = ("only-a", "only-b", "neither")
OVERALL, GROUP, WORST = "all", "group", "worst"  # what a row is about: the column `scope`


@dataclass(frozen=True)
class PairedResults:
    """F results with the rows matched by id. Every column of `right` is one image."""

    names: list[str]  # from the results' files
    splits: list[str]  # the compared split of each
    first: FeatureFile  # the first result, with only the matched rows
    right: Bools  # (F, N): whether each result predicts the class of each image
    runs: list[str]  # the settings of each run, and how it was chosen among several
    entry: dict[str, Any]  # what a history records of the results; see `describe_pairing`
    inputs: dict[str, str]  # digests
    common: bool  # whether images that a result lacks may be left out
    images: str  # what rows of equal ids are: SAME_IMAGES or SAME_IDS
    caveats: list[list[Caveat]]  # see `results.caveats`
    clusters: Int64 | None  # (N,) of rows that depend on each other
    cluster_entry: dict[str, str]  # what a history records of them
    shots: list[int | None]  # see `provenance.shots`
    chances: list[float]  # see `results.chance`
    unequal: Int64 | None = None  # the labels (N,) of classes of unequal size

    @property
    def split(self) -> str:
        """The compared split of the first result."""
        return self.splits[0]

    def accuracy(self, number: int) -> tuple[float, float, float]:
        """Return the accuracy of a result with Wilson's interval; NaN if it is not testable."""
        right = self.right[number]
        share = float(right.mean())
        if not is_testable(self.caveats[number]):
            return share, np.nan, np.nan
        return share, *metrics.wilson(share, metrics.effective_rows(right, self.clusters))

    def recall(self, number: int) -> Row:
        """Return `recalls` of a result of unequal classes; nothing of equal ones."""
        if self.unequal is None:
            return {}
        right = self.right[number]
        recall = main_number.mean_recall(self.unequal, right, self.clusters)
        if not is_testable(self.caveats[number]):
            recall = recall._replace(low=np.nan, high=np.nan)
        return dict(zip(RECALLS, recall, strict=True)) | {
            main_number.MAJORITY: majority(self.unequal)
        }


@checked
def pair(
    results: Several[Features],
    split: str | None = None,
    runs: Several[int] = (),
    *,
    common: bool = False,
    same_rows: bool = False,
    table: Table | None = None,
    cluster: str | None = None,
) -> PairedResults:
    """Match the rows of results by their ids.

    A result that lacks the split is matched by rows from the same split of the data set, such as
    those that a probe held out.

    Parameters
    ----------
    results : Features, or F of them
        Of `probe` or `zeroshot`, with labels.
    split : str, optional
        `test` by default, else the first split of the first result.
    runs : int or sequence of int, optional
        The number of the run, from 0 among those on the split: one number for all results with
        several runs, or one for each result.
    common : bool
        Use only the images that all results have. Always so if the splits' names differ.
    same_rows : bool
        Match row numbers of different imports without ids.
    table : Table, optional
    cluster : str, optional
        A file of attributes of the images, or ``shapes``, and an attribute of it. Images with the
        same value are counted together (see `dependence.paired_test`), beside
        those that the results name: the captions of an image, the items that share one.

    Raises
    ------
    UsageError
        If there is no such split or run, or a result has several runs and none is chosen.
    ClipkitError
        If a result has no predicted classes or no labels, or if images or labels differ.
    """
    results = as_files(results, "results", "result")
    runs = as_list(runs, "runs", int)
    if not results:
        raise UsageError("results: expected a result or several, got none")
    for result in results:
        check_predicted_classes(result)
    _, split = choose_split(results[0], split)
    splits = [same_split(result, results[0], split, same_rows)[1] for result in results]
    numbers = _choose_runs(results, splits, runs)
    common = common or len(set(splits)) > 1  # a split was held out or divided
    orders = match_ids(results, splits, common)
    origins = list(map(origin, results, splits))
    has_same_ids = SAME_IDS in [relate(origins[0], one, same_rows=True) for one in origins[1:]]
    right = []
    chances = []
    described = []
    inputs = {}
    for number, result in enumerate(results):
        run, order = numbers[number], orders[number]
        scored = scored_runs(result, splits[number])
        check_run(scored, run)
        right.append((scored.predicted[run] == scored.labels)[order])
        chances.append(chance(scored.labels[order], scored.predicted[run][order]))
        _check_labels(results[0], result, (split, splits[number]), (orders[0], order))
        described.append(_describe_run(result, splits[number], run))
        inputs[f"b{number}" if number else "a"] = result.digest
    first = FeatureFile(
        "result",
        results[0].history,
        {split: results[0].splits[split].take(orders[0])},
        class_names=results[0].class_names,
        display_name=results[0].display_name,
    )
    unequal = None
    if holds_classes(results[0]):
        unequal = main_number.unless_equal(first.splits[split].labels)
    named = []
    for result, name, order in zip(results, splits, orders, strict=True):
        of_result = result.splits[name].cluster
        if of_result is not None:
            named.append(of_result[order])
    clusters, annotations = _cluster_rows(first, named, table, cluster, common)
    cluster_entry: dict[str, str] = {}
    if annotations is not None:
        cluster_entry = {"cluster": str(cluster), "by": annotations.source}
        inputs |= annotations.inputs
    return PairedResults(
        name_files(results, numbers),
        splits,
        first,
        np.stack(right),
        described,
        describe_pairing(results, splits, common=common, same_rows=same_rows),
        inputs,
        common,
        SAME_IDS if has_same_ids else SAME_IMAGES,
        [caveats(result, name) for result, name in zip(results, splits, strict=True)],
        clusters,
        cluster_entry,
        list(map(shots, results)),
        chances,
        unequal,
    )


def _cluster_rows(
    first: FeatureFile,
    named: Sequence[Int64],
    table: Table | None,
    cluster: str | None,
    common: bool,
) -> tuple[Int64 | None, Annotations | None]:
    """Return the clusters (N,) that keep those that results name and those of a table whole.

    The rows of an image belong together.
    """
    (split,) = first.splits
    where = f"{first.display_name}: {split}"
    images, source, image_of = _images(first, split)
    annotations = read_clusters(images, table, cluster, common=common)
    if annotations is None:
        clusters = unless_separate(join([image_of, *named]))
        note_few(clusters, where)
        return clusters, None
    codes = annotations.attributes[0].codes[source]
    of_table = number_clusters(codes, f"{where}: {cluster}")[image_of]
    return join([image_of, *named, of_table]), annotations


def _choose_runs(
    results: Sequence[FeatureFile], splits: Sequence[str], runs: Sequence[int]
) -> list[int]:
    """Return the number of each result's run: the given ones, one for all, or the only runs."""
    if len(runs) == len(results):
        return list(runs)
    counts = [len(scored_runs(*pair).predicted) for pair in zip(results, splits, strict=True)]
    if len(runs) == 1:
        # a result with one run needs no number, unless all have one
        return [runs[0] if count > 1 or max(counts) == 1 else 0 for count in counts]
    if runs:
        expected = f"one, or one for each of {len(results)} results"
        raise UsageError(f"run: expected {expected}, got {len(runs)}")
    if all(map(is_retrieval, results)):
        return _runs_of_retrieval(results, splits)
    for result, split, count in zip(results, splits, counts, strict=True):
        if count > 1:
            raise UsageError(
                f"{result.display_name}: expected one run on {split}, got {count}",
                f"choose with --run 0 to {count - 1}, or let probe --val choose",
            )
    return [0] * len(results)


def _runs_of_retrieval(results: Sequence[FeatureFile], splits: Sequence[str]) -> list[int]:
    """Return the runs at the smallest k that all results of `retrieve` have."""
    runs = [result.runs_on(split) for result, split in zip(results, splits, strict=True)]
    settings = [[(row["k"], row["candidates"]) for row in rows] for rows in runs]
    shared = sorted(set(settings[0]).intersection(*settings[1:]))
    if not shared:
        expected = "the same k and number of candidates in all results"
        raise ClipkitError(f"{results[-1].display_name}: expected {expected}")
    return [of_result.index(shared[0]) for of_result in settings]


def _describe_run(result: FeatureFile, split: str, run: int) -> str:
    """Return the settings of a run and, if there were several, how it was chosen."""
    scored = scored_runs(result, split)
    label = run_label(result, scored, run)
    on_split = len(scored.predicted)
    validated = [row for row in result.rows() if row.get("eval_split", split) != split]
    if on_split > 1 and not is_retrieval(result):
        label += f" (run {run} of {on_split}, chosen by number)"
    elif len(validated) > 1:
        label += f" (chosen on {validated[0]['eval_split']} among {len(validated)})"
    return label


def _check_labels(
    first: FeatureFile, other: FeatureFile, splits: tuple[str, str], orders: tuple[Int64, Int64]
) -> None:
    """Check that an image has the same class in two results, whatever the order of the classes."""
    classes: list[NDArray[Any]] = []
    for result, split, rows in zip((first, other), splits, orders, strict=True):
        labels = scored_runs(result, split).labels[rows]
        if first.class_names and other.class_names:
            labels = np.array(result.class_names)[labels]
        classes.append(labels)
    different = np.flatnonzero(classes[0] != classes[1])
    if len(different):
        row = different[0]
        row_id = first.splits[splits[0]].ids[orders[0][row]]
        raise ClipkitError(
            f"{first.display_name} and {other.display_name}: expected the same labels, got "
            f"{len(different):,} that differ: {row_id!r} is {classes[0][row]} and "
            f"{classes[1][row]}"
        )


def _images(first: FeatureFile, split: str) -> tuple[FeatureFile, str, Int64]:
    """Return a file with the ids of the images, its split, and the image (N,) of each row."""
    if not is_retrieval(first):
        return first, split, np.arange(len(first.splits[split]))
    source = str([*newest_entry(first).list_of("splits"), split][0])
    images = replace(first, splits={source: Split(ids=first.class_names or [])})
    return images, source, labels_of(first, split)


@checked
@console.progress("comparing results")
def compare(
    paired: PairedResults | Several[Features],
    *,
    by: Table | None = None,
    column: str | None = None,
    groups: str | None = None,
    seed: int = 42,
) -> FeatureFile:
    """Compare the first result with each of the others: what `clipkit compare` reports.

    Parameters
    ----------
    paired : PairedResults, or sequence of FeatureFile or paths
        Of one result or more. Files are paired as `pair` does by default.
    by : Table, optional
        A table of attributes, or ``shapes``, to compare within each value. Rows
        without a value are left out.
    column : str, optional
        The attribute of `by`; optional if there is only one. ``a*b`` combines two.
    groups : str, optional
        A file with lines of class TAB group, to compare within each group.
    seed : int
        Random seed of the permutations of `dependence.worst_group_null`.

    Returns
    -------
    FeatureFile
        A result with a row per pair: `a`, `b`, `split`, `rows`, with clusters also their number
        `clusters`, the accuracies `acc_a` and `acc_b`, their `difference` with `low` and `high`
        (see `dependence.paired_test`), `mde80`, the difference that the test would show with
        80 % power, the number of images that `both`,
        `only_a`, `only_b` or `neither` gets right, `p` of McNemar's exact test (see
        `dependence.paired_test_log10`) and its `log10_p`, with several pairs `p_holm` (Holm's
        correction for all rows), and `kappa` (see `metrics.error_consistency`). For one result:
        `acc_a` with Wilson's interval. Of unequal classes (see `main_number`), `metric` is
        `mean_per_class_recall`: the interval, and the difference with its test, are of the mean
        recalls `recall_a` and `recall_b`; see `main_number.paired_recall_test`. The interval,
        `mde80`, `p`, `log10_p` and `kappa` are empty if one of the two results is not
        `results.is_testable`.

        With groups, the rows of all images have the `scope` `all`. There follows a row per pair and
        `group`, with the scope `group`. For each result, a row of scope `worst` follows, with its
        worst group, that group's accuracy, and the median `null` and the 5th percentile `null5` of
        `dependence.worst_group_null`. A group without images is left out. NaN marks what does not
        apply.

    Raises
    ------
    UsageError
        If both `by` and `groups` are given, or there is no such attribute.
    ClipkitError
        If the table or the groups do not fit the results.
    """
    paired = as_paired(paired)
    if by is not None and groups is not None:
        raise UsageError("expected --table or --groups, got both")
    if column is not None and by is None:
        raise UsageError("expected --table for --attribute, got none", TABLE_HINT)
    inputs = dict(paired.inputs)
    recorded = dict(paired.cluster_entry)
    attribute = None
    if by is not None:
        attribute, annotations = _read_attribute(paired, by, column)
        recorded["by"] = annotations.source
        inputs |= annotations.inputs
    elif groups is not None:
        attribute, class_groups = _read_class_groups(paired, groups)
        inputs["groups"] = groups_digest(class_groups)
    named_caveats = warn_of_caveats(paired.names, paired.caveats)
    _note_no_power(paired)
    history = paired.first.extended_history(
        "compare",
        names=paired.names,
        **paired.entry,
        runs=paired.runs,
        **recorded,
        column=attribute.name if attribute else None,
        seed=seed,
        caveats=named_caveats or None,
        inputs=inputs,
    )
    rows = _pair_rows(paired) if attribute is None else _group_rows(paired, attribute)
    if paired.images == SAME_IDS:
        console.note(f"the results do not name one data set: {SAME_IDS} are compared")
    if len(paired.right) > 2:
        _add_holm(rows)
    elif len(paired.right) == 2 and len(rows) > 1:
        console.note(f"p is not corrected for the {len(rows)} comparisons")
    if attribute is not None:
        rows = _add_worst(rows, paired, attribute, seed)
    return make_result(history, rows)


def as_paired(paired: PairedResults | Several[Features]) -> PairedResults:
    """Return results that are paired, or pair files by default."""
    if isinstance(paired, PairedResults):
        return paired
    return pair(paired)


def _note_no_power(paired: PairedResults) -> None:
    """Note that few clusters decide no difference of two results."""
    if paired.clusters is None or len(paired.right) == 1:
        return
    count = len(np.unique(paired.clusters))
    if count < LEAST:
        console.note(f"{count} clusters decide no difference, since p is at least 2 / 2^{count}")


def _read_attribute(
    paired: PairedResults, by: Table, column: str | None
) -> tuple[Attribute, Annotations]:
    """Return the attribute of each compared row, and the table that it is from."""
    images, split, image_of = _images(paired.first, paired.split)
    annotations = read_attribute(images, open_table(by, "by"), column, common=paired.common)
    (attribute,) = annotations.attributes
    codes = {paired.split: attribute.codes[split][image_of]}
    return replace(attribute, codes=codes), annotations


def _read_class_groups(paired: PairedResults, path: str) -> tuple[Attribute, list[str]]:
    """Return the groups of the images' classes, and the group of each class."""
    labels = paired.first.splits[paired.split].labels
    assert labels is not None  # checked by `pair`
    class_groups = read_groups(path, class_names(paired.first, int(labels.max())))
    names, index = np.unique(class_groups, return_inverse=True)
    return Attribute("group", names.tolist(), {paired.split: index[labels]}), class_groups


def _pair_rows(paired: PairedResults, **group: str) -> list[Row]:
    """Return a row per result after the first or, for one result, the row of its accuracy."""
    head: Row = {"a": paired.names[0]}
    where = {"split": paired.split, **group}
    first, clusters = paired.right[0], paired.clusters
    if len(paired.right) == 1:
        accuracy, low, high = paired.accuracy(0)
        counts = count_rows(len(first), clusters)
        row = head | where | counts | {"acc_a": accuracy, "low": low, "high": high}
        if paired.unequal is not None:
            recall = paired.recall(0)
            value, low, high = (recall[name] for name in RECALLS[:3])
            row |= {"metric": RECALLS[0], "recall_a": value, "low": low, "high": high}
        return [row]
    rows = []
    for number, second in enumerate(paired.right[1:], 1):
        row = head | {"b": paired.names[number]} | where
        row |= compare_right(first, second, clusters, paired.unequal)
        if not is_testable(paired.caveats[0] + paired.caveats[number]):
            row |= dict.fromkeys(("low", "high", "mde80", "p", "log10_p", "kappa"), np.nan)
        rows.append(row)
    return rows


def count_rows(n: int, clusters: Int64 | None) -> Row:
    """Return the number of rows and, if they depend on each other, of their clusters."""
    return {"rows": n} if clusters is None else {"rows": n, "clusters": len(np.unique(clusters))}


def compare_right(
    first: Bools, second: Bools, clusters: Int64 | None = None, unequal: Int64 | None = None
) -> Row:
    """Compare which of N images, in clusters (N,), two results get right; see `compare`.

    With labels (N,) of unequal classes, it compares their mean recalls.
    """
    n = len(first)
    recalls: Row = {}
    if unequal is None:
        test = paired_test(first.astype(np.int64) - second, clusters)
    else:
        test = main_number.paired_recall_test(unequal, first, second, clusters)
        recalls["metric"] = main_number.RECALL_COLUMN
        for name, right in (("recall_a", first), ("recall_b", second)):
            predicted = np.where(right, unequal, -1)
            recalls[name] = metrics.mean_per_class_recall(unequal, predicted)
    both = int((first & second).sum())
    only_a = int((first & ~second).sum())
    only_b = int((second & ~first).sum())
    neither = n - both - only_a - only_b
    difference = (only_a - only_b) / n
    if recalls:
        difference = recalls["recall_a"] - recalls["recall_b"]
    return {
        **count_rows(n, clusters),
        **recalls,
        "acc_a": (both + only_a) / n,
        "acc_b": (both + only_b) / n,
        "difference": difference,
        "low": test.low,
        "high": test.high,
        "mde80": test.mde80,
        "both": both,
        "only_a": only_a,
        "only_b": only_b,
        "neither": neither,
        "p": 10**test.log10_p,
        "log10_p": test.log10_p,
        "kappa": metrics.error_consistency(both, only_a, only_b, neither),
    }


def _group_rows(paired: PairedResults, attribute: Attribute) -> list[Row]:
    """Return the rows of all images, then the rows of each group that has images."""
    codes = attribute.codes[paired.split]
    groups = np.unique(codes[codes >= 0])
    if not len(groups):
        raise ClipkitError(
            f"{paired.first.display_name}: {paired.split}: expected rows with a value of "
            f"{attribute.name}, got none"
        )
    rows = _pair_rows(paired, scope=OVERALL, group="")
    for group in groups:
        members = replace(paired, right=paired.right[:, codes == group])
        if paired.clusters is not None:
            members = replace(members, clusters=paired.clusters[codes == group])
        if paired.unequal is not None:
            members = replace(members, unequal=paired.unequal[codes == group])
        rows += _pair_rows(members, scope=GROUP, group=attribute.values[group])
    return rows


def _add_worst(
    rows: list[Row], paired: PairedResults, attribute: Attribute, seed: int
) -> list[Row]:
    """Return the rows of the groups, followed by the row of each result's worst group."""
    nulls = {"null": np.nan, "null5": np.nan}
    nothing: Row = dict.fromkeys([*rows[0], *nulls], np.nan)
    for name in {"a", "b", "metric"} & rows[0].keys():
        nothing[name] = ""
    rows = [row | nulls for row in rows]
    codes = attribute.codes[paired.split]
    has_group = codes >= 0
    present, index, sizes = np.unique(codes[has_group], return_inverse=True, return_counts=True)
    for number, (name, right) in enumerate(zip(paired.names, paired.right, strict=True)):
        counts = np.bincount(index, weights=right[has_group])
        worst = int(np.argmin(counts / sizes))
        share = metrics.effective_share(right, paired.clusters)
        independent = np.maximum(1, np.rint(share * sizes)).astype(np.int64)
        n_right = round(float(counts.sum() / sizes.sum() * independent.sum()))
        null = worst_group_null(independent, n_right, seed)
        result = "b" if number else "a"
        of_worst = {
            "split": paired.split,
            "scope": WORST,
            result: name,
            "group": attribute.values[present[worst]],
            "rows": int(sizes[worst]),
            f"acc_{result}": float(counts[worst] / sizes[worst]),
            "null": float(np.median(null)),
            "null5": float(np.percentile(null, 5)),
        }
        rows.append(nothing | of_worst)
    return rows


def _add_holm(rows: Sequence[Row]) -> None:
    """Add p with Holm's correction for all rows."""
    p = metrics.holm(column(rows, "p")).tolist()
    for row, corrected in zip(rows, p, strict=True):
        row["p_holm"] = corrected
        row["kappa"] = row.pop("kappa")  # p_holm follows p


def list_ids(paired: PairedResults, which: str) -> list[str]:
    """Return the ids of the images that only the first, only the second, or neither gets right.

    `which` is one of LISTS, and there must be two results.
    """
    if which not in LISTS:
        raise unknown("list", which, LISTS)
    if len(paired.right) != 2:
        raise UsageError(f"expected two results to list ids of, got {len(paired.right)}")
    a, b = paired.right
    listed = {"only-a": a & ~b, "only-b": b & ~a, "neither": ~a & ~b}[which]
    ids = paired.first.splits[paired.split].ids
    return [ids[row] for row in np.flatnonzero(listed)]
