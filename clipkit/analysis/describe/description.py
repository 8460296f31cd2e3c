"""Describe groups of images by the prompts whose cosines differ most between a group and the rest.

For each prompt, t is Welch's: the difference of the mean cosines over its standard error. Many
prompts and groups are tried, so the largest |t| of the whole table is compared with the largest
when the rows are permuted, which keeps the correlations of the prompts (Westfall and Young 1993).
Rows that depend on each other are permuted together. Clusters are made from the images themselves,
so that prompts separate them in any case: there is no test.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from clipkit.analysis.controls import (
    Controls,
    check_controls,
    control_digests,
    mean_of_controls,
)
from clipkit.analysis.results import (
    Row,
    caveats,
    describe_caveat,
    join_names,
    labels_of,
    make_result,
    newest_entry,
)
from clipkit.analysis.row_clusters import find_clusters
from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.base.matrices import Floats, Int64
from clipkit.features import matching
from clipkit.features.annotations import read_attribute
from clipkit.features.arguments import Features, as_file, checked
from clipkit.features.attribute_tables import Table
from clipkit.features.compatibility import check_same_prompts, matching_split
from clipkit.features.matching import choose_split
from clipkit.features.model import FeatureFile
from clipkit.statistics import metrics
from clipkit.statistics.dependence import critical, p_of, permute
from clipkit.statistics.metrics import falling_order

PERMUTATIONS = 300
MADE_OF_IMAGES = "the groups are made from these images"
LEAST_ROWS = 10  # of a group, and of the rest: a variance of few rows makes any t large
ROUNDING = 1e-5  # relative difference of equal t, since sums are float32
LEAST_ERROR = 1e-9  # below what float32 resolves, so that the cosines are all equal


class Groups(NamedTuple):
    """G groups of the rows of a split."""

    names: list[str]
    codes: Int64  # (N,), the group of each row; -1 for rows that are left out; G for others
    source: dict[str, Any]  # for the history
    inputs: dict[str, str]
    untested: str = ""  # why there is no test


@checked
def describe(  # noqa: PLR0913 (the options of `clipkit describe`)
    logits: Features,
    *,
    table: Table | None = None,
    column: str | None = None,
    result: Features | None = None,
    run: int | None = None,
    split: str | None = None,
    common: bool = False,
    controls: Controls = (),
    top: int = 5,
    permutations: int = PERMUTATIONS,
    seed: int = 42,
    cluster: str | None = None,
) -> FeatureFile:
    """Describe groups of images by prompts: what `clipkit describe` reports.

    The groups are the values of an attribute (`table` and `column`, by default the classes), or the
    clusters or errors of a `run` of a `result`; `run` may be left out if the result has a single
    run. With `common`, images that the table lacks, and predictions of other images, are left out.
    `controls` have the logits of the same images and prompts by untrained models. Each group
    has `top` prompts, those with the largest |t|. The rows of the split are permuted `permutations`
    times, with `seed`; those with the same value of the attribute `cluster` of `table` together.

    Returns
    -------
    FeatureFile
        A result with a run for each group and prompt: `split`, `group`, `rows` of the group,
        `prompt`, `difference` of the mean cosines of the group and the rest, `t`, `p_adjusted`, the
        share of permutations (with the observed order) where the largest |t| of any prompt and
        group is as large, `p_min`, the smallest that it can be, and `t_null95`, above which p is at
        most 5 %. For clusters of a result, these are NaN, and `untested` says why; with `cluster`,
        `clusters` is their number. `difference_control` and `t_control`
        are the means of the controls for the same prompts; of several, also with their range
        (`_low`, `_high`).
    """
    logits, result = as_file(logits, "logits"), as_file(result, "result")
    if top < 1 or permutations < 1:
        raise UsageError(f"expected at least 1, got top {top}, permutations {permutations}")
    logits, split = choose_split(logits, split)
    if result is not None:
        groups = _of_result(logits, split, result, run, common)
    else:
        # a table that names clusters alone leaves the classes
        by = table if column is not None or cluster is None else None
        annotations = read_attribute(logits, by, column, splits=[split], common=common)
        (attribute,) = annotations.attributes
        source = {"attributes": annotations.source, "column": attribute.name}
        groups = Groups(attribute.values, attribute.codes[split], source, annotations.inputs)
    used = np.flatnonzero(groups.codes >= 0)
    clustered_by = table if cluster else None
    clusters = find_clusters(logits, split, used, clustered_by, cluster, common=common)
    groups = _without_small(groups, clusters.numbers)
    untrained = check_controls(controls, logits, [split])
    of_controls = []
    for control in untrained:
        check_same_prompts(logits, control.images)
        of_controls.append(Means(control.images, split, groups, clusters.numbers).compare())
    means = Means(logits, split, groups, clusters.numbers)
    differences, t = means.compare()
    largest = np.full(permutations, np.nan)
    if not groups.untested:
        largest = means.largest_by_chance(permutations, seed, clusters.numbers)
    texts = logits.texts or []
    rows: list[Row] = []
    for group, name in enumerate(groups.names):
        for prompt in falling_order(np.abs(t[group]))[:top].tolist():
            place = group, prompt
            row: Row = {"split": split, "group": name, "rows": int(means.counts[group])}
            if clusters.numbers is not None:
                row["clusters"] = int(clusters.numbers.max()) + 1
            row |= {"prompt": texts[prompt], "difference": float(differences[place])}
            row |= {"t": float(t[place])} | _test(float(t[place]), largest, groups.untested)
            row |= mean_of_controls("difference_control", [both[0][place] for both in of_controls])
            row |= mean_of_controls("t_control", [both[1][place] for both in of_controls])
            rows.append(row)
    inputs = {"logits": logits.digest, **groups.inputs, **clusters.inputs}
    history = logits.extended_history(
        "describe",
        split=split,
        common=common or None,
        **(groups.source | clusters.entry),
        top=top,
        permutations=permutations,
        seed=seed,
        inputs=inputs | control_digests(untrained),
    )
    return make_result(history, rows)


def _test(t: float, largest: Floats, untested: str) -> Row:
    """Return the test of t against the largest |t| of permutations, or why there is none."""
    if untested:
        return {"t_null95": np.nan, "p_adjusted": np.nan, "p_min": np.nan, "untested": untested}
    p = p_of(largest, abs(t), abs(t) * ROUNDING)
    return {"t_null95": critical(largest), "p_adjusted": p, "p_min": 1 / (len(largest) + 1)}


# ---- Groups --------------------------------------------------------------------------------------


def _of_result(
    logits: FeatureFile, split: str, result: FeatureFile, run: int | None, common: bool
) -> Groups:
    """Return the clusters of a result, or its errors, for the rows of a split."""
    if not result.splits:
        maker = newest_entry(result).command
        message = f"{result.display_name}: expected predictions or clusters of images, got none"
        raise ClipkitError(
            message, f"a result of {maker} has none; name one of zeroshot or cluster"
        )
    its_split = matching_split(result, logits, split)
    if its_split is None:
        raise ClipkitError(
            f"{result.display_name}: expected the {split} images of {logits.display_name}, got "
            f"{', '.join(result.splits)}",
            "choose the same split for both commands with --split",
        )
    scored = result.splits[its_split]
    predictions, images = matching.Rows.of(result, its_split), matching.Rows.of(logits, split)
    rows = matching.match(predictions, images, "image", common=common)
    is_known = rows >= 0
    is_described = np.isin(np.arange(len(images.ids)), rows)
    without = np.where(is_described, 0, -1)
    matching.check_partners(images, predictions, without, "prediction", common=True)
    assert scored.predicted is not None  # a result's split without predictions is invalid
    predicted = scored.predicted[_choose_run(result.display_name, len(scored.predicted), run)]
    if result.holds_clusters:
        kind, codes_of_scored = "clusters", predicted
        names = [f"cluster {number}" for number in range(int(predicted.max()) + 1)]
    else:
        kind, names = "errors", ["errors"]
        codes_of_scored = (predicted == labels_of(result, its_split)).astype(np.int64)
    codes = np.full(len(logits.splits[split]), -1, np.int64)
    codes[rows[is_known]] = codes_of_scored[is_known]
    known = caveats(result, its_split)
    for caveat in known:
        console.warn(f"{result.display_name}: {describe_caveat(caveat)}")
    source = {"groups": kind, "run": run, "caveats": known or None}
    untested = MADE_OF_IMAGES if result.holds_clusters else ""
    if untested:
        console.note(f"{result.display_name}: no p and no null of t: {untested}")
    return Groups(names, codes, source, {"result": result.digest}, untested)


def _choose_run(name: str, count: int, run: int | None) -> int:
    """Return the number of a run among `count`; without one, there must be a single run."""
    if run is None and count > 1:
        raise UsageError(
            f"{name}: expected one run, got {count}", f"choose with --run 0 to {count - 1}"
        )
    if run is None:
        return 0
    if not 0 <= run < count:
        raise UsageError(f"run: expected 0 to {count - 1}, got {run}")
    return run


def _without_small(groups: Groups, clusters: Int64 | None) -> Groups:
    """Leave out groups that are too small to compare, or that are nearly all rows.

    Rows of one of the `clusters` (N,) of the rows with a group count once.
    """
    used = groups.codes >= 0
    codes = groups.codes[used]
    if clusters is not None:
        codes = np.unique(np.stack([codes, clusters]), axis=1)[0]
    G = len(groups.names)
    counts = np.bincount(codes, minlength=G)[:G]
    is_kept = np.minimum(counts, len(codes) - counts) >= LEAST_ROWS
    if not is_kept.any():
        raise _too_small(groups, counts.tolist(), len(codes))
    if not is_kept.all():
        names = join_names([groups.names[group] for group in np.flatnonzero(~is_kept)])
        console.warn(f"left out {names}: fewer than {LEAST_ROWS} images in it, or outside it")
    kept = np.flatnonzero(is_kept)
    codes = np.where(used, len(kept), -1)
    for number, group in enumerate(kept):
        codes[groups.codes == group] = number
    return groups._replace(names=[groups.names[group] for group in kept], codes=codes)


def _too_small(groups: Groups, counts: list[int], total: int) -> ClipkitError:
    """Return the error for groups that are all too small, or too large, with the best of them."""
    best = max(range(len(counts)), key=lambda group: min(counts[group], total - counts[group]))
    got = f"{counts[best]:,} of {total:,} in {groups.names[best]!r}"
    message = f"expected a group of at least {LEAST_ROWS} images and as many others, got {got}"
    hint = "name an attribute with fewer values, or embed more images"
    if groups.source.get("groups") == "errors":
        message = f"expected at least {LEAST_ROWS} errors and as many other images, got {got}"
        hint = "score more images, such as another --split"
    return ClipkitError(message, hint)


# ---- Means ---------------------------------------------------------------------------------------


class Means:
    """Compare the mean cosines of groups with K prompts to the means of all other rows.

    Of rows in `clusters` (N,), there are as many as clusters of one size would tell as much.
    """

    def __init__(
        self, logits: FeatureFile, split: str, groups: Groups, clusters: Int64 | None = None
    ) -> None:
        self.weight = metrics.effective_share(
            np.ones(np.count_nonzero(groups.codes >= 0)), clusters
        )
        cosines = np.asarray(logits.cosines(split))[groups.codes >= 0]
        centred = cosines - cosines.mean(axis=0, dtype=np.float64).astype(np.float32)
        self.values = np.hstack([centred, centred**2])  # (N, 2 K)
        self.totals = self.values.sum(axis=0, dtype=np.float64)
        self.codes = groups.codes[groups.codes >= 0]
        self.counts = np.bincount(self.codes, minlength=len(groups.names))[: len(groups.names)]

    def compare(
        self, sums: Floats | None = None, counts: Int64 | None = None
    ) -> tuple[Floats, Floats]:
        """Return the differences (G, K) of mean cosines between groups and the rest, and t.

        `sums` (G, 2 K) and `counts` (G,) are of other groups, by default of these groups. t is 0
        for a prompt with equal cosines, and for a group of one row or of all but one.
        """
        if sums is None or counts is None:
            of_groups = [self.values[self.codes == group] for group in range(len(self.counts))]
            sums = np.stack([rows.sum(axis=0, dtype=np.float64) for rows in of_groups])
            counts = self.counts
        count, N = self.weight * counts[:, None], self.weight * len(self.codes)
        sums, totals = self.weight * sums, self.weight * self.totals
        mean, variance = _moments(sums, np.maximum(count, 2))
        other_mean, other_variance = _moments(totals - sums, np.maximum(N - count, 2))
        is_small = np.minimum(count, N - count) < 2  # clusters may leave a group without rows
        variance = np.where(is_small, 0, variance)
        other_variance = np.where(is_small, 0, other_variance)
        error = np.sqrt(variance + other_variance)
        difference = mean - other_mean
        t = np.divide(difference, error, out=np.zeros_like(error), where=error > LEAST_ERROR)
        return difference, t

    def largest_by_chance(
        self, permutations: int, seed: int, clusters: Int64 | None = None
    ) -> Floats:
        """Return the largest |t| of all groups and prompts for each permutation of the rows.

        Rows of one of the `clusters` (N,) are permuted together.
        """
        from scipy import sparse

        generator = np.random.default_rng(seed)
        largest = np.empty(permutations)
        shape = (len(self.counts), len(self.codes))
        with console.progress("permuting rows", "permutations") as report_progress:
            for number in range(permutations):
                codes = self.codes[permute(generator, len(self.codes), clusters)]
                rows = np.flatnonzero(codes < len(self.counts))
                cells = (np.ones(len(rows), np.float32), (codes[rows], rows))
                counts = np.bincount(codes[rows], minlength=len(self.counts))
                _, t = self.compare(sparse.csr_array(cells, shape=shape) @ self.values, counts)
                largest[number] = np.abs(t).max()
                report_progress(number + 1, permutations)
        return largest


def _moments(sums: Floats, count: Int64) -> tuple[Floats, Floats]:
    """Return means (G, K) and their variances, from sums (G, 2 K) of values and of squares."""
    first, second = np.hsplit(sums, 2)
    variance = np.maximum(second - first**2 / count, 0) / (count - 1)
    return first / count, variance / count
