"""Measure each attribute by words, by probes and by controls.

By default, all numbers are mean recalls per value. Chance is therefore 1 / K for K values, whatever
their frequencies. The values are those that occur in both the fitted and the scored rows. Rows with
other values are left out.

- `zeroshot` predicts the value with the most similar words. Nothing is fitted. For a generative
  model, it is the value that the model says: the answer with the highest next-token logit.
- `other_words` is the same with other texts of the file in the place of the words: their control.
  If the file has few, they are the neutral texts that `textembed` keeps beside such words.
- `names` is a probe on the cosines (or dot products) with those words.
- `random` is the same probe on as many random directions.
- `probe` is the probe on the whole embedding.
- `control` is that probe on the embedding of an untrained control.

- `given` is the recall of the probe within the values of another attribute, and `zeroshot_given`
  that of the words: of all attributes associated with it, the one with the least recall.

The probe is a logistic regression on standardised columns, with all values weighted equally. It
gives a lower bound of what the embedding encodes. Its recall grows with the number of rows to fit
on.

With other metrics (`score_metrics.METRICS`), labels of 0 and 1 are ranked by the similarity with
the words for 1, and by the probe's score. Numbers are predicted by a ridge regression.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipkit.analysis import results
from clipkit.analysis.class_scores import class_scores
from clipkit.analysis.controls import Controls, check_controls, control_digests
from clipkit.analysis.held_out import EVAL_SPLIT, FIT_SPLIT, SplitRows, choose_rows, find_shared
from clipkit.analysis.results import Row
from clipkit.analysis.row_clusters import own_clusters
from clipkit.base import console
from clipkit.base.bounds import MAX_CLASSES
from clipkit.base.errors import ClipkitError, UsageError, check_positive, shorten, unknown
from clipkit.base.matrices import BlockMatrix, Float32, Int64, row_blocks
from clipkit.base.names import positions
from clipkit.features import compatibility, similarity
from clipkit.features.annotations import CLASS, Annotations, Attribute, read_annotations
from clipkit.features.arguments import Features, Several, as_file, as_list, checked
from clipkit.features.attribute_tables import Table
from clipkit.features.draws import rows_by_class
from clipkit.features.model import FeatureFile, Split
from clipkit.features.provenance import prompts_entry
from clipkit.probes import sweeps
from clipkit.probes.classifiers import LOGREG, names_taking
from clipkit.probes.sweep_context import SharedRows
from clipkit.statistics import confounders
from clipkit.statistics.claims import ABOVE_CHANCE, FEWEST_OTHERS, LEVEL, NOT_DECIDED, group_of
from clipkit.statistics.dependence import p_of, permute
from clipkit.statistics.metrics import holm
from clipkit.statistics.score_metrics import METRICS, RANKED, RECALL, ridge

KEPT_DIRECTIONS = 8  # at most, of a set with similarities that are kept
MAX_VALUES = 5000  # of an attribute
OF_OTHER_IMAGES = (
    *("probe_low", "probe_high"),
    *("reach", "reach_low", "reach_high"),
    *("gain", "gain_low", "gain_high"),
)
NAMED = 3  # attributes that a warning names
NULLS = 50  # fits on permuted numbers
RANK_NULLS = 1000  # permutations of the scored numbers
OTHER_WORDS = 100  # draws of other texts, at least
PER_ATTRIBUTE = 80  # more such draws for p, which is corrected for all attributes: 2 may be as high
MOST_DRAWS = 10_000
ROUNDING = 1e-12  # difference of equal scores
# A neutral text is a near synonym of a word if their cosine is this many standard deviations above
# the mean cosine of neutral texts with the word.
NEAR = 2.0
# Pairs of values of which the second is the positive one
LABELS = (["0", "1"], ["-1", "1"], ["false", "true"], ["no", "yes"])
POSITIVE = [positive for _, positive in LABELS]
DOUBLED_ARTICLE = re.compile(r"\b(an?|the) (an?|the) ", re.IGNORECASE)


class Words(NamedTuple):
    """Directions (P, D) of the words for an attribute's values, and the value of each (P,).

    `others` (T, D) are the directions of all other texts of the file or, if these are few and
    `are_neutral`, of its neutral texts.
    """

    directions: Float32
    values: Int64
    others: Float32
    are_neutral: bool

    def are_few(self, tests: int) -> bool:
        """Whether there are too few other texts to tell the words of so many attributes."""
        return len(self.others) < fewest_others(len(self.values), tests)


def fewest_others(words: int, tests: int) -> int:
    """Return how many other texts tell whether some words exceed others, for so many attributes.

    The least p is 1 / (1 + draws), times the number of tests (Holm); see `_other_words`.

    >>> fewest_others(1, 1), fewest_others(1, 40), fewest_others(2, 40)
    (39, 1599, 39)
    """
    draws = math.ceil(tests / (LEVEL / 2) - 1e-9) - 1  # of the words themselves, too
    if words == 1:
        return max(draws, FEWEST_OTHERS)
    others = FEWEST_OTHERS
    while math.perm(others + words, words) - 1 < draws:
        others += 1
    return others


class Similarities(NamedTuple):
    """Similarities with directions: (N, P) of the rows to fit on, (M, P) of those to score.

    Probes on them share `shared`.
    """

    fit: Float32
    scored: Float32
    shared: SharedRows


Rows = Float32 | BlockMatrix  # (n, D)
Shared = SharedRows | None
Predicted = NDArray[Any]  # of the scored rows (n,): values or scores


class _Embeddings:
    """The embeddings that a file has of the rows to fit on and to score, for several attributes.

    `X` (which may be large) and `X_scored` are the embeddings of these rows. Probes on them share
    `shared`.
    """

    def __init__(self, file: FeatureFile, fit: SplitRows, scored: SplitRows) -> None:
        self.file, self.fit, self.scored = file, fit, scored
        self.X, self.X_scored = fit.embeddings(file), np.asarray(scored.embeddings(file))
        self.shared = SharedRows()
        self._kept: dict[bytes, Similarities] = {}

    def similarities(self, directions: Float32) -> Similarities:
        """Return the similarities of the rows to fit on and to score with directions (P, D)."""
        kept = self._kept.get(directions.tobytes())
        return kept or self._similarities(directions)

    def keep_similarities(self, sets: Sequence[Float32]) -> None:
        """Keep the similarities with sets of few directions, since attributes share random ones.

        All are computed in one pass over the rows.
        """
        new = [one for one in sets if one.tobytes() not in self._kept]
        if not new or max(map(len, new)) > KEPT_DIRECTIONS:
            return
        of_all = self._similarities(np.concatenate(new))
        places = np.cumsum([0, *map(len, new)]).tolist()
        for directions, start, stop in zip(new, places, places[1:], strict=False):
            fit, scored = (
                np.ascontiguousarray(rows[:, start:stop]) for rows in (of_all.fit, of_all.scored)
            )
            self._kept[directions.tobytes()] = Similarities(fit, scored, SharedRows())

    def _similarities(self, directions: Float32) -> Similarities:
        fit, scored = self._products(self.X, directions), self.scored_similarities(directions)
        return Similarities(fit, scored, SharedRows())

    def scored_similarities(self, directions: Float32) -> Float32:
        """Return the similarities (N, P) of the rows to score with directions (P, D)."""
        return self._products(self.X_scored, directions)

    def _products(self, rows: Rows, directions: Float32) -> Float32:
        """Return the similarities of rows with directions, in blocks to spare memory."""
        found = np.empty((len(rows), len(directions)), np.float32)
        start = 0
        for block in row_blocks(rows):
            comparable = similarity.comparable(block, self.file, self.file.display_name, start)
            found[start : start + len(block)] = similarity.products(comparable, directions)
            start += len(block)
        return found

    def select(self, fit: SplitRows, scored: SplitRows) -> _Embeddings:
        """Return the embeddings of some rows: these again, if the rows are the same."""
        pairs = (self.fit.numbers, fit.numbers), (self.scored.numbers, scored.numbers)
        if all(np.array_equal(*pair) for pair in pairs):
            return self
        return _Embeddings(self.file, fit, scored)


class _Settings(NamedTuple):
    """How attributes are measured."""

    metric: str
    C: float
    seed: int
    random: int  # number of sets of random directions
    confounders: Sequence[Attribute] = ()  # any associated with an attribute are
    attributes: int = 1  # that are measured

    @property
    def draws(self) -> int:
        """The number of draws of other texts for p."""
        return min(max(OTHER_WORDS, PER_ATTRIBUTE * self.attributes), MOST_DRAWS)


@checked
def measure(  # noqa: PLR0913 (the options of `clipkit attributes`)
    images: Features,
    words: Features | None = None,
    *,
    table: Table | None = None,
    columns: Several[str] = (),
    controls: Controls = (),
    metric: str = RECALL,
    random: int = 5,
    C: float = 1.0,
    fit_split: str = FIT_SPLIT,
    eval_split: str = EVAL_SPLIT,
    common: bool = False,
    seed: int = 42,
) -> FeatureFile:
    """Measure the recall of each attribute: what `clipkit attributes` reports.

    Parameters
    ----------
    images : Features
    controls : Control or Features, or several
        The same images, embedded by untrained models.
    words : Features, optional
        Of kind texts, with classes that are called ``attribute: value``. The words for the
        attribute `class` may also have the names of the images' classes.
    table, columns : optional
        As in `annotations.read_annotations`.
    metric : {"recall", "auroc", "ap", "r2", "mae", "spearman", "kendalltau"}
        What the numbers are. `auroc` and `ap` (average precision) are for columns of 0 and 1, such
        as several labels of an image, the others for columns of numbers. Other columns are left
        out. The words for the label `x`, or for a number that is large, have the class ``x``
        or, for labels, ``x: 1``.
    random, C
        Number of sets of random directions, and inverse strength of the probe's regularisation.
    fit_split, eval_split, seed
        See `held_out.choose_rows`. The seed is also of the directions.
    common : bool
        Leave out images that the table lacks, instead of refusing them.

    Returns
    -------
    FeatureFile
        A result with one run per attribute: `attribute`, `values`, `rows` (scored), `chance`;
        `zeroshot` and `probe` with the limits of their 95 % interval (`_low`, `_high`, see
        `metrics.recall_interval`); `other_words` and `other_words95`, the mean and the 95 %
        quantile of `zeroshot` for OTHER_WORDS draws of other texts in the place of the words, if
        there are FEWEST_OTHERS, and `other_words_p`, the p of the words among such draws,
        corrected for all attributes; `names`; `random` and `control` with their range; and `reach`,
        (zeroshot - chance) / (probe - chance), with its 95 % interval (delta method). With
        controls, `gain` is the paired difference of the probe to the control for which the lower
        limit of its 95 % interval is lowest. `given` and `zeroshot_given` are what the probe and
        the words score within the values of `given_name` and `zeroshot_given_name`: of the table's
        attributes associated with this one, the one that leaves the least (see
        `statistics.confounders`); "" if there are none. `half_group` is the group that half of the
        fitted rows give, if all give one. NaN marks what does not apply; `reach` is
        NaN if the lower limit of `probe` is not 0.02 above chance, and so are `gain` and the
        interval of `probe` if over 1 % of the scored images were fitted.
        Values count if they occur in both the fitted and the scored rows; with fewer than two of
        them, nothing is measured. Runs of other metrics have the column `metric`; of labels also
        `positives`, the number of scored rows with 1; of numbers `null95`, the 95 % quantile of the
        metric for permuted scored numbers or, if they are not ranked, for probes that are fitted on
        permuted numbers. An error (`mae`) has no `chance`, but
        `null` and `null5`, the mean and the 5 % quantile for such probes, and `gain` is by how much
        the probe's error is smaller than the control's.
    """
    images, words = as_file(images, "images"), as_file(words, "words", "texts")
    columns = as_list(columns, "columns", str)
    if random < 0:
        raise UsageError(f"random: expected at least 0, got {random}")
    check_positive("C", C)
    _check_words(images, words)
    kind = _check_metric(metric, table)
    images, fit, scored = choose_rows(images, fit_split, eval_split, seed)
    used = [fit.split, scored.split]
    annotations = _read(images, table, columns, metric, splits=used, common=common)
    own = _Embeddings(images, fit, scored)
    caveats = find_shared("fitted", scored.split, own.X, own.X_scored)
    untrained = check_controls(controls, images, [fit.split, scored.split])
    embeddings = [own, *[_Embeddings(control.images, fit, scored) for control in untrained]]
    table_columns = [*annotations.attributes, *annotations.others]
    settings = _Settings(metric, C, seed, random, table_columns, len(annotations.attributes))
    half = _half_of(fit, images, seed)
    of_half = [_Embeddings(one.file, half, scored) for one in embeddings]
    measured = _measure_each(annotations.attributes, embeddings, of_half, words, settings)
    rows = [one.row for one in measured]
    _correct(measured)
    for one in measured:
        one.row["half_group"] = _group_of_half(one)
    if not results.is_testable(caveats):
        for row in rows:
            row |= dict.fromkeys(row.keys() & OF_OTHER_IMAGES, math.nan)
    _note_means(rows, metric)
    names_with: dict[str, list[str]] = {}
    for one in measured:
        for problem in one.problems:
            names_with.setdefault(problem, []).append(one.name)
    few = names_with.pop(results.FEW_SCORED, [])
    caveats += results.find_caveats("few", scored.split, len(few), len(rows), few)
    for problem, names in names_with.items():
        console.warn(f"{results.join_names(names)}: {problem}")
    inputs = {"images": images.digest, **annotations.inputs}
    prompts, neutral = None, None
    if words is not None:
        _note_missing_words(words, measured, metric, are_named=bool(columns))
        _note_few_others(words, measured)
        neutral = _note_neutral(words, measured)
        inputs["words"] = words.digest
        prompts = prompts_entry(words)
    history = images.extended_history(
        "attributes",
        attributes=annotations.source,
        column=list(columns) or None,
        metric=None if metric == RECALL else metric,
        random=random,
        classifier=kind.classifier,
        C=C if kind.classifier in names_taking("C") else None,
        fit_split=fit.split,
        eval_split=scored.split,
        common=common or None,
        seed=seed,
        prompts=prompts,
        neutral=neutral or None,
        caveats=caveats or None,
        inputs=inputs | control_digests(untrained),
    )
    result = results.make_result(history, rows)
    result.splits = _keep(measured, images, scored, metric)
    return result


def _half_of(fit: SplitRows, images: FeatureFile, seed: int) -> SplitRows:
    """Draw half of the rows to fit on; rows that depend on each other stay together."""
    clusters = images.splits[fit.split].cluster
    groups = fit.numbers if clusters is None else clusters[fit.numbers]
    different = np.unique(groups)
    drawn = np.random.RandomState(seed).permutation(different)[: len(different) // 2]
    return SplitRows(fit.split, fit.numbers[np.isin(groups, drawn)])


def _group_of_half(one: _Measured) -> str:
    """Return the group that half of the fitted rows give; "" if all rows decide none."""
    if not one.is_grouped:
        return ""
    if one.half is None:
        return NOT_DECIDED
    return group_of(one.half | {"other_words_p": one.row["other_words_p"]})[0]


class _Measured(NamedTuple):
    """What was measured of an attribute, and what is wrong with its values.

    If it is in a group, `half` is its run with half of the fitted rows, or None if they lack
    values.
    """

    name: str
    row: Row
    is_grouped: bool
    half: Row | None
    ranks: Int64  # see `_Attribute.ranks`
    problems: list[str]
    words: Words | None
    value: str  # one of those that need words


def _measure_each(
    attributes: Sequence[Attribute],
    embeddings: Sequence[_Embeddings],
    of_half: Sequence[_Embeddings],
    words: FeatureFile | None,
    settings: _Settings,
) -> list[_Measured]:
    """Measure attributes on the embeddings of a model, which come first, and of its controls.

    `of_half` are the same embeddings with half of the rows to fit on.
    """
    fit, scored = embeddings[0].fit, embeddings[0].scored
    measured = []
    with console.progress("probing attributes", "attributes") as report_progress:
        for number, attribute in enumerate(attributes, 1):
            one = KINDS[settings.metric](embeddings, attribute, fit, scored, settings)
            embeddings = one.embeddings  # those of the next attribute, if it has the same rows
            own_words = None if words is None else one.find_words(words)
            row, problems = one.row(own_words), one.problems()
            is_grouped, half = group_of(row)[0] != NOT_DECIDED, None
            if is_grouped:
                half = one.with_half(row, of_half)
            value = (attribute.values or ["VALUE"])[0]
            ranks = one.ranks(scored)
            measured.append(
                _Measured(
                    attribute.name,
                    row,
                    is_grouped,
                    half,
                    ranks,
                    problems,
                    own_words,
                    value,
                )
            )
            report_progress(number, len(attributes))
    return measured


def _keep(
    measured: Sequence[_Measured], images: FeatureFile, scored: SplitRows, metric: str
) -> dict[str, Split]:
    """Return the ranks (3, N) of attributes for `clipkit compare`, if the metric is of ranks."""
    if metric not in RANKED or len(scored.numbers) >= MAX_CLASSES:
        return {}
    ids = [images.splits[scored.split].ids[row] for row in scored.numbers.tolist()]
    ranks = np.vstack([one.ranks for one in measured])
    clusters = own_clusters(images, scored.split, scored.numbers)
    return {scored.split: Split(ids=ids, predicted=ranks, cluster=clusters)}


def _correct(measured: Sequence[_Measured]) -> None:
    """Correct the p of words for all attributes with words, by Holm's method.

    It is NaN if the words exceed others, and too few others are there to show it of so many.
    """
    tested = [one for one in measured if not math.isnan(one.row["other_words_p"])]
    corrected = holm([one.row["other_words_p"] for one in tested]).tolist()
    for one, p in zip(tested, corrected, strict=True):
        exceeds = one.row["other_words_p"] <= LEVEL and p > LEVEL / 2
        is_missing = exceeds and one.words is not None and one.words.are_few(len(tested))
        one.row["other_words_p"] = math.nan if is_missing else p


def _check_metric(metric: str, table: Table | None) -> type[_Attribute]:
    """Return what measures attributes by a metric; refuse one that is unknown or lacks a table."""
    if metric not in KINDS:
        raise unknown("metric", metric, KINDS)
    if metric != RECALL and table is None:
        raise UsageError(f"metric: expected --table for {metric}, got none")
    return KINDS[metric]


def _read(
    images: FeatureFile,
    table: Table | None,
    columns: Sequence[str],
    metric: str,
    *,
    splits: Sequence[str],
    common: bool,
) -> Annotations:
    """Read the attributes that a metric is for; refuse others if they are named."""
    numbers: Any = "alone" if KINDS[metric] is _Number else ""
    annotations = read_annotations(
        images, table, columns, numbers=numbers, splits=splits, common=common
    )
    if metric == RECALL:
        _check_counts(annotations.attributes)
    if KINDS[metric] is _Label:
        labels = _choose_labels(annotations.attributes, str(table), are_named=bool(columns))
        return replace(annotations, attributes=labels)
    return annotations


def _choose_labels(
    attributes: Sequence[Attribute], table: str, *, are_named: bool
) -> list[Attribute]:
    """Return the attributes that are labels; refuse others if they are named, or if none is."""
    labels, others = [], []
    for attribute in attributes:
        if _is_label(attribute):
            labels.append(_ordered(attribute))
        elif are_named or attribute.name != CLASS:  # nobody asked for the classes
            others.append(attribute)
    if not others:
        return labels
    first = others[0]
    got = ", ".join(repr(shorten(value)) for value in first.values[:NAMED])
    if are_named or not labels:
        raise ClipkitError(
            f"{table}: expected 0 and 1 in {first.name}, got {got}",
            "--metric recall measures categories, and r2, mae, spearman and kendalltau numbers",
        )
    names = results.join_names([attribute.name for attribute in others])
    console.note(f"{table}: left out {names}: expected 0 and 1, got {got} in {first.name}")
    return labels


def _is_label(attribute: Attribute) -> bool:
    values = set(map(str.lower, attribute.values))
    return not attribute.is_class and any(values.issubset(pair) for pair in LABELS)


def _ordered(attribute: Attribute) -> Attribute:
    """Return a label with each value once, whatever its case, and the positive one last."""
    lower = list(map(str.lower, attribute.values))
    _, first, number = np.unique(lower, return_index=True, return_inverse=True)
    codes = {name: np.append(number, -1)[of_split] for name, of_split in attribute.codes.items()}
    return replace(attribute, values=[attribute.values[i] for i in first], codes=codes)


def _note_means(rows: Sequence[Row], metric: str) -> None:
    """Note the means of average precisions, over the labels that have them."""
    if metric != "ap":
        return
    means = []
    for name in ("zeroshot", "probe", "chance"):
        values = [row[name] for row in rows if not math.isnan(row[name])]
        if values:
            means.append(f"{name} {100 * np.mean(values):.1f} % ({len(values)} labels)")
    console.note(f"mAP: {', '.join(means) or 'no label has positive images'}")


def _check_counts(attributes: Sequence[Attribute]) -> None:
    for attribute in attributes:
        if len(attribute.values) > MAX_VALUES:
            raise ClipkitError(
                f"{attribute.name}: expected at most {MAX_VALUES:,} values, got "
                f"{len(attribute.values):,}",
                "choose other attributes with --attribute",
            )


def _check_words(images: FeatureFile, words: FeatureFile | None) -> None:
    """Refuse words of another model; warn if a template doubles their articles."""
    if words is None:
        return
    compatibility.common_logit_scale(images, words)
    compatibility.check_widths(images, words)
    texts = words.texts or []
    if all(DOUBLED_ARTICLE.search(text) for text in texts):
        console.warn(
            f"{words.display_name}: every text has two articles, as {texts[0]!r}: embed the words "
            'with --template "{}"'
        )


def _note_missing_words(
    words: FeatureFile, measured: Sequence[_Measured], metric: str, *, are_named: bool
) -> None:
    """Note the attributes without words, if the user named them or if none has words."""
    without = [one for one in measured if one.words is None]
    if not without:
        return
    tell = console.note if are_named or len(without) == len(measured) else console.detail
    names = [one.name for one in without]
    expected = f"{names[0]}: {without[0].value}" if metric == RECALL else names[0]
    example = (words.class_names or ["no classes"])[0]
    tell(
        f"{words.display_name} has no words for {results.join_names(names)}: expected classes "
        f"called {expected!r}, got {example!r} and others"
    )


def _note_few_others(words: FeatureFile, measured: Sequence[_Measured]) -> None:
    """Note the attributes whose words have no control, for want of other texts."""
    with_words = [one for one in measured if not math.isnan(one.row["zeroshot"])]
    names, fewest = [], 0
    for one in with_words:
        if one.words is not None and math.isnan(one.row["other_words_p"]):
            names.append(one.name)
            fewest = max(fewest, fewest_others(len(one.words.values), len(with_words)))
    if names:
        console.note(
            f"{words.display_name} has fewer than {fewest:,} other texts to compare with the "
            f"words of {results.join_names(names)}; hint: add texts about anything else"
        )


def _note_neutral(words: FeatureFile, measured: Sequence[_Measured]) -> list[str]:
    """Note the attributes whose words are compared with neutral texts, and return them."""
    names = []
    for one in measured:
        is_neutral = one.words is not None and one.words.are_neutral
        if is_neutral and not math.isnan(one.row["other_words"]):
            names.append(one.name)
    if names:
        console.note(
            f"{words.display_name}: neutral texts are the control for the words of "
            f"{results.join_names(names)}"
        )
    return names


def _words_of(words: FeatureFile, classes: Sequence[int], tests: int) -> Words:
    """Return the prompts of the classes that are the words for the values, in their order.

    Neutral texts are the others if the file's own are too few for so many tests, and fewer.
    """
    index = np.asarray(words.class_index)
    is_word = np.isin(index, classes)
    features = np.asarray(words.features)
    directions = np.asarray(similarity.comparable(features, words, words.display_name), np.float32)
    value_of_class = np.zeros(max(classes) + 1, np.int64)
    value_of_class[classes] = np.arange(len(classes))
    own, others = directions[is_word], directions[~is_word]
    found = Words(own, value_of_class[index[is_word]], others, are_neutral=False)
    if not found.are_few(tests) or words.other_features is None:
        return found
    neutral = similarity.comparable(words.other_features, words, words.display_name)
    neutral = _without_near_synonyms(np.asarray(neutral, np.float32), own)
    if len(neutral) < len(others):
        return found
    return found._replace(others=neutral, are_neutral=True)


def _without_near_synonyms(texts: Float32, words: Float32) -> Float32:
    """Return the texts (T, D) that are not much more similar to one of the words than most are.

    A fixed cosine is no limit, since the level of cosines differs between models, nor is the cosine
    of two words: opposites, such as "a color photo" and "a grayscale photo", are less similar to
    each other than to most texts. docs/commands/attributes.md says what this rule finds.
    """
    cosines = similarity.products(texts, words)
    excess = cosines - cosines.mean(axis=0)
    is_near = (excess > NEAR * cosines.std(axis=0)).any(axis=1)
    return np.asarray(texts[~is_near])


class _Attribute:
    """One attribute: the rows to fit and to score, and the probes."""

    classifier = LOGREG.name

    def __init__(
        self,
        embeddings: Sequence[_Embeddings],
        attribute: Attribute,
        fit: SplitRows,
        scored: SplitRows,
        settings: _Settings,
    ) -> None:
        self.attribute = attribute
        self.settings = settings
        self.metric = METRICS[settings.metric]
        fitted, found = (np.append(rows.codes(attribute), -1) for rows in (fit, scored))
        self.occurring = self._choose_values(fitted, found)[1:]  # -1 is no value
        self.has_others = len(np.setxor1d(fitted, found)) > 0
        self.fit = fit.with_values(attribute, self.occurring)
        self.scored = scored.with_values(attribute, self.occurring)
        self.y = self.fit.codes(attribute)
        self.labels = self.scored.codes(attribute)
        self.truth: NDArray[Any] = self.labels  # what scores are compared with
        file = embeddings[0].file
        self.clusters = own_clusters(file, scored.split, self.scored.numbers)
        self.embeddings = [one.select(self.fit, self.scored) for one in embeddings]
        self.X, self.X_scored = self.embeddings[0].X, self.embeddings[0].X_scored
        self.values = len(self.occurring)
        self.counts = self._count(scored)
        self.directions = self.values  # random ones, where words do not tell their number
        self.scores: list[Predicted | None] = [None, None]  # by words and by the probe

    def _count(self, scored: SplitRows) -> Row:
        """Return columns that count scored rows, those with values that are left out included."""
        return {}

    def _choose_values(self, fitted: Int64, scored: Int64) -> Int64:
        """Return the values that occur in both the fitted and the scored rows."""
        return np.intersect1d(fitted, scored)

    def problems(self) -> list[str]:
        """List what keeps the values from being measured, or from being measured well."""
        if self.values < 2:
            return ["fewer than two values have fitted and scored images: nothing is measured"]
        problems = []
        if self.has_others:
            problems.append("values without fitted or without scored images are left out")
        if min(np.unique(self.labels, return_counts=True)[1]) < results.FEW_ROWS:
            problems.append(results.FEW_SCORED)
        return problems

    def find_words(self, words: FeatureFile) -> Words | None:
        """Return the words for the values, or None if the attribute has none.

        Raises
        ------
        ClipkitError
            If only some of its values have words.
        """
        attribute = self.attribute
        if attribute.is_class and words.class_names == attribute.values:
            classes = list(range(len(attribute.values)))  # two classes may have one name
        else:
            number = positions(words.class_names or [])
            classes, missing = [], []
            for value in attribute.values:
                names = [f"{attribute.name}: {value}"]
                if attribute.name == CLASS:
                    names.append(value)
                known = [number[name] for name in names if name in number]
                classes += known[:1]
                if not known:
                    missing.append(names[0])
            if not classes:
                return None
            if missing:
                raise ClipkitError(
                    f"{words.display_name}: expected words for every value, got none for "
                    f"{console.count(len(missing), 'value')} of {attribute.name}, such as "
                    f"{missing[0]!r}",
                    f"add the line '{missing[0]}<TAB>words', or empty the cells with this value",
                )
        found = _words_of(words, classes, self.settings.attributes)
        chosen = np.isin(found.values, self.occurring)
        values = np.searchsorted(self.occurring, found.values[chosen])
        return found._replace(directions=found.directions[chosen], values=values)

    def row(self, words: Words | None) -> Row:
        """Return the run of the attribute."""
        row: Row = {"attribute": self.attribute.name, "values": self.values}
        row["rows"] = len(self.labels)
        if self.settings.metric != RECALL:
            row["metric"] = self.settings.metric
        row["chance"] = self.metric.chance(self.truth) if self.values > 1 else math.nan
        row |= self.counts
        zero, names, count = None, math.nan, self.directions
        if words is not None and self.values > 1:
            cosines = self.embeddings[0].scored_similarities(words.directions)
            zero = self._by_words(cosines, words.values)
            names = self._score(self._on_directions(words.directions))
            count = len(words.directions)
        sets = []
        for number in range(self.settings.random):
            draw_seed = (self.settings.seed + number) % 2**32
            directions = similarity.random_directions(count, self.X.shape[1], draw_seed)
            sets.append(directions.astype(np.float32))
        self.embeddings[0].keep_similarities(sets)
        draws = [self._score(self._on_directions(directions)) for directions in sets]
        of_probe = self._by_probe(row["chance"], zero)
        row |= self._with_interval("zeroshot", zero)
        row |= self._other_words(words, row["zeroshot"])
        row["names"] = names
        row |= _with_range("random", draws)
        row |= of_probe
        return row | self._given("zeroshot_given", zero)

    def _by_probe(self, chance: float, zero: Predicted | None) -> Row:
        """Return what depends on the probe: its score, the controls', `reach`, `gain`, `given`."""
        predicted, *of_controls = [
            self._probe(one.X, one.X_scored, one.shared) for one in self.embeddings
        ]
        self.scores = [zero, predicted]
        row = self._with_interval("probe", predicted)
        row |= _with_range("control", list(map(self._score, of_controls)))
        row |= self._reach(row | {"chance": chance, "zeroshot": self._score(zero)}, zero, predicted)
        gains = [self._gain(predicted, of_control) for of_control in of_controls]
        row |= min(gains, key=itemgetter("gain_low"), default={})
        return row | self._given("given", predicted)

    def with_half(self, row: Row, embeddings: Sequence[_Embeddings]) -> Row | None:
        """Return the attribute's run with what probes give that half of the rows are fitted to.

        `embeddings` have that half. If it lacks values, half of the rows of each value are drawn.
        Return None if there are too few.
        """
        half = self._on_half(embeddings)
        if not np.array_equal(half.occurring, self.occurring):
            random = np.random.RandomState(self.settings.seed)
            drawn = []
            for rows in rows_by_class(self.y):
                drawn.append(random.permutation(rows)[: (len(rows) + 1) // 2])
            fit = self.fit._replace(numbers=self.fit.numbers[np.sort(np.concatenate(drawn))])
            own = [_Embeddings(one.file, fit, one.scored) for one in self.embeddings]
            half = self._on_half(own)
        if half.values < 2:
            return None
        return row | half._by_probe(row["chance"], self.scores[0])

    def _on_half(self, embeddings: Sequence[_Embeddings]) -> _Attribute:
        fit, scored = embeddings[0].fit, embeddings[0].scored
        return type(self)(embeddings, self.attribute, fit, scored, self.settings)

    @functools.cached_property
    def _confounders(self) -> list[Attribute]:
        """The attributes associated with this one, by their association in all rows that have both.

        Interactions are none, nor is an attribute that has this one as a part.
        """
        found = []
        for other in self.settings.confounders:
            if other.name == self.attribute.name or other.parts:
                continue
            own, of_other = [], []
            for rows in (self.fit, self.scored):
                is_known = rows.codes(other) >= 0
                own.append(rows.codes(self.attribute)[is_known])
                of_other.append(rows.codes(other)[is_known])
            a, b = np.concatenate(own), np.concatenate(of_other)
            if len(a) and self._is_associated(a, other, b):
                found.append(other)
        return found

    def _is_associated(self, a: Int64, other: Attribute, b: Int64) -> bool:
        low = confounders.cramers_v_low(a, b, self.rows_per_cluster)
        return low > confounders.LEAST and not confounders.determines(b, a)

    @functools.cached_property
    def rows_per_cluster(self) -> float:
        """The mean number of scored rows that depend on each other; 1 for independent ones."""
        clusters = self.embeddings[0].file.splits[self.scored.split].cluster
        if clusters is None or not len(self.scored.numbers):
            return 1.0
        return len(self.scored.numbers) / len(np.unique(clusters[self.scored.numbers]))

    def _given(self, name: str, predicted: Predicted | None) -> Row:
        """Return the score within the values of the confounder that leaves the least of it.

        If no row could show it, the limits are NaN, with the confounder's name.
        """
        least, of_least = confounders.UNKNOWN, ""
        if predicted is not None:
            for other in self._confounders:
                found = self._given_one(predicted, other)
                leaves_less = not found.low >= least.low
                if self.metric.is_error:
                    leaves_less = not found.high <= least.high
                if not of_least or leaves_less:
                    least, of_least = found, other.name
                if math.isnan(least.low):
                    break
        limits = {f"{name}_low": least.low, f"{name}_high": least.high}
        return {name: least.value, **limits, f"{name}_name": of_least}

    def _given_one(self, predicted: Predicted, other: Attribute) -> confounders.Given:
        strata = self.scored.codes(other)
        known = strata >= 0
        rows = self.truth[known], predicted[known], strata[known]
        clusters = None if self.clusters is None else self.clusters[known]
        return confounders.recall_given(*rows, clusters)

    def ranks(self, scored: SplitRows) -> Int64:
        """Rank the truth and the scores by words and by the probe (3, N), from 1 for the lowest.

        Equal values have equal ranks. 0 marks rows without a value, and what was not measured.
        """
        ranks = np.zeros((3, len(scored.numbers)), np.int64)
        places = np.searchsorted(scored.numbers, self.scored.numbers)
        for of_values, values in zip(ranks, [self.truth, *self.scores], strict=True):
            if values is not None and self.values > 1:
                of_values[places] = np.unique(values, return_inverse=True)[1] + 1
        return ranks

    def _reach(self, row: Row, zeroshot: Predicted | None, probe: Predicted | None) -> Row:
        """Return the reach with its interval, by the delta method for a ratio."""
        is_decodable = row["probe_low"] > row["chance"] + ABOVE_CHANCE
        if zeroshot is None or probe is None or not is_decodable:
            return self._with_limits("reach", math.nan, math.nan)
        above_chance = row["probe"] - row["chance"]
        covariance = self.metric.covariance(self.truth, [zeroshot, probe], self.clusters)
        reach = (row["zeroshot"] - row["chance"]) / above_chance
        gradient = np.array([1, -reach]) / above_chance
        return self._with_limits("reach", reach, gradient @ covariance @ gradient)

    def _gain(self, probe: Predicted | None, control: Predicted | None) -> Row:
        """Return the paired difference of the probe to a control with its interval."""
        if probe is None or control is None:
            return self._with_limits("gain", math.nan, math.nan)
        of_both = self.metric.covariance(self.truth, [probe, control], self.clusters)
        gain = self._score(probe) - self._score(control)
        if self.metric.is_error:
            gain = -gain
        return self._with_limits("gain", gain, of_both.trace() - 2 * of_both[0, 1])

    def _with_limits(self, name: str, value: float, variance: float) -> Row:
        """Return a value with the limits of its 95 % interval."""
        half = self.metric.quantile(self.truth, self.clusters) * math.sqrt(max(0.0, variance))
        return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}

    def _by_words(self, cosines: Float32, values: Int64) -> Predicted | None:
        """Predict the scored rows by their cosines (N, P) with the words for `values` (P,)."""
        scores = class_scores(cosines, values, self.values)
        return np.asarray(self.occurring[scores.argmax(axis=1)])

    def _other_words(self, words: Words | None, zeroshot: float) -> Row:
        """Return what other texts reach in the place of the words: mean, 95 % quantile and p.

        Each draw has as many texts as there are words; they differ if there are enough. For p,
        draws are of all texts, the words included: if the words say no more than others, their
        rank among these draws is as likely as any. Of one word, the others are all scored.
        """
        scores, p = [math.nan], math.nan
        if words is not None and self.values > 1 and len(words.others) >= FEWEST_OTHERS:
            random = np.random.RandomState(self.settings.seed)
            count, needed = len(words.others), len(words.values)
            texts = np.concatenate([words.others, words.directions])
            cosines = self.embeddings[0].scored_similarities(texts)

            def score(draw: Int64) -> float:
                return self._score_words(cosines[:, draw], words.values)

            scores = []
            for _ in range(OTHER_WORDS):
                scores.append(score(random.choice(count, needed, replace=count < needed)))
            draws = [np.array([text]) for text in range(count)]
            if needed > 1:
                draws = self._draw_words(random, count, needed)
            p = p_of(np.array([score(draw) for draw in draws]), zeroshot, ROUNDING)
        return {
            "other_words": float(np.mean(scores)),
            "other_words95": float(np.quantile(scores, 0.95)),
            "other_words_p": p,
        }

    def _draw_words(self, random: Any, others: int, needed: int) -> list[Int64]:
        """Draw as many texts as there are words, from others and the words, but never these."""
        own = np.arange(others, others + needed)
        least = math.perm(others + needed, needed) - 1
        draws: list[Int64] = []
        while len(draws) < min(self.settings.draws, least):
            draw = random.permutation(others + needed)[:needed]
            if not np.array_equal(draw, own):
                draws.append(draw)
        return draws

    def _score_words(self, cosines: Float32, values: Int64) -> float:
        """Return the mean recall by words; it is called for many texts."""
        place = class_scores(cosines, values, self.values).argmax(axis=1)
        truth, counts = self._places
        return float((np.bincount(truth[place == truth], minlength=len(counts)) / counts).mean())

    @functools.cached_property
    def _places(self) -> tuple[Int64, Int64]:
        """The place (N,) of each label among the values, and the rows (K,) of each value."""
        truth = np.searchsorted(self.occurring, self.labels)
        return truth, np.bincount(truth, minlength=self.values)

    def _on_directions(self, directions: Float32) -> Predicted | None:
        return self._probe(*self.embeddings[0].similarities(directions))

    def _probe(self, X: Rows, X_scored: Float32, shared: Shared = None) -> Predicted | None:
        """Fit the probe and return its predictions, or None if there is nothing to learn."""
        return self._predict(X, X_scored, shared) if self.values > 1 else None

    def _predict(self, X: Rows, X_scored: Float32, shared: Shared) -> Predicted:
        return self._fit(X, X_scored, shared).predicted

    def _fit(self, X: Rows, X_scored: Float32, shared: Shared, keep: bool = False) -> sweeps.Run:
        options: Any = {"standardize": True, "balanced": True, "keep": keep, "shared": shared}
        (run,) = sweeps.sweep(
            X, self.y, X_scored, classifier=self.classifier, C=[self.settings.C], **options
        )
        if not run.converged:
            console.warn(f"the probe of {self.attribute.name} did not converge")
        return run

    def _score(self, predicted: Predicted | None) -> float:
        return math.nan if predicted is None else float(self.metric.value(self.truth, predicted))

    def _with_interval(self, name: str, predicted: Predicted | None) -> Row:
        low = high = math.nan
        if predicted is not None:
            low, high = self.metric.interval(self.truth, predicted, self.clusters)
        return {name: self._score(predicted), f"{name}_low": low, f"{name}_high": high}


class _Label(_Attribute):
    """A label of 0 and 1, which is measured by scores."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.directions = 1
        self.truth = np.asarray(self.labels == len(self.attribute.values) - 1, np.float64)

    def _count(self, scored: SplitRows) -> Row:
        is_positive = np.isin(list(map(str.lower, self.attribute.values)), POSITIVE)
        of_scored = np.append(is_positive, False)[scored.codes(self.attribute)]  # -1 is no value
        return {"positives": int(of_scored.sum())}

    def find_words(self, words: FeatureFile) -> Words | None:
        """Return the words for the label 1, or for large numbers."""
        names = words.class_names or []
        for name in (self.attribute.name, f"{self.attribute.name}: {self.attribute.values[-1]}"):
            if name in names:
                return _words_of(words, [names.index(name)], self.settings.attributes)
        return None

    def _by_words(self, cosines: Float32, values: Int64) -> Predicted | None:
        return np.asarray(cosines.max(axis=1), np.float64)

    def _score_words(self, cosines: Float32, values: Int64) -> float:
        return self._score(self._by_words(cosines, values))

    def _given_one(self, predicted: Predicted, other: Attribute) -> confounders.Given:
        strata = self.scored.codes(other)
        known = strata >= 0
        rows = self.truth[known], predicted[known], strata[known]
        return confounders.score_given(self.metric, *rows, self.rows_per_cluster)

    def _predict(self, X: Rows, X_scored: Float32, shared: Shared) -> Predicted:
        if X.shape[1] == 1:  # the weight has the sign of the difference of the means
            column = np.asarray(X)
            sign = 1.0
            if column[self.y == 1].mean() < column[self.y == 0].mean():
                sign = -1.0
            return sign * np.asarray(X_scored[:, 0], np.float64)
        fitted = self._fit(X, X_scored, shared, keep=True).fitted
        assert fitted is not None  # it is kept
        scores = fitted.scores(X_scored)
        return np.asarray(scores[:, 1] - scores[:, 0], np.float64)


class _Number(_Label):
    """A number of each row, whose words are scored like those of a label."""

    classifier = "ridge"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        numbers = self.attribute.numbers()
        self.fitted_numbers, self.truth = numbers[self.y], numbers[self.labels]
        self.values = min(len(np.unique(self.y)), len(np.unique(self.labels)))

    def _count(self, scored: SplitRows) -> Row:
        return {}

    def _choose_values(self, fitted: Int64, scored: Int64) -> Int64:
        return np.union1d(fitted, scored)

    def problems(self) -> list[str]:
        """Say what is wrong with the numbers."""
        few = "fewer than two different numbers are fitted or scored: nothing is measured"
        return [few] if self.values < 2 else []

    def row(self, words: Words | None) -> Row:
        """Return the run of the attribute, with the null of its probe."""
        row = super().row(words)
        scores = self._null() if self.values > 1 else [math.nan]
        if self.metric.is_error:
            return row | {"null": float(np.mean(scores)), "null5": float(np.quantile(scores, 0.05))}
        return row | {"null95": float(np.quantile(scores, 0.95))}

    def _null(self) -> list[float]:
        """Return what the probe scores if its numbers say nothing.

        Ranks are compared with permuted scored numbers. Other metrics depend on the mean and the
        spread of the predictions too, so that probes are fitted on permuted numbers.
        """
        generator = np.random.default_rng(self.settings.seed)
        if self.settings.metric in RANKED:
            predicted = self.scores[1]
            rows = len(self.truth)
            orders = [permute(generator, rows, self.clusters) for _ in range(RANK_NULLS)]
            draws = [self.truth[order] for order in orders]
            return [float(self.metric.value(truth, predicted)) for truth in draws]
        numbers = self.fitted_numbers
        of_fitted = own_clusters(self.embeddings[0].file, self.fit.split, self.fit.numbers)
        orders = [permute(generator, len(numbers), of_fitted) for _ in range(NULLS)]
        permuted = [numbers[order] for order in orders]
        predicted = ridge(np.asarray(self.X), np.stack(permuted, axis=1), self.X_scored)
        return list(map(self._score, predicted.T))

    def _is_associated(self, a: Int64, other: Attribute, b: Int64) -> bool:
        numbers = self.attribute.numbers()[a], other.numbers()[b]
        return confounders.correlation_low(*numbers, self.rows_per_cluster) > confounders.LEAST

    def _given_one(self, predicted: Predicted, other: Attribute) -> confounders.Given:
        codes = self.scored.codes(other)
        known = codes >= 0
        rows = self.truth[known], predicted[known], other.numbers()[codes[known]]
        clusters = None if self.clusters is None else self.clusters[known]
        return confounders.number_given(self.metric, self.settings.metric, *rows, clusters)

    def _by_words(self, cosines: Float32, values: Int64) -> Predicted | None:
        if self.settings.metric not in RANKED:  # cosines are no such numbers; see `names`
            return None
        return super()._by_words(cosines, values)

    def _predict(self, X: Rows, X_scored: Float32, shared: Shared) -> Predicted:
        return ridge(np.asarray(X), self.fitted_numbers[:, None], X_scored)[:, 0]


KINDS: dict[str, type[_Attribute]] = {
    RECALL: _Attribute,
    "auroc": _Label,
    "ap": _Label,
    **dict.fromkeys(("r2", "mae", "spearman", "kendalltau"), _Number),
}


def _with_range(name: str, values: Sequence[float]) -> Row:
    """Return the mean, the lowest and the highest value, or NaN if there are none."""
    values = values or [math.nan]
    return {name: float(np.mean(values)), f"{name}_low": min(values), f"{name}_high": max(values)}
