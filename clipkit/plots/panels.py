"""Arrange what results and logits hold as curves, grids and means for pictures.

Functions raise `UsageError` for a split, image or class that does not exist, and `ClipkitError` for
a file that does not hold what they need.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipkit.analysis import metrics, similarity, softmax
from clipkit.analysis.results import (
    MAX_CLASSES,
    MAX_NAME,
    NAMED_PROMPTS,
    Predictions,
    Row,
    caveat_note,
    check_finite,
    check_run_count,
    choose_split,
    class_count,
    class_names,
    column,
    columns_of,
    default_split,
    join_names,
    labels_of,
    newest_entry,
    prompt_count,
    run_settings,
    scored_runs,
    source_label,
)
from clipkit.base import console
from clipkit.base.errors import ClipkitError, ImageError, UsageError, check_positive, unknown
from clipkit.base.names import distinct_names
from clipkit.features import FeatureFile, Int64, Split
from clipkit.features.compatibility import matching_split
from clipkit.features.history import provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from clipkit.datasets import Dataset, ImageDataset
    from clipkit.plots import ShotCurve, Sweep

Floats = NDArray[np.float64]

MAX_MEANS = 1 << 24  # of classes x prompts: 128 MiB
MAX_CURVES = 100
TILE_PIXELS = 96
ID_LENGTH = 12  # characters of an image's id
GREY = 204  # of the tile in place of an image that cannot be used
SWEEP_COLUMNS = ("classifier", "C", "temperature", "eval_split", "acc1", "mean_entropy")


@dataclass(frozen=True)
class AccuracyGrid:
    """Accuracies (S, T) as fractions: row s at `Cs[s]`, column t at `temperatures[t]`."""

    values: Floats
    Cs: list[float]
    temperatures: list[float]
    label: str
    split: str


class _Runs(NamedTuple):
    """Runs of the result with a number that one curve shows."""

    number: int
    label: str
    rows: list[Row]


@dataclass(frozen=True)
class ComparisonPanels:
    """The rows of a comparison as arrays for a picture.

    Attributes
    ----------
    names : list of F str
        Of the results, with their models if these differ.
    groups : list of G str
        Empty without groups; then G is 1.
    accuracy : (F, G, 3) array
        Accuracy of each result in each group, with the ends of Wilson's 95 % interval.
    difference : (F - 1, G, 3) array
        Of the first result minus each other, with the ends of its 95 % interval.
    null5 : (F,) array
        The 5th percentile of the worst group's accuracy under permutation; NaN without groups.
    label : str
        Results and attribute, for a title.
    source : str
        Models, data set, split, number of images and prompts, for a subtitle.
    """

    names: list[str]
    groups: list[str]
    accuracy: Floats
    difference: Floats
    null5: Floats
    label: str
    source: str


def temperature_sweeps(results: Sequence[FeatureFile], split: str | None = None) -> list[Sweep]:
    """Collect accuracy and entropy against temperature, with Wilson's 95 % interval.

    Parameters
    ----------
    results : sequence of FeatureFile
        Of `probe` on logits.
    split : str, optional
        Only the runs that were scored on this split. By default those of every split with several
        runs, or all if none has: a sweep is drawn without the run that was chosen from it.

    Returns
    -------
    list of Sweep
        One per classifier, C and split of each result. Where results differ in model, data set or
        prompts, the labels begin with these. Otherwise equal labels begin with the file's name.
    """
    curves: dict[tuple[int, str, str], _Runs] = {}
    for number, result in enumerate(results):
        _check_sweep(result)
        rows = _rows_of_sweeps(result) if split is None else _rows_on(result, split)
        for row in rows:
            label = _sweep_label(result, row)
            key = (number, label, str(row["C"]))  # as text, NaN equals NaN
            curves.setdefault(key, _Runs(number, label, [])).rows.append(row)
    if len(curves) > MAX_CURVES:
        raise ClipkitError(
            f"expected at most {MAX_CURVES} curves, got {len(curves):,}",
            "choose a split with --split, or draw fewer files",
        )
    labels = _tell_apart(results, list(curves.values()))
    sweeps = []
    for label, runs in zip(labels, curves.values(), strict=True):
        sweeps.append(_sweep(results[runs.number], label, runs.rows))
    return sweeps


def sweep_splits(results: Sequence[FeatureFile], split: str | None = None) -> list[str]:
    """Return the splits that `temperature_sweeps` draws."""
    if split is not None:
        return [split]
    rows = itertools.chain.from_iterable(map(_rows_of_sweeps, results))
    return list(dict.fromkeys(column(rows, "eval_split")))


def _rows_of_sweeps(result: FeatureFile) -> list[Row]:
    rows = result.rows()
    counts = Counter(column(rows, "eval_split"))
    return [row for row in rows if counts[row["eval_split"]] > 1] or rows


def _sweep_label(result: FeatureFile, row: Row) -> str:
    label = ", ".join([*run_settings(row, numbers=["C"]), row["eval_split"]])
    if newest_entry(result).get("features") == "probs":
        label += " (probs)"
    return label


def _tell_apart(results: Sequence[FeatureFile], curves: Sequence[_Runs]) -> list[str]:
    """Return the labels of curves behind what sets their results apart; no two labels are equal.

    That is the model, data set and prompts as far as they differ, else the file. Labels that
    differ, of results that do not, stay as they are.
    """
    from clipkit.plots import Sweep  # loads matplotlib

    labels = [runs.label for runs in curves]
    sources = _differing_sources(results)
    if not any(sources) and len(set(labels)) == len(labels):
        return labels
    paths = [Path(result.display_name).with_suffix("") for result in results]
    stems = [path.name for path in paths]
    with_folders = ["/".join(path.parts[-2:]) for path in paths]
    for names in (sources, stems, with_folders):
        prefixed = _prefixed(names, curves)
        cut = {label[: Sweep.MAX_LABEL - 1] for label in prefixed}
        if any(names) and len(cut) == len(labels):
            return prefixed
    return _prefixed([f"file {number}" for number in range(1, len(results) + 1)], curves)


def _prefixed(names: Sequence[str], curves: Sequence[_Runs]) -> list[str]:
    return [f"{names[runs.number]}: {runs.label}" for runs in curves]


def _differing_sources(results: Sequence[FeatureFile]) -> list[str]:
    """Name the model, data set and prompts of each result, as far as the results differ in them."""
    sources = [provenance(file) for file in results]
    sources = [source._replace(model=source.model or "no model") for source in sources]
    differs = [len(set(names)) > 1 for names in zip(*sources, strict=True)]
    return [", ".join(filter(None, itertools.compress(source, differs))) for source in sources]


def _accuracy_on(result: FeatureFile, other: FeatureFile, name: str) -> float | None:
    """Return the accuracy of the first run on a split of another result; None if it lacks rows."""
    split = result.splits.get(matching_split(result, other, name) or "", Split())
    row_of = {row_id: row for row, row_id in enumerate(split.ids)}
    ids = other.splits[name].ids
    if split.labels is None or split.predicted is None or not row_of.keys() >= set(ids):
        return None
    rows = [row_of[row_id] for row_id in ids]
    return metrics.accuracy(split.labels[rows], split.predicted[0, rows])


def _check_sweep(result: FeatureFile) -> None:
    check_run_count(result)
    has_columns = set(SWEEP_COLUMNS).issubset(result.runs)
    if not has_columns or not np.isfinite(result.runs["temperature"]).all():
        raise ClipkitError(
            f"{result.display_name}: expected a sweep over temperatures, got a result of "
            f"{newest_entry(result)['command']}",
            "make one with: clipkit probe logits.h5 -t 1,0.5,0.07 -o probe.h5",
        )


def _rows_on(result: FeatureFile, split: str) -> list[Row]:
    rows = result.runs_on(split)
    if not rows:
        splits = set(result.runs["eval_split"].tolist())
        raise unknown(f"split of {result.display_name}", split, splits)
    return rows


def _sweep(result: FeatureFile, label: str, rows: list[Row]) -> Sweep:
    from clipkit.plots import Sweep  # loads matplotlib

    n = len(scored_runs(result, rows[0]["eval_split"]).labels)
    accuracies = column(rows, "acc1")
    low, high = np.transpose([metrics.wilson(accuracy, n) for accuracy in accuracies])
    temperatures, entropies = column(rows, "temperature"), column(rows, "mean_entropy")
    return Sweep(label, temperatures, accuracies, entropies, low, high)


def comparison_panels(result: FeatureFile) -> ComparisonPanels:
    """Arrange a result of `compare` for a picture.

    Raises
    ------
    ClipkitError
        If it is a result of another command.
    """
    columns = columns_of(result, "compare", "a split rows acc_a low high")
    names = [str(columns["a"][0])]
    if "b" in result.runs:
        columns |= columns_of(result, "compare", "b acc_b difference")
        names += filter(None, dict.fromkeys(columns["b"].tolist()))
    check_finite(result, "rows", low=1)
    rows = result.rows()
    worst = [row for row in rows if not np.isnan(row.get("null", np.nan))]
    if worst:
        columns_of(result, "compare", "group null null5")
    rows = [row for row in rows[: len(rows) - len(worst)] if row.get("scope") != "all"]
    pairs = max(1, len(names) - 1)  # the rows of a group come one after the other
    if not rows or len(rows) % pairs or len(worst) not in (0, len(names)):
        raise ClipkitError(
            f"{result.display_name}: expected {pairs} rows for each group, got others"
        )
    by_group = [rows[start : start + pairs] for start in range(0, len(rows), pairs)]
    by_pair = list(zip(*by_group, strict=True))
    firsts = by_pair[0]
    accuracy = [_accuracies(firsts, "acc_a")]
    difference = np.empty((0, len(firsts), 3))
    label = names[0]
    if len(names) > 1:
        label += f" against {', '.join(names[1:])}"
        accuracy += [_accuracies(of_pair, "acc_b") for of_pair in by_pair]
        with_ends = itemgetter("difference", "low", "high")
        difference = np.array([list(map(with_ends, of_pair)) for of_pair in by_pair])
    entry = newest_entry(result)
    groups: list[str] = []
    null5 = np.full(len(names), np.nan)
    if worst:
        label += f", by {entry.get('column', 'group')}"
        groups = column(firsts, "group")
        null5 = np.array(column(worst, "null5"))
    models = _texts_of(entry, "models")
    return ComparisonPanels(
        _with_models(names, models),
        groups,
        np.array(accuracy),
        difference,
        null5,
        label,
        _comparison_source(result, models, firsts),
    )


def _comparison_source(result: FeatureFile, models: Sequence[str], firsts: Sequence[Row]) -> str:
    """Name models, data set, split, number of images and prompts."""
    on_data = [join_names(models) or "no model", provenance(result).dataset]
    n = int(sum(column(firsts, "rows")))
    facts = [" on ".join(filter(None, on_data)), firsts[0]["split"], f"{n:,} images"]
    prompts = join_names(_texts_of(newest_entry(result), "prompts"))
    if prompts:
        facts.append(NAMED_PROMPTS + prompts)
    return ". ".join(filter(None, [", ".join(facts), caveat_note(result)]))


def _texts_of(entry: Row, name: str) -> list[str]:
    """Return a list of texts of a history, where anything may be written."""
    value = entry.get(name)
    if not isinstance(value, list):
        return []
    return [str(text)[:MAX_NAME] for text in value]


def _with_models(names: Sequence[str], models: Sequence[str]) -> list[str]:
    """Add the models of results to their names, if the models differ."""
    if len(models) != len(names) or len(set(models)) == 1:
        return list(names)
    return [f"{name} ({model})" for name, model in zip(names, models, strict=True)]


def _accuracies(rows: Sequence[Row], column: str) -> list[tuple[float, float, float]]:
    """Return the accuracies of rows with the ends of Wilson's 95 % interval."""
    return [(row[column], *metrics.wilson(row[column], int(row["rows"]))) for row in rows]


def common_prompt_count(results: Sequence[FeatureFile]) -> int | None:
    """Return K, the number of prompts that results of `probe` share; None if they differ."""
    counts = {prompt_count(newest_entry(result).get("prompts")) for result in results}
    return counts.pop() if len(counts) == 1 else None


def accuracy_grid(result: FeatureFile, split: str | None = None) -> AccuracyGrid:
    """Arrange the accuracies of a sweep as a grid of at least two temperatures and values of C.

    Parameters
    ----------
    result : FeatureFile
        Of `probe` on logits.
    split : str, optional
        That the runs were scored on; the split with the most runs by default.
    """
    _check_sweep(result)
    if split is None:
        counts = Counter(column(result.rows(), "eval_split"))
        split = min(counts, key=lambda name: (-counts[name], name))
    settings = itemgetter("C", "temperature")
    rows = sorted(_rows_on(result, split), key=settings)
    classifiers = sorted(set(column(rows, "classifier")))
    if len(classifiers) > 1:
        raise ClipkitError(
            f"{result.display_name}: expected a grid of one classifier, "
            f"got {', '.join(classifiers)}"
        )
    temperatures = sorted(set(column(rows, "temperature")))
    Cs = sorted({C for C in column(rows, "C") if not math.isnan(C)})
    is_grid = list(map(settings, rows)) == list(itertools.product(Cs, temperatures))
    if not is_grid or min(len(temperatures), len(Cs)) < 2:
        raise ClipkitError(
            f"{result.display_name}: expected a grid of at least 2 temperatures x 2 C on {split}, "
            f"got {len(rows)} runs of {len(temperatures)} x {len(Cs)}",
            "make one with: clipkit probe logits.h5 -t 1,0.5,0.25 -C 1,4,16 -o grid.h5",
        )
    accuracy = np.reshape(column(rows, "acc1"), (len(Cs), len(temperatures)))
    is_probs = newest_entry(result).get("features") == "probs"
    features = "softmax(cosine / τ)" if is_probs else "cosine / τ"
    label = f"{classifiers[0]} on {features}, scored on {split}"
    return AccuracyGrid(accuracy, Cs, temperatures, label, split)


def class_means(logits: FeatureFile, split: str | None = None) -> tuple[Floats, list[str]]:
    """Return the mean cosine of each class with each prompt (C, K), and the class names (C).

    NaN stands for a class without images.
    """
    split = choose_split(logits, split)
    labels = labels_of(logits, split)
    C, K = class_count(logits, int(labels.max())), len(logits.texts or [])
    if C > MAX_CLASSES or C * K > MAX_MEANS:
        raise ClipkitError(
            f"{logits.display_name}: expected at most {MAX_CLASSES:,} classes and {MAX_MEANS:,} "
            f"means, got {C:,} classes x {K:,} prompts"
        )
    return similarity.class_means(logits.cosines(split), labels, C), class_names(logits, C - 1)


def draw_classes(predictions: Predictions, noun: str, title: str | None = None) -> Figure:
    """Draw the best and the worst F1 per class, or per group of classes."""
    from clipkit import plots  # loads matplotlib

    labels, names = predictions.labels, predictions.class_names
    f1 = metrics.f1_per_class(labels, predictions.predicted, len(names))
    support = np.bincount(labels, minlength=len(names))
    title = title or f"F1 of each {noun} ({predictions.label})"
    return plots.classes(f1, names, support=support, noun=noun, title=title)


def draw_softmax(
    logits: FeatureFile,
    statistic: Literal["entropy", "confidence"],
    temperatures: Sequence[float],
    split: str | None = None,
    title: str | None = None,
) -> tuple[Figure, str]:
    """Draw a statistic of the softmax per image, by default at the file's temperature.

    Also return what it is of, for a subtitle.
    """
    from clipkit import plots  # loads matplotlib

    split = choose_split(logits, split)
    taus = temperatures or [check_positive("temperature", logits.default_temperature)]
    cosines = logits.cosines(split).read()
    values = {tau: getattr(softmax, statistic)(cosines, tau) for tau in taus}
    title = title or f"{statistic.capitalize()} of the softmax over prompts, per image"
    figure = getattr(plots, statistic)(values, cosines.shape[1], title=title)
    return figure, counted_source(logits, split)


def counted_source(logits: FeatureFile, split: str) -> str:
    """Name what a split is about, with its number of images."""
    count = len(logits.splits[split])
    noun = "image" if count == 1 else "images"
    return f"{source_label(logits, split)}, {count:,} {noun}"


def cosine_lines(
    logits: FeatureFile,
    split: str | None = None,
    images: Sequence[str] = (),
    classes: Sequence[str] = (),
) -> tuple[Floats, list[str]]:
    """Select the cosines of images, and the mean cosines of classes, with each prompt.

    Parameters
    ----------
    images, classes : sequence of str
        Ids, and names; the first five classes if neither are given. If several classes have a
        name, all of them are selected.

    Returns
    -------
    cosines : array (M, K)
    labels : list of M str
    """
    split = choose_split(logits, split)
    ids = logits.splits[split].ids
    cosines = np.asarray(logits.cosines(split))
    lines, labels = [], []
    for image in images:
        if image not in ids:
            raise unknown(f"image of {split}", image, ids)
        lines.append(cosines[ids.index(image)])
        labels.append(image)
    if classes or not images:
        number_of = labels_of(logits, split)
        names = class_names(logits, int(number_of.max()))
        distinct = distinct_names(names)
        for c in _select_classes(names, classes):
            is_in_class = number_of == c
            mean = np.full(cosines.shape[1], np.nan)
            if is_in_class.any():
                mean = cosines[is_in_class].mean(axis=0, dtype=np.float64)
            lines.append(mean)
            labels.append(f"mean of {distinct[c]}")
    return np.stack(lines), labels


def choose_prompts(logits: FeatureFile, prompts: Sequence[str] = ()) -> list[int]:
    """Return the columns of prompts, given by their texts; by default all."""
    texts = logits.texts or []
    for prompt in prompts:
        if prompt not in texts:
            raise unknown(f"prompt of {logits.display_name}", prompt, texts)
    if not prompts:
        return list(range(len(texts)))
    return [texts.index(prompt) for prompt in prompts]


def _select_classes(names: Sequence[str], selected: Sequence[str]) -> list[int]:
    """Return the numbers of the classes of the selected names; by default the first five."""
    if not selected:
        return list(range(len(names)))[:5]
    numbers: list[int] = []
    for name in selected:
        if name not in names:
            raise unknown("class", name, names)
        numbers += np.flatnonzero(np.array(names) == name).tolist()
    return numbers


def draw_variance(result: FeatureFile, title: str | None = None) -> tuple[Figure, str]:
    """Draw a result of `variance`; return the figure and what it is of, for a subtitle."""
    from clipkit import plots  # loads matplotlib

    if "prompt" in result.runs:
        return _draw_prompt_variance(result, title)
    of_controls = "control_share control_low control_high"
    columns = columns_of(result, "variance", f"split attribute share unique {of_controls}")
    control = None
    if np.isfinite(columns["control_share"]).any():
        control = columns["control_share"], columns["control_low"], columns["control_high"]
    figure = plots.variance(
        columns["attribute"].tolist(),
        columns["share"],
        unique=columns["unique"],
        control=control,
        title=title or "What the embeddings' variance is about",
    )
    return figure, source_label(result, str(columns["split"][0]))


def _draw_prompt_variance(result: FeatureFile, title: str | None) -> tuple[Figure, str]:
    from clipkit import plots  # loads matplotlib

    columns = columns_of(result, "variance", "split attribute prompt share above")
    attributes = list(dict.fromkeys(columns["attribute"].tolist()))
    prompts = columns["prompt"].tolist()[:: len(attributes)]
    if columns["attribute"].tolist() != attributes * len(prompts):
        raise ClipkitError(
            f"{result.display_name}: expected a row for each prompt and attribute, got others"
        )
    shape = (len(prompts), len(attributes))
    figure = plots.prompt_variance(
        columns["share"].reshape(shape),
        columns["above"].reshape(shape),
        prompts,
        attributes,
        title=title or "What each prompt's cosines measure",
    )
    return figure, source_label(result, str(columns["split"][0]))


def attribute_recalls(result: FeatureFile) -> dict[str, NDArray[Any]]:
    """Return the columns of a result of `attributes`: `attribute` is str, all others float."""
    names = "attribute chance reach"
    for name in ("zeroshot", "random", "probe", "control"):
        names += f" {name} {name}_low {name}_high"
    return columns_of(result, "attributes", names)


def draw_attributes(result: FeatureFile, title: str | None = None) -> tuple[Figure, str]:
    """Draw a result of `attributes`; return the figure and what it is of, for a subtitle."""
    from clipkit import plots  # loads matplotlib

    columns = attribute_recalls(result)
    legend = {
        "zeroshot": "zero-shot, by words",
        "probe": "probe",
        "random": "random directions",
        "control": "untrained control",
    }
    series = {
        label: plots.Dots(columns[name], columns[f"{name}_low"], columns[f"{name}_high"])
        for name, label in legend.items()
    }
    figure = plots.attributes(
        columns["attribute"].tolist(),
        columns["chance"],
        series,
        columns["reach"],
        title=title or "Recall of each attribute",
    )
    return figure, source_label(result, str(newest_entry(result).get("eval_split")))


def prompt_costs(result: FeatureFile) -> dict[str, NDArray[Any]]:
    """Return the columns of a result of `importance`: `name` and `split` are str, others float.

    The name is that of a prompt or of a group.
    """
    noun = "group" if "group" in result.runs else "prompt"
    columns = columns_of(result, "importance", f"{noun} split acc1 cost low high changed")
    for name in ("acc1", "cost", "low", "high"):
        check_finite(result, name)
    columns["name"] = columns.pop(noun)
    return columns


def shot_curves(results: Sequence[FeatureFile]) -> list[ShotCurve]:
    """Collect the accuracy of few-shot probes against the labelled images per class.

    Returns
    -------
    list of ShotCurve
        One for each result, classifier, C and temperature, scored on the last split that the result
        has: the one that nothing was chosen on.
    """
    from clipkit.plots import ShotCurve  # loads matplotlib

    draws: dict[tuple[int, str], _Runs] = {}
    for number, result in enumerate(results):
        columns_of(result, "probe --shots", "shots classifier C temperature eval_split acc1")
        check_finite(result, "acc1")
        check_finite(result, "shots", low=1)
        split = result.runs["eval_split"][-1]
        for row in result.runs_on(split):
            label = ", ".join([*run_settings(row), f"on {split}"])
            draws.setdefault((number, label), _Runs(number, label, [])).rows.append(row)
    labels = _tell_apart(results, list(draws.values()))
    curves = []
    for label, runs in zip(labels, draws.values(), strict=True):
        shots = np.array(column(runs.rows, "shots")).astype(int)
        accuracies = np.array(column(runs.rows, "acc1"))
        counts = np.unique(shots).tolist()
        points = []
        for n in counts:
            of_draws = accuracies[shots == n]
            points.append((of_draws.mean(), of_draws.min(), of_draws.max()))
        mean, low, high = np.transpose(points).tolist()
        curves.append(ShotCurve(label, counts, mean, low, high))
    return curves


def zeroshot_line(zeroshot: FeatureFile, probe: FeatureFile, curve: ShotCurve) -> tuple[float, str]:
    """Return the accuracy of zero-shot classification, and what it is worth in labelled images.

    That is where the curve crosses it, on a logarithmic scale of images.

    Raises
    ------
    ClipkitError
        If it is no result of `zeroshot`, or of other images than the probe's.
    """
    scored = str(probe.runs["eval_split"][-1])
    accuracy = _accuracy_on(zeroshot, probe, scored) if scored in probe.splits else None
    if accuracy is None:
        raise ClipkitError(
            f"{zeroshot.display_name}: expected zero-shot predictions of the images of "
            f"{probe.display_name}, got others"
        )
    shots, means = np.asarray(curve.shots, np.float64), np.asarray(curve.mean)
    above = np.flatnonzero(means >= accuracy)
    if not len(above):
        worth = f"more than {shots[-1]:g} labelled images per class"
    elif above[0] == 0:
        worth = f"at most {shots[0]:g} labelled images per class"
    else:
        last = above[0]
        part = (accuracy - means[last - 1]) / (means[last] - means[last - 1])
        crossing = shots[last - 1] * (shots[last] / shots[last - 1]) ** part
        worth = f"{crossing:.1f} labelled images per class"
    return accuracy, f"zero-shot, {100 * accuracy:.1f} %: worth {worth}"


class Nearest(NamedTuple):
    """The rows with the highest and with the lowest cosine with a prompt, and those cosines.

    Both are (2, M): the highest M and the lowest M, each by falling cosine.
    """

    name: str
    rows: Int64
    cosines: Floats


def nearest_images(
    logits: FeatureFile,
    split: str,
    prompts: Sequence[str] = (),
    classes: Sequence[str] = (),
    count: int = 4,
) -> list[Nearest]:
    """Find the images with the highest and the lowest cosine with prompts.

    Parameters
    ----------
    logits : FeatureFile
        Of kind logits.
    split : str
    prompts, classes : sequence of str
        Prompts by their text, and classes by their name (the highest cosine among their prompts);
        by default the first four prompts.
    count : int
        M, at most as many as there are images.
    """
    texts = logits.texts or []
    names = logits.class_names or []
    cosines = np.asarray(logits.cosines(split))
    nearest = []
    if prompts or not classes:
        for number in choose_prompts(logits, prompts or texts[:4]):
            nearest.append(nearest_rows(texts[number], cosines[:, number], count))
    for name in classes:
        of_class = np.zeros(len(texts), bool)
        if name in names:
            of_class = np.asarray(logits.class_index) == names.index(name)
        if not of_class.any():
            raise unknown(f"class with prompts of {logits.display_name}", name, names)
        nearest.append(nearest_rows(name, cosines[:, of_class].max(axis=1), count))
    return nearest


def nearest_rows(name: str, cosines: Floats, count: int) -> Nearest:
    """Return the rows with the highest and the lowest of some cosines (N), at most `count` each."""
    order = np.argsort(-cosines, kind="stable")
    M = min(count, len(order))
    rows = np.stack([order[:M], order[len(order) - M :]])
    return Nearest(name, rows, cosines[rows])


def draw_nearest(
    logits: FeatureFile,
    split: str,
    nearest: Sequence[Nearest],
    dataset: Dataset,
    title: str | None = None,
) -> Figure:
    """Draw the images of a data set that `nearest_images` found, above their cosine and class."""
    from clipkit import plots  # loads matplotlib
    from clipkit.datasets.matching import match_images, warn_of_other_name

    rows = np.stack([of_prompt.rows for of_prompt in nearest])
    _, images = match_images(logits, split, dataset, rows.ravel())
    warn_of_other_name(logits, dataset)
    tiles = _tiles(images, split)
    tiles = tiles.reshape(*rows.shape, *tiles.shape[1:])
    sheets = []
    for of_prompt, pictures in zip(nearest, tiles, strict=True):
        labels = _image_labels(logits, split, of_prompt)
        sheets.append(plots.NearestImages(of_prompt.name, pictures, labels))
    return plots.nearest(sheets, title=title or "Nearest images")


def _image_labels(logits: FeatureFile, split: str, nearest: Nearest) -> list[list[str]]:
    """Return what stands below each image: its cosine, and its class or else its id."""
    labels, ids = logits.splits[split].labels, logits.splits[split].ids
    names = [] if labels is None else class_names(logits, labels.max())
    texts = []
    for rows, cosines in zip(nearest.rows, nearest.cosines, strict=True):
        of_side = []
        for row, cosine in zip(rows, cosines, strict=True):
            name = _short_id(ids[row]) if labels is None else names[labels[row]]
            of_side.append(f"{cosine:.2f} {name}")
        texts.append(of_side)
    return texts


def _short_id(row_id: str) -> str:
    """Return the end of an id, in which the files of a folder differ."""
    name = row_id.rpartition("/")[2]
    return name if len(name) <= ID_LENGTH else f"…{name[1 - ID_LENGTH :]}"


def draw_contact_sheet(dataset: Dataset, title: str | None = None) -> tuple[Figure, str]:
    """Draw the images of the split `test`, else of the first; also return what they are."""
    from clipkit import plots  # loads matplotlib

    split = default_split(dataset.splits)
    images = dataset.splits[split]
    source = f"{dataset.name}, {split}"
    if images.labels is None:
        titles = list(map(_short_id, images.ids))
    else:
        titles = [dataset.class_names[label] for label in images.labels]
        source += f", {len(dataset.class_names):,} classes"
    title = title or f"{console.count(len(images), 'image')} of {dataset.name}"
    return plots.contact_sheet(_tiles(images, split), titles, title=title), source


def _tiles(images: ImageDataset, split: str) -> NDArray[np.uint8]:
    """Return small pictures (N, H, W, 3) of images on white; one that cannot be used is grey."""
    from PIL import ImageOps  # which the functions on numbers do without

    tiles = np.full((len(images), TILE_PIXELS, TILE_PIXELS, 3), GREY, np.uint8)
    for number, tile in enumerate(tiles):
        try:
            image = images.image(number)
        except ImageError as error:
            console.warn(f"{split}/{images.ids[number]} is a grey tile: {error.message}")
        else:
            tile[:] = np.asarray(ImageOps.pad(image, tile.shape[:2], color="white"))
    return tiles


def prompt_spectra(texts: Sequence[FeatureFile]) -> dict[str, Floats]:
    """Compute the singular values of prompt sets, each named after its file, and its size.

    If the models differ, they stand in front. No file may be given twice.
    """
    paths = [file.display_name for file in texts]
    names = [Path(path).stem for path in paths]
    if len(set(paths)) < len(paths):
        raise UsageError(f"expected files with different names, got {', '.join(names)}")
    models = [provenance(file).model or "no model" for file in texts]
    curves = []
    for number, (file, name, model) in enumerate(zip(texts, names, models, strict=True)):
        label = f"{name} ({len(file.features)})"
        if len(set(models)) > 1:
            label = f"{model}: {label}"
        curves.append(_Runs(number, label, []))
    labels = [curve.label for curve in curves]
    if len(set(labels)) < len(labels):
        labels = _tell_apart(texts, curves)
    values = [similarity.singular_values(file.features) for file in texts]
    return dict(zip(labels, values, strict=True))
