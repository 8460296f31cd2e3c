"""Measure the recall of each attribute by words, by probes and by controls.

All numbers are mean recalls per value. Chance is therefore 1 / K for K values, whatever their
frequencies. The values are those that occur in both the fitted and the scored rows. Rows with other
values are left out.

- `zeroshot` predicts the value with the most similar words. Nothing is fitted.
- `names` is a probe on the cosines with those words.
- `random` is the same probe on as many random directions.
- `probe` is the probe on the whole embedding.
- `control` is that probe on the embedding of an untrained control.

The probe is a logistic regression on standardised columns, with all values weighted equally. It
gives a lower bound of what the embedding encodes. Its recall grows with the number of rows to fit
on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from clipkit.analysis import metrics, probes, results, similarity, zeroshot
from clipkit.analysis.attribute_groups import ABOVE_CHANCE
from clipkit.analysis.held_out import EVAL_SPLIT, FIT_SPLIT, choose_held_out, hold_out
from clipkit.analysis.results import Row
from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError, check_positive
from clipkit.features import compatibility
from clipkit.features.annotations import CLASS, Attribute, read_annotations
from clipkit.features.compatibility import check_control, check_same_images
from clipkit.features.history import prompts_entry
from clipkit.features.model import FeatureFile, Float32, Int64
from clipkit.features.splitting import count_shared_rows, hash_rows

MAX_VALUES = 5000  # of an attribute
OF_OTHER_IMAGES = (
    *("probe_low", "probe_high"),
    *("reach", "reach_low", "reach_high"),
    *("gain", "gain_low", "gain_high"),
)
NAMED = 3  # attributes that a warning names
DOUBLED_ARTICLE = re.compile(r"\b(an?|the) (an?|the) ", re.IGNORECASE)


class Words(NamedTuple):
    """Directions (P, D) of the words for an attribute's values, and the value of each (P,)."""

    directions: Float32
    values: Int64

    def of_values(self, values: Int64) -> Words:
        """Return the words for some values (K,), which are numbered anew."""
        chosen = np.isin(self.values, values)
        return Words(self.directions[chosen], np.searchsorted(values, self.values[chosen]))


class SplitRows(NamedTuple):
    """Some rows of a split, by their numbers."""

    split: str
    numbers: Int64

    def embeddings(self, file: FeatureFile) -> Float32:
        """Return the embeddings (n, D) that a file holds of these rows."""
        return np.asarray(file.splits[self.split].features)[self.numbers]

    def codes(self, attribute: Attribute) -> Int64:
        """Return the values (n,) of an attribute."""
        return attribute.codes[self.split][self.numbers]

    def with_values(self, attribute: Attribute, values: Int64) -> SplitRows:
        """Return the rows that have one of some values (K,) of an attribute."""
        return SplitRows(self.split, self.numbers[np.isin(self.codes(attribute), values)])


def measure(  # noqa: PLR0913 (the options of `clipkit attributes`)
    images: FeatureFile,
    words: FeatureFile | None = None,
    *,
    table: str | None = None,
    columns: Sequence[str] = (),
    controls: Sequence[FeatureFile] = (),
    random: int = 5,
    C: float = 1.0,
    fit_split: str = FIT_SPLIT,
    eval_split: str = EVAL_SPLIT,
    seed: int = 42,
) -> FeatureFile:
    """Measure the recall of each attribute: what `clipkit attributes` reports.

    Parameters
    ----------
    images : FeatureFile
        Of kind images.
    words : FeatureFile, optional
        Of kind texts, with classes that are called ``attribute: value``. The words for the
        attribute `class` may also have the names of the images' classes.
    table : str, optional
        A .csv or .tsv file of attributes, or ``shapes``. The images' labels are the last
        attribute, `class`, or the only one.
    columns : sequence of str, optional
        Attributes to use, all by default.
    controls : sequence of FeatureFile
        The same images, embedded by untrained controls.
    random : int
        Number of sets of random directions.
    C : float
        Inverse strength of the probe's regularisation.
    fit_split, eval_split : str
        The splits to fit and to score. If the file has a single split, a fifth of its rows is held
        out and scored, as `held_out.choose_held_out` says.
    seed : int
        Random seed of directions and held-out rows.

    Returns
    -------
    FeatureFile
        A result with one run per attribute: `attribute`, `values`, `rows` (scored), `chance`;
        `zeroshot` and `probe` with the limits of their 95 % interval (`_low`, `_high`, see
        `metrics.recall_interval`); `names`; `random` and `control` with their range; and `reach`,
        (zeroshot - chance) / (probe - chance), with its 95 % interval (delta method). With
        controls, `gain` is the paired difference of the probe to the control for which the lower
        limit of its 95 % interval is lowest. NaN marks what does not apply; `reach` is NaN if the
        lower limit of `probe` is not 0.02 above chance, and so are `gain` and the interval of
        `probe` if over 1 % of the scored images were fitted.
        Values count if they occur in both the fitted and the scored rows; with fewer than two of
        them, nothing is measured.

    Raises
    ------
    UsageError
        If an attribute or a number is out of range.
    ClipkitError
        If the table does not fit, a split is missing, words come from another model or lack some
        values of an attribute, or a control holds other images or names a trained model.
    """
    if random < 0:
        raise UsageError(f"random: expected at least 0, got {random}")
    check_positive("C", C)
    if words is not None:
        compatibility.common_logit_scale(images, words)
        compatibility.check_widths(images, words)
        _warn_of_doubled_articles(words)
    annotations = read_annotations(images, table, columns)
    _check_counts(annotations.attributes)
    fit, scored = _choose_rows(images, fit_split, eval_split, seed)
    caveats = _find_shared_images(images, fit, scored)
    untested = {} if results.is_testable(caveats) else dict.fromkeys(OF_OTHER_IMAGES, math.nan)
    for control in controls:
        check_same_images(control, images, [fit.split, scored.split])
        check_control(control, images, [fit.split, scored.split])
    rows = []
    problems: dict[str, list[str]] = {}
    without_words = []
    with console.progress("probing attributes", "attributes") as report_progress:
        for number, attribute in enumerate(annotations.attributes):
            attribute_words = None if words is None else _find_words(words, attribute)
            if attribute_words is None:
                without_words.append(attribute.name)
            measured = _Attribute(images, attribute, fit, scored, C, seed)
            for problem in measured.problems:
                problems.setdefault(problem, []).append(attribute.name)
            row = measured.row(attribute_words, controls, random)
            rows.append({name: untested.get(name, value) for name, value in row.items()})
            report_progress(number + 1, len(annotations.attributes))
    few = problems.pop(results.FEW_SCORED, [])
    caveats += results.find_caveats("few", scored.split, len(few), len(rows), few)
    for problem, names in problems.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        console.warn(f"{', '.join(names[:NAMED])}{more}: {problem}")
    if words is not None and without_words:
        example = (words.class_names or ["no classes"])[0]
        console.note(
            f"{words.display_name} has no words for {', '.join(without_words)}: expected classes "
            f"called '{without_words[0]}: VALUE', got {example!r} and others"
        )
    inputs = {"images": images.digest, **annotations.inputs}
    if words is not None:
        inputs["words"] = words.digest
    inputs |= {f"control {number}": file.digest for number, file in enumerate(controls, 1)}
    history = images.extended_history(
        "attributes",
        attributes=annotations.source,
        column=list(columns) or None,
        random=random,
        classifier="logreg",
        C=C,
        fit_split=fit.split,
        eval_split=scored.split,
        seed=seed,
        prompts=None if words is None else prompts_entry(words),
        caveats=caveats or None,
        inputs=inputs,
    )
    return results.make_result(history, rows)


def _choose_rows(
    images: FeatureFile, fit_split: str, eval_split: str, seed: int
) -> tuple[SplitRows, SplitRows]:
    """Return the rows to fit on and the rows to score."""
    fit_split, val = choose_held_out(images, fit_split, eval_split, None)
    if val is not None:
        split = images.splits[fit_split]
        labels = np.zeros(len(split), np.int64) if split.labels is None else split.labels
        _, train, held_out = hold_out(images, fit_split, labels, val, seed)
        return SplitRows(fit_split, train), SplitRows(fit_split, held_out)
    names = images.choose_splits([fit_split, eval_split])
    rows = [SplitRows(name, np.arange(len(images.splits[name]))) for name in names]
    return rows[0], rows[-1]  # the same object if both splits are one


def _find_shared_images(images: FeatureFile, fit: SplitRows, scored: SplitRows) -> list[Row]:
    """Warn of scored images that are fitted, too."""
    count = len(scored.numbers)
    if fit is not scored:
        X, X_eval = fit.embeddings(images), scored.embeddings(images)
        count = count_shared_rows(hash_rows(X), X_eval)
    return results.find_caveats("fitted", scored.split, count, len(scored.numbers))


def _check_counts(attributes: Sequence[Attribute]) -> None:
    for attribute in attributes:
        if len(attribute.values) > MAX_VALUES:
            raise ClipkitError(
                f"{attribute.name}: expected at most {MAX_VALUES:,} values, got "
                f"{len(attribute.values):,}",
                "choose other attributes with --attribute",
            )


def _warn_of_doubled_articles(words: FeatureFile) -> None:
    texts = words.texts or []
    if all(DOUBLED_ARTICLE.search(text) for text in texts):
        console.warn(
            f"{words.display_name}: every text has two articles, as {texts[0]!r}: embed the words "
            'with --template "{}"'
        )


def _find_words(words: FeatureFile, attribute: Attribute) -> Words | None:
    """Return the words for the values of an attribute, or None if it has none.

    Raises
    ------
    ClipkitError
        If only some of its values have words.
    """
    if attribute.is_class and words.class_names == attribute.values:
        return _words_of(words, range(len(attribute.values)))  # two classes may have one name
    number = {name: c for c, name in enumerate(words.class_names or [])}
    classes = []
    missing = []
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
            f"{console.count(len(missing), 'value')} of {attribute.name}, such as {missing[0]!r}",
            f"add the line '{missing[0]}<TAB>words', or empty the cells with this value",
        )
    return _words_of(words, classes)


def _words_of(words: FeatureFile, classes: Sequence[int]) -> Words:
    """Return the prompts of the classes that are the words for the values, in their order."""
    index = np.asarray(words.class_index)
    prompts = np.flatnonzero(np.isin(index, classes))
    features = np.asarray(words.features)[prompts]
    directions = similarity.normalize(features, words.display_name).astype(np.float32)
    value_of_class = np.zeros(max(classes) + 1, np.int64)
    value_of_class[classes] = np.arange(len(classes))
    return Words(directions, value_of_class[index[prompts]])


class _Attribute:
    """One attribute: the rows to fit and to score, and the probes."""

    def __init__(
        self,
        images: FeatureFile,
        attribute: Attribute,
        fit: SplitRows,
        scored: SplitRows,
        C: float,
        seed: int,
    ) -> None:
        self.attribute = attribute
        self.C = C
        self.seed = seed
        fitted, found = (np.append(rows.codes(attribute), -1) for rows in (fit, scored))
        self.occurring = np.intersect1d(fitted, found)[1:]  # -1 is no value
        self.has_others = len(np.setxor1d(fitted, found)) > 0
        self.fit = fit.with_values(attribute, self.occurring)
        self.scored = scored.with_values(attribute, self.occurring)
        self.y = self.fit.codes(attribute)
        self.labels = self.scored.codes(attribute)
        self.X, self.X_scored = self._embeddings(images)
        self.unit, self.unit_scored = map(similarity.normalize, (self.X, self.X_scored))
        self.values = len(self.occurring)

    @property
    def problems(self) -> list[str]:
        """What is wrong with the values: some cannot be measured, or not well."""
        if self.values < 2:
            return ["fewer than two values have fitted and scored images: nothing is measured"]
        problems = []
        if self.has_others:
            problems.append("values without fitted or without scored images are left out")
        if min(np.unique(self.labels, return_counts=True)[1]) < results.FEW_ROWS:
            problems.append(results.FEW_SCORED)
        return problems

    def row(self, words: Words | None, controls: Sequence[FeatureFile], random: int) -> Row:
        """Return the run of the attribute."""
        row: Row = {
            "attribute": self.attribute.name,
            "values": self.values,
            "rows": len(self.labels),
            "chance": 1 / self.values if self.values > 1 else math.nan,
        }
        zero, names, count = None, math.nan, self.values
        if words is not None and self.values > 1:
            words = words.of_values(self.occurring)
            zero = self._zeroshot(words)
            names = self._recall(self._on_directions(words.directions))
            count = len(words.directions)
        draws = []
        for number in range(random):
            draw_seed = (self.seed + number) % 2**32
            directions = similarity.random_directions(count, self.X.shape[1], draw_seed)
            draws.append(self._recall(self._on_directions(directions.astype(np.float32))))
        predicted = self._probe(self.X, self.X_scored)
        of_controls = [self._probe(*self._embeddings(file)) for file in controls]
        row |= self._with_interval("zeroshot", zero)
        row["names"] = names
        row |= _with_range("random", draws)
        row |= self._with_interval("probe", predicted)
        row |= _with_range("control", list(map(self._recall, of_controls)))
        row |= self._reach(row, zero, predicted)
        gains = [self._gain(predicted, of_control) for of_control in of_controls]
        return row | min(gains, key=itemgetter("gain_low"), default={})

    def _reach(self, row: Row, zeroshot: Int64 | None, probe: Int64 | None) -> Row:
        """Return the reach with its interval, by the delta method for a ratio."""
        nan = {"reach": math.nan, "reach_low": math.nan, "reach_high": math.nan}
        is_decodable = row["probe_low"] > row["chance"] + ABOVE_CHANCE
        if zeroshot is None or probe is None or not is_decodable:
            return nan
        above_chance = row["probe"] - row["chance"]
        reach = (row["zeroshot"] - row["chance"]) / above_chance
        gradient = np.array([1, -reach]) / above_chance
        variance = gradient @ metrics.recall_covariance(self.labels, [zeroshot, probe]) @ gradient
        half = metrics.QUANTILE * math.sqrt(variance)
        return {"reach": reach, "reach_low": reach - half, "reach_high": reach + half}

    def _gain(self, probe: Int64 | None, control: Int64 | None) -> Row:
        """Return the paired difference of the probe to a control with its interval."""
        if probe is None or control is None:
            return dict.fromkeys(("gain", "gain_low", "gain_high"), math.nan)
        gain = self._recall(probe) - self._recall(control)
        of_both = metrics.recall_covariance(self.labels, [probe, control])
        half = metrics.QUANTILE * math.sqrt(of_both.trace() - 2 * of_both[0, 1])
        return {"gain": gain, "gain_low": gain - half, "gain_high": gain + half}

    def _embeddings(self, file: FeatureFile) -> tuple[Float32, Float32]:
        return self.fit.embeddings(file), self.scored.embeddings(file)

    def _zeroshot(self, words: Words) -> Int64:
        cosines = _cosines(self.unit_scored, words.directions)
        scores = zeroshot.class_scores(cosines, words.values, self.values)
        return np.asarray(self.occurring[scores.argmax(axis=1)])

    def _on_directions(self, directions: Float32) -> Int64 | None:
        return self._probe(_cosines(self.unit, directions), _cosines(self.unit_scored, directions))

    def _probe(self, X: Float32, X_scored: Float32) -> Int64 | None:
        """Fit the probe and return its predictions, or None if there is nothing to learn."""
        if self.values < 2:
            return None
        (run,) = probes.sweep(
            X, self.y, X_scored, classifier="logreg", C=[self.C], standardize=True, balanced=True
        )
        if not run.converged:
            console.warn(f"the probe of {self.attribute.name} did not converge")
        return run.predicted

    def _recall(self, predicted: Int64 | None) -> float:
        if predicted is None:
            return math.nan
        return metrics.mean_per_class_recall(self.labels, predicted)

    def _with_interval(self, name: str, predicted: Int64 | None) -> Row:
        low = high = math.nan
        if predicted is not None:
            low, high = metrics.recall_interval(self.labels, predicted)
        return {name: self._recall(predicted), f"{name}_low": low, f"{name}_high": high}


def _cosines(unit: Any, directions: Float32) -> Float32:
    return np.asarray(unit @ directions.T, np.float32)


def _with_range(name: str, values: Sequence[float]) -> Row:
    """Return the mean, the lowest and the highest value, or NaN if there are none."""
    values = values or [math.nan]
    return {name: float(np.mean(values)), f"{name}_low": min(values), f"{name}_high": max(values)}
