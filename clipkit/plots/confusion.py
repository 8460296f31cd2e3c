"""Confusion matrices, clusters as such a matrix, and the F1 per class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clipkit.analysis import for_people, results
from clipkit.analysis.mistakes.kept import find_shared_error
from clipkit.analysis.options import Table
from clipkit.analysis.sections import MISTAKES
from clipkit.analysis.verdicts import claims_of
from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.base.options import option
from clipkit.features.matching import choose_split
from clipkit.features.model import FeatureFile
from clipkit.plots import heatmap, style
from clipkit.plots.picture import Groups, Picture, Run, Split
from clipkit.plots.style import Drawn, Floats, clipkit_style
from clipkit.statistics import claims, main_number, metrics
from clipkit.statistics.shared_errors import SharedError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["classes", "clusters", "confusion"]

MAX_BARS = 30  # of more classes, the best and the worst half as many are shown
MAX_CLASSES = 40  # of more, the largest confusions are shown instead of the matrix
MAX_CONFUSIONS = 20
FEW_IMAGES = 20  # of a class; its cells hold counts in place of percentages


def _read_predictions(
    result: FeatureFile, split: str | None, run: int | None, groups: str | None
) -> tuple[results.Predictions, str]:
    """Return the predictions of a run, by groups if a file names them, and what they are of."""
    if result.splits and not results.holds_classes(result):
        name, maker = result.display_name, results.newest_entry(result)["command"]
        raise ClipkitError(
            f"{name}: expected predicted classes, got a result of {maker}",
            f"draw its own picture with: clipkit plot {name}",
        )
    scored = results.predictions(result, split, run)
    source = results.source_label(*choose_split(result, split))
    if groups is not None:
        scored = results.group_classes(scored, results.read_groups(groups, scored.class_names))
    return scored, source


def draw_confusion(
    result: FeatureFile,
    split: Split = None,
    run: Run = None,
    groups: Groups = None,
    table: Table = None,
) -> Drawn:
    """Draw the confusion matrix of a probe or of zero-shot classification.

    The title says which value of an attribute is taken for another one, if many errors share it.
    The attributes are those of TABLE or, without one, of `shapes` or the words of class names.
    """
    if groups is not None and table is not None:
        raise UsageError("expected --groups or --table, got both", "clipkit plot confusion --help")
    scored, source = _read_predictions(result, split, run, groups)
    matrix = results.count(scored)
    counts, names, by_class = matrix.counts, matrix.class_names, matrix.class_accuracy
    of = "" if groups is None else " of groups"
    title = f"Confusion{of} ({matrix.label})"
    shared = None
    if groups is None:
        result, split = choose_split(result, split)
        shared = find_shared_error(result, split, scored, table)
    figure = confusion(
        counts, names, class_accuracy=by_class, verdict=_verdict(result, scored), title=title
    )
    finding = _confusion_finding(counts, names, by_class, scored.kept_by_chance, shared)
    return style.state(figure, finding, source)


def _verdict(result: FeatureFile, scored: results.Predictions) -> str:
    """Return what the accuracy of the drawn run is above or below; "" if nothing is claimed."""
    of_run = [claim for claim in claims_of(result) if claim.run == scored.run]
    return claims.relations(of_run) if of_run else ""


def _is_no_curve(result: FeatureFile) -> bool:
    """Whether a result has one number of labelled images; several are drawn by `shots`."""
    return not results.has_several_shots(result)


CONFUSION = Picture(
    "confusion",
    draw_confusion,
    "clipkit plot confusion zeroshot.h5 -o confusion.png",
    of=("probe", "zeroshot", "predict"),
    section=MISTAKES,
    is_first=_is_no_curve,
)


def _confusion_finding(
    counts: NDArray[Any],
    names: Sequence[str],
    by_class: float | None,
    chance: float,
    shared: SharedError | None,
) -> str:
    """Say whether errors stay within groups or, of classes, what most of them are."""
    errors = _errors(counts)
    if by_class is not None:
        wrong = counts.sum() * (1 - by_class)
        share = 1 - errors.sum() / max(wrong, 1)
        if wrong < 0.5 or len(counts) == 1:  # no error, or no other group
            return ""
        return claims.kept_group_sentence(share, round(wrong), chance)
    if not errors.any():
        return ""
    if shared is not None:
        return claims.shared_error_sentence(shared)
    true, predicted = np.unravel_index(errors.argmax(), errors.shape)
    names = style.sanitize_names(names, 24)
    second, first = np.partition(errors, -2, axis=None)[-2:].astype(int)
    pair = names[true], names[predicted]
    finding = claims.largest_error_sentence(first, second, int(counts[true].sum()), pair)
    if finding:
        return finding
    total = counts.sum()
    kinds = int(np.count_nonzero(errors))
    return (
        f"{100 * np.trace(counts) / total:.1f} % of {total:,.0f} right; errors are of {kinds:,} "
        f"kinds, and {first:,} is the most of one"
    )


@clipkit_style
def confusion(
    counts: ArrayLike,
    class_names: Sequence[str],
    *,
    class_accuracy: float | None = None,
    verdict: str = "",
    title: str | None = None,
) -> Figure:
    """Draw a confusion matrix in percent of each true class, with accuracy and N above it.

    With up to 20 classes, cells hold their percentages or, of classes with fewer than 20 images,
    their counts; zeros are left blank. Colours follow the square root, so that a confusion of 2 %
    is visible. For more than 40 classes, at most 20 of the largest confusions are drawn as bars;
    of equal ones, all or none.

    Parameters
    ----------
    counts : array (C, C) int
        Images of true class i predicted as class j.
    class_names : sequence of C str
    class_accuracy : float, optional
        If rows and columns are groups of classes: the accuracy by class, a fraction.
    verdict : str
        What the accuracy by class is above or below, and what it is not decided against.
    """
    counts = np.asarray(counts, np.float64)  # (C, C)
    names = style.sanitize_names(class_names, 24)
    noun, accuracy = "class", f"{100 * np.trace(counts) / max(counts.sum(), 1):.2f} %"
    fact = f"accuracy {accuracy}"
    sizes = counts.sum(axis=1).astype(np.int64)
    if main_number.is_unequal(np.repeat(np.arange(len(sizes)), sizes)):
        known = sizes > 0
        recall = float((np.diagonal(counts)[known] / sizes[known]).mean())
        fact = f"{main_number.MEAN_RECALL} {100 * recall:.2f} %, {fact}"
    if class_accuracy is not None:
        noun = "group"
        fact = f"accuracy by group {accuracy}, accuracy by class {100 * class_accuracy:.2f} %"
    if verdict:
        fact = f"{fact}, {verdict}"
    if len(counts) > MAX_CLASSES:
        return _largest_confusions(counts, class_names, fact, title)
    return _row_percentages(counts, names, names, f"predicted {noun}", fact, title, noun)


def _largest_confusions(
    counts: Floats, class_names: Sequence[str], fact: str, title: str | None
) -> Figure:
    """Draw a bar for each of the largest counts of images of one class predicted as another."""
    errors = _errors(counts)
    true, predicted = _largest_errors(counts)
    names = style.sanitize_names(class_names, 24)
    labels = [f"{names[i]} as {names[j]}" for i, j in zip(true, predicted, strict=True)]
    fig, ax = style.new_axes(7.5, 0.24 * max(len(labels), 4) + 0.95, title)
    y = np.arange(len(labels), dtype=np.float64)
    images, of_class = errors[true, predicted], counts[true].sum(axis=1)
    ax.barh(y, images, height=0.75, color=style.VERMILLION)
    for position, n, total in zip(y, images, of_class, strict=True):
        ax.text(n, position, f" {n:,.0f} of {total:,.0f}", va="center", fontsize=8.5)
    style.name_rows(ax, y, labels, 0.7, fontsize=9)
    ax.margins(x=0.15)
    style.limit_ticks(ax.xaxis, 6, integer=True)
    ax.set_xlabel("images of the first class\npredicted as the second")
    fact += f", N = {counts.sum():,.0f}"
    rest = errors[errors > 0]
    rest = rest[rest < images.min(initial=np.inf)]
    if len(rest):
        most = console.count(int(rest.max()), "image")
        fact += f"; {console.count(len(rest), 'other confusion')} of at most {most}"
    if not labels:
        text = (
            "no confusions" if not len(rest) else "too many confusions of equal size to name some"
        )
        ax.text(0.5, 0.5, text, ha="center", color=style.GREY, transform=ax.transAxes)
        ax.set_axis_off()
    ax.set_title(fact, loc="left", color=style.GREY)
    return fig


def _errors(counts: Floats) -> Floats:
    """Return the counts (C, C) without those of right predictions."""
    return counts * (1 - np.eye(len(counts)))


def _largest_errors(counts: Floats) -> tuple[NDArray[np.intp], ...]:
    """Return the true and the predicted classes (n,) of at most 20 of the largest confusions.

    If the 20th is equal to the next one, those that are equal to it are left out.
    """
    errors = _errors(counts).ravel()
    pairs = metrics.falling_order(errors)
    pairs = pairs[: np.count_nonzero(errors)]
    shown = _count_without_cutting_ties(errors[pairs], MAX_CONFUSIONS)
    return np.unravel_index(pairs[:shown], counts.shape)


def _count_without_cutting_ties(ordered: Floats, most: int) -> int:
    """Return how many of the first numbers (n,) are at most `most` and include no part of a tie."""
    if len(ordered) <= most:
        return len(ordered)
    return int(np.flatnonzero(ordered[: most + 1] == ordered[most])[0])


def confusion_boxes(fig: Figure, counts: ArrayLike) -> list[tuple[int, int, list[float]]]:
    """Return where a picture of `confusion` that was saved shows the counts (C, C) above zero.

    Returns
    -------
    list of (int, int, list of float)
        The true class, the predicted class, and the left end, top, width and height of the cell, or
        of the row with its name, in percent of the figure.
    """
    counts = np.asarray(counts, np.float64)
    has_rows = len(counts) > MAX_CLASSES
    true, predicted = np.nonzero(counts)
    y = true
    if has_rows:
        true, predicted = _largest_errors(counts)
        y = np.arange(len(true))
    corners = np.stack([predicted, y], axis=1)[:, None] + [[-0.5, -0.5], [0.5, 0.5]]  # (n, 2, 2)
    to_figure = fig.axes[0].transData - fig.transFigure
    ends = 100 * to_figure.transform(corners.reshape(-1, 2)).reshape(corners.shape)
    if has_rows:
        ends[..., 0] = 0, 100
    ends[..., 1] = 100 - ends[..., 1]  # CSS counts from the top
    boxes = np.concatenate([ends[:, 0], ends[:, 1] - ends[:, 0]], axis=1)
    return list(zip(true.tolist(), predicted.tolist(), boxes.tolist(), strict=True))


def draw_clusters(
    result: FeatureFile,
    split: Split = None,
    run: Annotated[int, option("N", "Number of the run, from 0.", min=0)] = 0,
) -> Drawn:
    """Draw the percentage of each class in each cluster, with clusters matched to classes."""
    matrix = results.cluster_counts(result, split, run)
    title = f"Clusters ({matrix.label})"
    figure = clusters(matrix.counts, matrix.class_names, title=title)
    source = results.source_label(*choose_split(result, split))
    return style.state(figure, "; ".join(for_people.findings(result)[:1]), source)


def _are_readable(result: FeatureFile) -> bool:
    """Whether the classes of clusters have room."""
    return len(result.class_names or ()) <= MAX_CLASSES


CLUSTERS = Picture(
    "clusters",
    draw_clusters,
    "clipkit plot clusters clusters.h5 -o clusters.png",
    of=("cluster",),
    is_reported=_are_readable,
)


@clipkit_style
def clusters(counts: ArrayLike, class_names: Sequence[str], *, title: str | None = None) -> Figure:
    """Draw the percentage of each class in each cluster, with purity and N above it.

    Clusters are matched to the classes with which they agree best, one to one (Hungarian method),
    so that a clustering that equals the classes is a diagonal. The remaining clusters follow. The
    x axis shows the clusters' numbers, each with the class that it matches.

    Parameters
    ----------
    counts : array (C, K) int
        Images of class i in cluster j.
    class_names : sequence of C str
    """
    from scipy.optimize import linear_sum_assignment  # slow to load, and only for this

    counts = np.asarray(counts, np.float64)  # (C, K)
    rows, matched = linear_sum_assignment(-counts)
    remaining = np.setdiff1d(np.arange(counts.shape[1]), matched)
    order = np.concatenate([matched, remaining])
    names = style.sanitize_names(class_names, 24)
    labels = [str(j) for j in order]
    for position, (i, j) in enumerate(zip(rows, matched, strict=True)):
        if counts[i, j]:
            labels[position] += f" ({names[i]})"
    fact = f"purity {counts.max(axis=0).sum() / max(counts.sum(), 1):.4f}"
    xlabel = "cluster (and the class that it matches)"
    return _row_percentages(counts[:, order], names, labels, xlabel, fact, title)


def _row_percentages(
    counts: Floats,
    rows: Sequence[str],
    columns: Sequence[str],
    xlabel: str,
    fact: str,
    title: str | None,
    noun: str = "class",
) -> Figure:
    """Draw counts in percent of their row, with the names of rows and columns, a fact and N."""
    total = counts.sum(axis=1, keepdims=True)
    percent = 100 * np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
    from matplotlib.colors import PowerNorm

    has_numbers = max(percent.shape) <= heatmap.MAX_NUMBERS
    true = f"true {noun}"
    cells = heatmap.Cells(rows, columns, true, xlabel, inches=(0.5, 0.5), least=(2.2, 2.2))
    look = {"cmap": "Blues", "norm": PowerNorm(0.5, vmin=0, vmax=100)}
    label = f"% of the {true}"
    fig, ax, image = heatmap.draw_cells(percent, cells, label, title, has_numbers, **look)
    fig.axes[1].set_yticks([0, 1, 5, 10, 25, 50, 75, 100])
    if has_numbers:
        decimals, size = (1, 8.5) if max(percent.shape) <= 12 else (0, 7.5)
        texts = _small_counts(counts)
        heatmap.write_numbers(ax, image, percent, decimals, size, zeros=False, texts=texts)
    facts = f"N = {counts.sum():,.0f}"
    if counts.any():
        facts = f"{fact}, {facts}"
    if not counts.any(axis=1).all():
        facts += " (grey: no images)"
    ax.set_title(facts, loc="left", color=style.GREY)
    return fig


def _small_counts(counts: Floats) -> dict[tuple[int, int], str]:
    """Return the text of each cell (row, column) of rows with few images: `5 of 6`."""
    texts = {}
    for i, row in enumerate(counts):
        if row.sum() < FEW_IMAGES:
            for j, images in enumerate(row):
                texts[i, j] = f"{images:.0f} of {row.sum():.0f}"
    return texts


def draw_classes(
    result: FeatureFile, split: Split = None, run: Run = None, groups: Groups = None
) -> Drawn:
    """Draw the best and the worst F1 per class of a probe or of zero-shot classification."""
    scored, source = _read_predictions(result, split, run, groups)
    noun = "class" if groups is None else "group"
    labels, names = scored.labels, scored.class_names
    f1 = metrics.f1_per_class(labels, scored.predicted, len(names))
    totals = np.bincount(labels, minlength=len(names))
    figure = classes(
        f1,
        names,
        support=totals,
        noun=noun,
        title=f"F1 of each {noun} ({scored.label})",
    )
    right = np.bincount(labels[scored.right], minlength=len(names))
    printable = style.sanitize_names(names, 28)
    finding = claims.lowest_class_sentence(right, totals, printable, scored.independent)
    known = f1[np.isfinite(f1)]
    if not finding and len(known):
        finding = (
            f"F1 of {_counted(len(known), noun)} goes from {known.min():.2f} to {known.max():.2f}, "
            f"with a mean of {known.mean():.2f}"
        )
    return style.state(figure, finding, source)


CLASSES = Picture(
    "classes",
    draw_classes,
    "clipkit plot classes zeroshot.h5 -o classes.png",
    of=("probe", "zeroshot", "predict"),
    section=MISTAKES,
)


@clipkit_style
def classes(
    f1: ArrayLike,
    class_names: Sequence[str],
    *,
    support: ArrayLike,
    noun: str = "class",
    title: str | None = None,
) -> Figure:
    """Draw F1 per class as bars, the best first, and mark the mean of all classes.

    For more than 30 classes, at most the 15 best and the 15 worst are shown. Of classes with equal
    F1, all or none are shown; if too many share the best or the worst F1, their number is.

    Parameters
    ----------
    f1 : array (C,)
        F1 scores, 0..1. NaN (a class without images) is left out and counted.
    class_names : sequence of C str
    support : array (C,) int
        Images per class, written after its name.
    noun : {"class", "group"}
        What the scores are of.
    """
    f1 = np.asarray(f1, np.float64)
    order = metrics.falling_order(f1)[: np.isfinite(f1).sum()]
    above, best, between, worst, below = _split_classes(f1[order])
    rows = [*order[best], *order[worst]]
    counts = np.asarray(support)
    names = style.sanitize_names(class_names, 28, rows)
    labels = [f"{name} ({counts[row]:,})" for name, row in zip(names, rows, strict=True)]
    values = list(f1[rows])
    colors = [style.BLUE] * len(order[best]) + [style.VERMILLION] * len(order[worst])
    if not between:
        colors = [style.BLUE] * len(rows)
    else:
        place = len(order[best])
        labels.insert(place, f"{_counted(between, noun)} between")
        values.insert(place, np.nan)
        colors.insert(place, style.GREY)
    if above:
        labels.insert(0, f"{_counted(above, noun)}, each")
        values.insert(0, f1[order[0]])
        colors.insert(0, style.GREY)
    if below:
        labels.append(f"{_counted(below, noun)}, each")
        values.append(f1[order[-1]])
        colors.append(style.GREY)
    y = np.arange(len(labels), dtype=np.float64)
    fig, ax = style.new_axes(7.0, 0.215 * len(labels) + 0.95, title)
    ax.barh(y, values, height=0.78, color=colors)
    look: dict[str, Any] = {"va": "center", "fontsize": 8.5, "transform": ax.get_yaxis_transform()}
    for position, value in zip(y, values, strict=True):
        if np.isfinite(value):
            ax.text(1.01, position, f"{value:.2f}", **look)  # beside the axes, where no line is
    style.name_rows(ax, y, labels, 0.7, fontsize=9)
    ax.set_xlim(0, 1)
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.set_xlabel("F1")
    _mark_mean(ax, f1, noun)
    return fig


def _split_classes(f1: Floats) -> tuple[int, slice, int, slice, int]:
    """Return what is shown of falling F1 (n,), without a part of those that are equal.

    Returns
    -------
    tuple of int, slice, int, slice, int
        How many share the best F1, if these are too many; the best that are shown; how many are
        left out; the worst that are shown; and how many share the worst F1, if these are too many.
    """
    n, half = len(f1), MAX_BARS // 2
    if n <= MAX_BARS:
        return 0, slice(0, n), 0, slice(n, n), 0
    above = int(np.count_nonzero(f1 == f1[0]))
    below = int(np.count_nonzero(f1 == f1[-1]))
    if above <= half:
        above = 0
    if below <= half or above == n:
        below = 0
    rest = f1[above : n - below]
    best = _count_without_cutting_ties(rest, half)
    worst = _count_without_cutting_ties(rest[best:][::-1], half)
    first, last = above + best, n - below - worst
    return above, slice(above, first), last - first, slice(last, n - below), below


def _counted(n: int, noun: str) -> str:
    """Return `1 class` or `2 classes`."""
    plural = {"class": "classes", "group": "groups"}
    return f"{n:,} {noun if n == 1 else plural[noun]}"


def _mark_mean(ax: Axes, f1: Floats, noun: str) -> None:
    """Mark the mean, and state how many classes it is of and how many have no images."""
    finite = f1[np.isfinite(f1)]
    facts = [_counted(len(finite), noun)]
    if len(finite):
        ax.axvline(float(finite.mean()), color="black", linestyle="--", linewidth=1.2)
        facts.append(f"mean F1 {finite.mean():.3f} (dashed)")
    if len(finite) < len(f1):
        facts.append(f"{len(f1) - len(finite)} without images left out")
    ax.set_title(", ".join(facts), loc="left", color=style.GREY)
