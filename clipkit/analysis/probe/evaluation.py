"""Evaluate probes on a feature file: choose the rows to fit on, to hold out and to score."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from clipkit.analysis.held_out import (
    EVAL_SPLIT,
    FIT_SPLIT,
    choose_held_out,
    distinct_rows,
    few_shot,
    find_shared,
    hold_out,
    labelled_split,
    missing_classes,
)
from clipkit.analysis.predict import prediction
from clipkit.analysis.ranking import Ranking
from clipkit.analysis.results import Caveat, as_result, find_caveats, make_result
from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError, check_positive, unknown
from clipkit.base.matrices import BlockMatrix, Int64
from clipkit.base.names import class_name, select
from clipkit.features.arguments import Features, Several, as_file, as_list, checked
from clipkit.features.history import drop_none
from clipkit.features.matching import hash_rows, join_named
from clipkit.features.model import FeatureFile, Split
from clipkit.features.provenance import texts_hint
from clipkit.features.validation import MAX_COUNTED
from clipkit.probes import classifiers, sweeps
from clipkit.probes.classifiers import Classifier
from clipkit.probes.fitted import FittedProbe
from clipkit.statistics import main_number, metrics, softmax

FEATURES = ("logits", "probs")
MAX_PAIRED_CLASSES = 2000  # of a classifier with a hyperplane for each pair of them
MANY_PAIRS = 2**16  # of classes; they take minutes to hours
COARSE = 6  # steps between the values of C with which a search of a range begins
RANGE = re.compile(r"(?P<low>.+?)\.\.(?P<high>.+):(?P<count>[2-9]|[1-9][0-9]{1,3})")
MAX_KEPT = 2**28  # numbers of the hyperplanes of a kept SVM: 1 GiB


@dataclass(frozen=True)
class ProbeSpec:
    """A classifier, and how it reads the features.

    Attributes
    ----------
    classifier : str
        See `probes.sweep`.
    features : {"logits", "probs"}
        Of a logits file: cosine / tau, or its softmax over the prompts.
    standardize : bool, optional
        Give each column mean 0 and variance 1. By default for image embeddings, except with a
        classifier that compares directions.
    seed : int
        Random seed of the MLP and the validation split. Few-shot draw number d has the seed plus d.
    shots : sequence of int
        Rows of each class to fit on; without any, all. A smaller number draws some of the rows
        that a larger one draws.
    repeat : int
        Draws for each number of shots.
    k : int, optional
        Neighbours of kNN, 20 by default.

    Raises
    ------
    UsageError
        If the classifier or the kind of features is unknown, or `repeat` is below 1 or given
        without `shots`.
    """

    classifier: str = classifiers.DEFAULT
    features: str = "logits"
    standardize: bool | None = None
    seed: int = 42
    shots: Sequence[int] = ()
    repeat: int = 1
    k: int | None = None

    def __post_init__(self) -> None:
        classifiers.find(self.classifier)
        if self.features not in FEATURES:
            raise unknown("kind of features", self.features, FEATURES)
        if self.repeat < 1:
            raise UsageError(f"repeat: expected at least 1, got {self.repeat}")
        if self.repeat > 1 and not self.shots:
            raise UsageError("expected --shots for --repeat, got none", "add it: --shots 1,2")

    @property
    def method(self) -> Classifier:
        """What the classifier is."""
        return classifiers.find(self.classifier)

    def for_file(self, file: FeatureFile) -> ProbeSpec:
        """Return the same with the default of `standardize` for a file."""
        if self.standardize is not None:
            return self
        is_default = file.kind == "images" and not self.method.compares_directions
        return replace(self, standardize=is_default)

    def draws(self) -> list[Draw]:
        """Return the few-shot draws, or one of all rows."""
        return [Draw(n, number) for n in self.shots for number in range(self.repeat)] or [Draw()]


class Draw(NamedTuple):
    """A draw of rows to fit on: how many of each class (None: all), and its number from 0."""

    shots: int | None = None
    number: int = 0


@dataclass(frozen=True)
class Subset:
    """Rows under the name that reports use: `train`, or `train-val-4-shot` for a draw.

    Features are cosines (N, K) of a logits file, embeddings (N, D) of an images file: a
    `BlockMatrix`.
    """

    name: str
    rows: Split

    @property
    def labels(self) -> Int64:
        """Labels (N,) of the rows. Only an evaluation split may lack them."""
        assert self.rows.labels is not None
        return self.rows.labels


class Rows(NamedTuple):
    """What a grid of probes and its best run are fitted and scored on.

    The grid is fitted on `train` and scored on `scored`. After validation, the best run is fitted
    again on all rows of the split, `fit`, and scored on `test`. This is None without such rows, or
    if the grid is scored on them.
    """

    train: Subset
    scored: Subset
    fit: Subset
    test: Subset | None


@dataclass(frozen=True)
class Grid:
    """The probes of a file: one at every temperature (None: embeddings) and C.

    If the values of C are searched, only some of them are fitted.
    """

    file: FeatureFile
    spec: ProbeSpec
    taus: Sequence[float | None]
    Cs: Sequence[float]
    is_search: bool = False

    def settings(self) -> list[tuple[float | None, float]]:
        """Return the pairs (temperature, C), temperature by temperature."""
        return list(itertools.product(self.taus, self.Cs))


class Evaluation(NamedTuple):
    """A result, and by split the ranked classes of its images if these are to be printed."""

    result: FeatureFile
    rankings: dict[str, Ranking]


@checked
def evaluate(  # noqa: PLR0913
    file: Features,
    spec: ProbeSpec | None = None,
    temperatures: Several[float] = (),
    Cs: Several[float] | str = (1.0,),
    fit_split: str = FIT_SPLIT,
    eval_split: str = EVAL_SPLIT,
    val: float | str | None = None,
    keep: bool = False,
    per_image: bool | None = None,
) -> Evaluation:
    """Fit and score probes, and rank the classes of each image: what `clipkit probe` reports.

    `per_image` ranks the classes of the images of `eval_split`, which must not be rows held out of
    the fitted split. By default this is done only for a single run that has no accuracy, because
    the split has no labels. See `evaluate_grid` for the other parameters, the result, errors and
    warnings.
    """
    file = as_file(file, "file", "images logits")
    temperatures = as_list(temperatures, "temperatures", float)
    if not isinstance(Cs, str):
        Cs = as_list(Cs, "Cs", float)
    spec = spec or ProbeSpec()
    file, (fit_split, eval_split, val) = join_named(file, [fit_split, eval_split, val])
    if per_image is None:
        scored = file.splits.get(eval_split)
        per_image = False
        if scored is not None and scored.labels is None:
            count = max(1, len(temperatures)) * len(parse_range(Cs)) * len(spec.draws())
            per_image = val is None and count == 1
            if not per_image:
                console.note(
                    f"{eval_split} has no labels: --per-image prints its predictions, and -o "
                    "saves them"
                )
    result = evaluate_grid(
        file, spec, temperatures, Cs, fit_split, eval_split, val, keep or per_image
    )
    rankings = {}
    if per_image:
        if eval_split not in result.splits:
            raise UsageError(
                f"{file.display_name}: expected a split with predictions to print, got "
                "rows that are held out of the fitted split",
                "divide the file first: clipkit split FILE --test 0.2",
            )
        rankings = prediction.predict(result, file, [eval_split]).rankings
    return Evaluation(result if keep else as_result(result), rankings)


def evaluate_grid(  # noqa: PLR0913
    file: FeatureFile,
    spec: ProbeSpec | None = None,
    temperatures: Sequence[float] | None = None,
    Cs: Sequence[float] | str = (1.0,),
    fit_split: str = FIT_SPLIT,
    eval_split: str = EVAL_SPLIT,
    val: float | str | None = None,
    keep: bool = False,
) -> FeatureFile:
    """Fit a probe at every temperature and C, and score it.

    Without `val`, every probe is fitted on `fit_split` and scored on `eval_split`. With `val`,
    every probe is scored on validation rows. The best of them (the first of equals), by its main
    number there (see `statistics.main_number`), is then fitted again on all of `fit_split` and
    scored on `eval_split`, if there is such a split. Without labels of `eval_split`, its runs have
    predictions but no accuracy.

    If a file has a single split, by default a fifth of its rows is held out and scored, and the
    rest is fitted.

    Parameters
    ----------
    file : FeatureFile
        Of kind images or logits, with labels.
    spec : ProbeSpec, optional
        A linear SVM by default.
    temperatures : sequence of float, optional
        Of logits: absolute temperatures that divide the cosines; the file's own by default.
    Cs : sequence of float, or str
        Inverse strengths of regularisation, or a range such as ``1e-6..1e6:97`` of 97 numbers with
        equal ratios. With `val`, a range is searched at each temperature (Radford et al. 2021,
        appendix A.3): first every 16th number, then half as far from the best so far, and so on.
    fit_split, eval_split : str
    val : float or str, optional
        A fraction of `fit_split` to hold out for validation, or the name of a split.
    keep : bool
        Keep what was fitted, for `prediction.predict`. It is the only run or, if rows were held
        out, the best run, fitted again on all of `fit_split`.

    Returns
    -------
    FeatureFile
        A result with one run per temperature and C, temperature by temperature, and then the run of
        the best: `classifier`, `C`, `temperature`, `standardize`, `fit_split`, `eval_split`,
        `acc1`, `acc5` (of more than 5 classes, not of an SVM), `mean_per_class_recall`, for logits
        also `mean_entropy` and `mean_confidence`, with few shots also `shots`, `draw`
        and `fitted_per_class`, the mean number of rows that the classes had;
        `acc1_low` and `acc1_high`, Wilson's 95 % interval of `acc1` over another draw of the scored
        rows; and the predictions. Few-shot draws come one by one. Of kind probe if it is kept.

    Raises
    ------
    UsageError
        If several runs are to be kept and none is chosen by `val`, temperatures or probabilities
        are asked of image embeddings, `val` is neither a fraction nor another split than
        `fit_split`, or, with `val`, `eval_split` is misspelt.
    ClipkitError
        If a split or its labels are missing, or no class has two rows, of which one is held out.

    Warns
    -----
    On standard error: if rows are scored that were also fitted or used to choose, if images occur
    in both (see `matching.count_shared_rows`), if classes have too few rows for `shots` or none to
    fit, if temperatures cannot change the result, or if a fit did not converge.
    """
    spec = (spec or ProbeSpec()).for_file(file)
    file, (fit_split, eval_split, val) = join_named(file, [fit_split, eval_split, val])
    taus = _choose_temperatures(file, spec, temperatures)
    is_search = isinstance(Cs, str) and val is not None
    grid = Grid(file, spec, taus, parse_range(Cs), is_search)
    if keep:
        _check_one_run(grid, val)
    fit_split, val = choose_held_out(file, fit_split, eval_split, val)
    rows = _choose_rows(file, fit_split, eval_split, val, spec.seed)
    caveats = [
        *_find_caveats(file, rows, eval_split, val),
        *_check_rows(file, rows.train, rows.scored),
        *_check_rows(file, rows.fit, rows.test),
    ]
    _note_pairs(spec, rows.train)
    runs: list[ScoredRun] = []
    for draw in spec.draws():
        of_draw, to_keep = _evaluate_draw(grid, rows, draw, val is not None, keep)
        runs += of_draw
    unfinished = sum(not run.converged for run in runs)
    if unfinished:
        console.warn(f"{spec.classifier} did not converge in {unfinished} of {len(runs)} runs")
    kept = None
    if to_keep:
        kept = drop_none(select(to_keep.row, ("C", "temperature", "fit_split")))
        if math.isnan(kept["C"]):  # the classifier has none
            del kept["C"]
    shots: int | list[int] | None = list(spec.shots) or None
    if len(spec.shots) == 1:
        shots = spec.shots[0]
    history = file.extended_history(
        "probe",
        classifier=spec.classifier,
        k=spec.k,
        tried=sorted({run.row["C"] for run in runs}) if is_search else None,
        temperature=taus,
        features=spec.features,
        standardize=spec.standardize,
        shots=shots,
        repeat=spec.repeat if spec.repeat > 1 else None,
        seed=spec.seed,
        prompts=len(file.texts) if file.texts else None,
        C=Cs if isinstance(Cs, str) else list(Cs),
        fit_split=fit_split,
        eval_split=eval_split,
        val=val,
        kept=kept,
        caveats=caveats or None,
        inputs={"features": file.digest},
    )
    splits = {}
    for subset in (rows.scored, rows.test):
        if subset is not None:
            predicted = [run.predicted for run in runs if run.row["eval_split"] == subset.name]
            predictions = np.stack(predicted)
            splits[subset.name] = replace(subset.rows, features=None, predicted=predictions)
    result = make_result(
        history,
        [run.row for run in runs],
        splits=splits,
        class_names=file.class_names,
        display_name=file.display_name,
    )
    if to_keep is None or to_keep.fitted is None:
        return result
    return replace(result, kind="probe", texts=file.texts, fitted=to_keep.fitted.to_arrays())


def _evaluate_draw(
    grid: Grid, rows: Rows, draw: Draw, is_validated: bool, keep: bool
) -> tuple[list[ScoredRun], ScoredRun | None]:
    """Fit and score a grid on one draw. After validation, fit the best run again on all rows.

    Return the runs to report, and the one to keep, if one is.
    """
    seed = grid.spec.seed
    train = _draw_shots(rows.train, draw, seed)
    if grid.is_search:
        runs = _search(grid, train, rows.scored, draw)
    else:
        runs = _evaluate(grid, train, rows.scored, draw, keep and not is_validated)
    if not is_validated:
        return runs, runs[0] if keep else None
    best = runs[_best(runs, rows.scored.labels)].row
    if grid.is_search and best["C"] in (grid.Cs[0], grid.Cs[-1]):
        where = f"{train.name}: the chosen C, {best['C']:g}, is an end of the range"
        console.note(f"{where}: a wider one may have a better C")
    if rows.test is None and not keep:
        return runs, None
    fit = _draw_shots(rows.fit, draw, seed)
    Cs = grid.Cs if math.isnan(best["C"]) else [best["C"]]
    # without others, the probe is only kept, but a fit predicts one row at least
    test = rows.test or _subset(rows.fit.name, rows.fit.rows.take_in_blocks(np.array([0])))
    refitted_grid = replace(grid, taus=[best["temperature"]], Cs=Cs)
    (refitted,) = _evaluate(refitted_grid, fit, test, draw, keep)
    if rows.test is not None:
        runs = [*runs, refitted]
    return runs, refitted if keep else None


def _choose_rows(
    file: FeatureFile, fit_split: str, eval_split: str, val: float | str | None, seed: int
) -> Rows:
    whole = _load_subset(file, fit_split)
    fit = train = _subset(fit_split, whole.rows.take_in_blocks(distinct_rows(whole.rows)[0]))
    if val is None:
        scored = _load_subset(file, eval_split, needs_labels=False)
    elif val in file.splits and val != fit_split:
        scored = _load_subset(file, str(val))
    else:
        try:
            fraction = float(val)
        except ValueError:
            fraction = math.nan
        if not 0 < fraction < 1:
            raise UsageError(
                f"val: expected a fraction between 0 and 1 or a split other than {fit_split}, "
                f"got {val}",
                f"the splits are {', '.join(file.splits)}",
            )
        name, train_rows, val_rows = hold_out(file, fit_split, whole.labels, fraction, seed)
        train = _subset(f"{fit_split}-val", whole.rows.take_in_blocks(train_rows))
        scored = _subset(name, whole.rows.take_in_blocks(val_rows))
    test = None
    if eval_split in file.splits:
        if eval_split not in (scored.name, fit_split):
            test = _load_subset(file, eval_split, needs_labels=False)
    elif val is not None and eval_split != EVAL_SPLIT:
        raise unknown(f"split of {file.display_name}", eval_split, file.splits)
    return Rows(train, scored, fit, test)


def _check_one_run(grid: Grid, val: object) -> None:
    """Check that one run remains, which can be kept."""
    draws = len(grid.spec.draws())
    settings = len(grid.settings())
    if draws > 1:
        raise UsageError(
            f"expected one few-shot draw to keep or to print by image, got {draws}",
            "give one number of --shots and no --repeat",
        )
    if settings > 1 and val is None:
        raise UsageError(
            f"expected one run to keep or to print by image, got {settings}",
            "choose on validation rows: --val 0.2",
        )


def _choose_temperatures(
    file: FeatureFile, spec: ProbeSpec, temperatures: Sequence[float] | None
) -> list[float | None]:
    if file.kind == "logits":
        if temperatures and spec.features == "logits":
            if spec.standardize:
                console.warn("standardised features are the same at every temperature")
            elif spec.method.compares_directions:
                name = spec.classifier
                console.warn(f"{name} compares directions, which are the same at every temperature")
        chosen = temperatures or [file.default_temperature]
        for tau in chosen:
            check_positive("temperature", tau)
        return list(chosen)
    if temperatures or spec.features == "probs":
        raise UsageError(
            f"{file.display_name}: expected logits for temperatures or probabilities, "
            "got image embeddings",
            texts_hint(file),
        )
    return [None]


def _find_caveats(file: FeatureFile, rows: Rows, eval_split: str, val: object) -> list[Caveat]:
    """Warn if the evaluated rows were also used to choose, and return what a history says of it."""
    scored, test = rows.scored.rows, rows.test
    if val is not None and rows.scored.name == eval_split:
        return find_caveats("chosen", eval_split, len(scored), len(scored))
    if test is None or val not in file.splits:  # a fraction of the fitted rows is fitted later
        return []
    return find_shared("chosen", eval_split, scored.features, test.rows.features)


def _load_subset(file: FeatureFile, name: str, *, needs_labels: bool = True) -> Subset:
    split = file.splits.get(name)
    if split is None or needs_labels:
        split = labelled_split(file, name)
    # image embeddings have no temperature to undo
    return _subset(name, replace(split, features=file.cosines(name)))


def _subset(name: str, rows: Split) -> Subset:
    """Name rows; read their features now if they are few, or else whenever they are needed."""
    features = BlockMatrix.from_array(rows.features.read_if_small())
    return Subset(name, replace(rows, features=features))


class ScoredRun(NamedTuple):
    """A run: its columns of the report, predictions (M,), whether it converged, what is kept."""

    row: dict[str, Any]
    predicted: Int64
    converged: bool
    fitted: FittedProbe | None


def _evaluate(grid: Grid, fit: Subset, scored: Subset, draw: Draw, keep: bool) -> list[ScoredRun]:
    """Fit on a subset, which is a `draw`, and score another, at every temperature and C."""
    file, spec = grid.file, grid.spec
    _check_class_count(file, spec, fit, keep)
    runs = _fit_and_predict(grid, fit, scored, keep)
    taus = [tau for tau in grid.taus if tau is not None]  # image embeddings have none
    entropies = {}
    if taus:
        pairs = softmax.mean_entropy_and_confidence(scored.rows.features, taus)
        entropies = dict(zip(taus, pairs, strict=True))
    results = []
    for (tau, _), run in zip(grid.settings(), runs, strict=True):
        row = {
            "classifier": spec.classifier,
            "C": run.C,
            "temperature": tau,
            "standardize": spec.standardize,
            "fit_split": fit.name,
            "eval_split": scored.name,
            **metrics.accuracies(scored.rows.labels, run.best),
        }
        if tau is not None:
            row["mean_entropy"], row["mean_confidence"] = entropies[tau]
        if spec.k is not None:
            row["k"] = spec.k
        if draw.shots is not None:
            row |= {"shots": draw.shots, "draw": draw.number}
            row["fitted_per_class"] = len(fit.labels) / len(np.unique(fit.labels))
        row |= metrics.accuracy_interval(scored.rows.labels, run.predicted)
        fitted = run.fitted
        if fitted:
            source = "embeddings" if file.kind == "images" else spec.features
            hashes = hash_rows(fit.rows.features)
            fitted = replace(fitted, input=source, temperature=tau, row_hashes=hashes)
        results.append(ScoredRun(row, run.predicted, run.converged, fitted))
    return results


def parse_range(Cs: Sequence[float] | str) -> list[float]:
    """Return the numbers of a range such as ``1e-6..1e6:97``; a list stays.

    >>> parse_range("0.01..100:5")
    [0.01, 0.1, 1.0, 10.0, 100.0]
    """
    if not isinstance(Cs, str):
        return list(Cs)
    match = RANGE.fullmatch(Cs)
    if match is None:
        raise UsageError(f"C: expected a range such as 1e-6..1e6:97, got {Cs!r}")
    low, high = check_positive("C", match["low"]), check_positive("C", match["high"])
    return sorted(float(f"{C:.8g}") for C in np.geomspace(low, high, int(match["count"])))


def _search(grid: Grid, fit: Subset, scored: Subset, draw: Draw) -> list[ScoredRun]:
    """Score some values of C at each temperature: few at first, then those beside the best."""
    runs: list[ScoredRun] = []
    last = len(grid.Cs) - 1
    for tau in grid.taus:
        step = 2 ** int(math.log2(max(1, last / COARSE)))
        places = {*range(0, last, step), last}
        found: dict[int, ScoredRun] = {}
        while step:
            new = sorted(places - found.keys())
            part = replace(grid, taus=[tau], Cs=[grid.Cs[place] for place in new])
            if new:
                found |= zip(new, _evaluate(part, fit, scored, draw, keep=False), strict=True)
            tried = sorted(found)
            best = tried[_best([found[place] for place in tried], scored.labels)]
            step //= 2
            places = {best - step, best + step} & set(range(last + 1))
        runs += [found[place] for place in sorted(found)]
    return runs


def _best(runs: Sequence[ScoredRun], labels: Int64) -> int:
    """Return the place of the run with the highest main number; of equals, the first."""
    name = main_number.RECALL_COLUMN if main_number.is_unequal(labels) else "acc1"
    return max(range(len(runs)), key=lambda place: runs[place].row[name])


def _draw_shots(fit: Subset, draw: Draw, seed: int) -> Subset:
    """Return a few-shot draw of a subset, or the subset if the draw is of all rows."""
    if draw.shots is None:
        return fit
    shots = draw.shots
    drawn = few_shot(fit.labels, shots, (seed + draw.number) % 2**32)
    counts = np.unique(fit.labels, return_counts=True)[1]
    small = int((counts < shots).sum())
    name = f"{fit.name}-{shots}-shot"
    if small:
        if not draw.number:
            console.warn(
                f"{small} of {len(counts)} classes of {fit.name} have fewer than {shots} rows "
                f"(the smallest: {counts.min():,}): all of their rows are used"
            )
        name = f"{fit.name}-up-to-{shots}-shot"
    return _subset(name, fit.rows.take_in_blocks(drawn))


def _check_class_count(file: FeatureFile, spec: ProbeSpec, fit: Subset, keep: bool) -> None:
    """Refuse classes that are too many to fit, or whose hyperplanes are too large to keep."""
    most = MAX_PAIRED_CLASSES if spec.method.fits_pairs else MAX_COUNTED
    n = len(np.unique(fit.labels))
    if n > most:
        raise ClipkitError(
            f"{file.display_name}: {fit.name}: expected at most {most:,} classes for "
            f"{spec.classifier}, got {n:,}",
            "check whether the labels are classes",
        )
    size = n * (n - 1) // 2 * (fit.rows.features.shape[1] + 1)
    if keep and spec.method.fits_pairs and size > MAX_KEPT:
        raise ClipkitError(
            f"{file.display_name}: expected at most {MAX_KEPT:,} numbers to keep, got {size:,} "
            f"in the hyperplanes of an {spec.classifier} of {n:,} classes",
            f"keep {classifiers.LOGREG.name}, which has one row per class",
        )


def _note_pairs(spec: ProbeSpec, fit: Subset) -> None:
    """Say what fitting pairs of many classes costs, before it begins."""
    n = len(np.unique(fit.labels))
    pairs = n * (n - 1) // 2
    if spec.method.fits_pairs and pairs > MANY_PAIRS:
        console.note(
            f"{spec.classifier} fits {pairs:,} pairs of classes, which takes minutes to hours: "
            f"--classifier {classifiers.LOGREG.name} fits all {n:,} classes together"
        )


def _check_rows(file: FeatureFile, fit: Subset, scored: Subset | None) -> list[Caveat]:
    """Warn of rows that no probe can get right or that were fitted, too, and return the latter."""
    if scored is None:
        return []
    labels = fit.labels if scored.rows.labels is None else scored.rows.labels
    missing = missing_classes(fit.labels, labels)
    if len(missing):
        console.warn(
            f"{fit.name} lacks {len(missing)} of the classes of {scored.name} (for example "
            f"{class_name(file.class_names, missing[0])}), so all their rows count as wrong"
        )
    if fit.name == scored.name:
        return find_caveats("fitted", scored.name, len(scored.rows), len(scored.rows))
    return find_shared("fitted", scored.name, fit.rows.features, scored.rows.features)


def _fit_and_predict(grid: Grid, fit: Subset, scored: Subset, keep: bool) -> list[sweeps.Run]:
    """Return the runs temperature by temperature, C by C."""
    spec = grid.spec
    X, X_eval = fit.rows.features, scored.rows.features
    with console.progress(f"fitting {spec.classifier}", "steps") as progress:
        sweep = functools.partial(
            sweeps.sweep,
            classifier=spec.classifier,
            C=grid.Cs,
            standardize=bool(spec.standardize),
            seed=spec.seed,
            k=spec.k,
            keep=keep,
            progress=progress,
        )
        divisors = [tau or 1.0 for tau in grid.taus]  # embeddings have no temperature
        if spec.features == "logits":
            scales = [1 / divisor for divisor in divisors]
            return sweep(X, fit.labels, X_eval, scales=scales)
        runs = []
        for divisor in divisors:
            probabilities = softmax.softmax(np.asarray(X), divisor)
            runs += sweep(probabilities, fit.labels, softmax.softmax(np.asarray(X_eval), divisor))
        return runs
