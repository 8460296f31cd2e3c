"""Confusion matrices, clusters as such a matrix, and the F1 per class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clipkit.analysis import metrics, results
from clipkit.base.errors import ClipkitError
from clipkit.base.options import option
from clipkit.features.matching import choose_split
from clipkit.features.model import FeatureFile
from clipkit.plots import heatmap, style
from clipkit.plots.picture import Groups, Picture, Run, Split
from clipkit.plots.style import Drawn, Floats, clipkit_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["classes", "clusters", "confusion"]

MAX_BARS = 30  # of more classes, the best and the worst half as many are shown
MAX_CLASSES = 40  # of more, the largest confusions are shown instead of the matrix
MAX_CONFUSIONS = 20


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
    result: FeatureFile, split: Split = None, run: Run = None, groups: Groups = None
) -> Drawn:
    """Draw the confusion matrix of a probe or of zero-shot classification."""
    scored, source = _read_predictions(result, split, run, groups)
    matrix = results.count(scored)
    counts, names, by_class = matrix.counts, matrix.class_names, matrix.class_accuracy
    of = "" if groups is None else " of groups"
    title = f"Confusion{of} ({matrix.label})"
    figure = confusion(counts, names, class_accuracy=by_class, title=title)
    finding = _confusion_finding(counts, names, by_class, scored.kept_by_chance)
    return style.state(figure, finding, source)


CONFUSION = Picture(
    "confusion",
    draw_confusion,
    "clipkit plot confusion zeroshot.h5 -o confusion.png",
    of=("probe", "zeroshot", "predict"),
    is_first=True,
)


def _confusion_finding(
    counts: NDArray[Any], names: Sequence[str], by_class: float | None, chance: float
) -> str:
    """Say whether errors stay within groups or, of classes, which confusion is the largest."""
    errors = _errors(counts)
    if by_class is not None:
        wrong = counts.sum() * (1 - by_class)
        share = 1 - errors.sum() / max(wrong, 1)
        if wrong < 0.5 or len(counts) == 1:  # no error, or no other group
            return ""
        return f"{100 * share:.0f} % of the errors keep the group; by chance, {100 * chance:.0f} %"
    if np.count_nonzero(errors == errors.max(initial=0)) != 1:  # none, or a tie
        return ""
    true, predicted = np.unravel_index(errors.argmax(), errors.shape)
    names = style.sanitize_names(names, 24)
    share = errors[true, predicted] / counts[true].sum()
    return f"{names[true]} is predicted as {names[predicted]} for {100 * share:.0f} % of its images"


@clipkit_style
def confusion(
    counts: ArrayLike,
    class_names: Sequence[str],
    *,
    class_accuracy: float | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a confusion matrix in percent of each true class, with accuracy and N above it.

    With up to 20 classes, cells hold their percentages; zeros are left blank. Colours follow the
    square root, so that a confusion of 2 % is visible. For more than 40 classes, the 20
    largest confusions are drawn as bars.

    Parameters
    ----------
    counts : array (C, C) int
        Images of true class i predicted as class j.
    class_names : sequence of C str
    class_accuracy : float, optional
        If rows and columns are groups of classes: the accuracy by class, a fraction.
    """
    counts = np.asarray(counts, np.float64)  # (C, C)
    names = style.sanitize_names(class_names, 24)
    noun, accuracy = "class", f"{100 * np.trace(counts) / max(counts.sum(), 1):.2f} %"
    fact = f"accuracy {accuracy}"
    if class_accuracy is not None:
        noun = "group"
        fact = f"accuracy by group {accuracy}, accuracy by class {100 * class_accuracy:.2f} %"
    if len(counts) > MAX_CLASSES:
        return _largest_confusions(counts, class_names, fact, title)
    return _row_percentages(counts, names, names, f"predicted {noun}", fact, title, noun)


def _largest_confusions(
    counts: Floats, class_names: Sequence[str], fact: str, title: str | None
) -> Figure:
    """Draw a bar for each of the largest counts of images of one class predicted as another."""
    errors = _errors(counts)
    found = np.count_nonzero(errors)
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
    ax.set_xlabel("images of the true class that are predicted as the other")
    fact += f", N = {counts.sum():,.0f}"
    if len(labels) < found:
        fact += f"; {len(labels)} of {found:,} confusions: the largest"
    ax.set_title(fact, loc="left", color=style.GREY)
    return fig


def _errors(counts: Floats) -> Floats:
    """Return the counts (C, C) without those of right predictions."""
    return counts * (1 - np.eye(len(counts)))


def _largest_errors(counts: Floats) -> tuple[NDArray[np.intp], ...]:
    """Return the true and the predicted classes (n,) of the largest confusions."""
    errors = _errors(counts)
    pairs = metrics.falling_order(errors.ravel())
    shown = min(np.count_nonzero(errors), MAX_CONFUSIONS)
    return np.unravel_index(pairs[:shown], errors.shape)


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
    return figure, results.source_label(*choose_split(result, split))


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
    C, K = percent.shape
    height = heatmap.axis_inches(C, 0.5, 2.2)
    width = heatmap.axis_inches(K, 0.5, 2.2)
    figure_width = max(width + heatmap.text_inches(rows) + 1.7, 5.0)
    fig, ax = style.new_axes(figure_width, height + heatmap.text_inches(columns) + 0.9, title)
    from matplotlib.colors import PowerNorm

    norm = PowerNorm(0.5, vmin=0, vmax=100)
    image = heatmap.draw(fig, ax, percent, f"% of the true {noun}", cmap="Blues", norm=norm)
    fig.axes[1].set_yticks([0, 1, 5, 10, 25, 50, 75, 100])
    has_numbers = max(C, K) <= heatmap.MAX_NUMBERS
    heatmap.label_cells(ax, "x", columns, width, slanted=has_numbers)
    heatmap.label_cells(ax, "y", rows, height)
    if has_numbers:
        decimals, size = (1, 8.5) if max(C, K) <= 12 else (0, 7.5)
        heatmap.write_numbers(ax, image, percent, decimals, size, zeros=False)
    ax.set(xlabel=xlabel, ylabel=f"true {noun}")
    facts = f"N = {counts.sum():,.0f}"
    if counts.any():
        facts = f"{fact}, {facts}"
    if not counts.any(axis=1).all():
        facts += " (grey: no images)"
    ax.set_title(facts, loc="left", color=style.GREY)
    return fig


def draw_classes(
    result: FeatureFile, split: Split = None, run: Run = None, groups: Groups = None
) -> Drawn:
    """Draw the best and the worst F1 per class of a probe or of zero-shot classification."""
    scored, source = _read_predictions(result, split, run, groups)
    noun = "class" if groups is None else "group"
    labels, names = scored.labels, scored.class_names
    f1 = metrics.f1_per_class(labels, scored.predicted, len(names))
    figure = classes(
        f1,
        names,
        support=np.bincount(labels, minlength=len(names)),
        noun=noun,
        title=f"F1 of each {noun} ({scored.label})",
    )
    return style.state(figure, _classes_finding(f1, names), source)


CLASSES = Picture(
    "classes",
    draw_classes,
    "clipkit plot classes zeroshot.h5 -o classes.png",
    of=("probe", "zeroshot", "predict"),
)


def _classes_finding(f1: NDArray[np.floating], names: Sequence[str]) -> str:
    """Name the best and the worst class, if no other has the same F1."""
    names = style.sanitize_names(names, 28)
    order = metrics.falling_order(-f1)[: np.isfinite(f1).sum()]
    if len(order) < 2 or np.isclose(f1[order[[0, -1]]], f1[order[[1, -2]]]).any():
        return ""
    worst, best = order[0], order[-1]
    return f"Best F1 {f1[best]:.2f} ({names[best]}), worst {f1[worst]:.2f} ({names[worst]})"


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

    For more than 30 classes, the 15 best and the 15 worst are shown. If the best are equal to
    others, which would be shown by accident, the 30 worst are.

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
    omitted = max(len(order) - MAX_BARS, 0)
    half = MAX_BARS // 2
    if omitted and f1[order[half - 1]] == f1[order[half]]:
        half = 0
    rows = np.delete(order, slice(half, half + omitted)).tolist()
    counts = np.asarray(support)
    names = style.sanitize_names(class_names, 28, rows)
    labels = [f"{name} ({counts[row]:,})" for name, row in zip(names, rows, strict=True)]
    y = np.arange(len(rows), dtype=np.float64)
    colors = [style.BLUE] * len(rows)
    height = 0.215 * len(rows) + 0.95
    if omitted and half:
        y[half:] += 1.2  # leaves a gap between the best and the worst
        colors[half:] = [style.VERMILLION] * half
        height += 0.3

    fig, ax = style.new_axes(7.0, height, title)
    ax.barh(y, f1[rows], height=0.78, color=colors)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    for position, value in zip(y, f1[rows], strict=True):
        ax.text(value + 0.008, position, f"{value:.2f}", va="center", fontsize=8.5, bbox=box)
    style.name_rows(ax, y, labels, 0.7, fontsize=9)
    ax.set_xlim(0, 1.08)
    ax.set_xticks(np.linspace(0, 1, 6))
    ax.set_xlabel("F1")
    which = ""
    if omitted and half:
        _mark_omitted(ax, half + 0.1, f"{_counted(omitted, noun)} between")
    elif omitted:
        which = f"the {MAX_BARS} lowest of "
    _mark_mean(ax, f1, noun, which)
    return fig


def _counted(n: int, noun: str) -> str:
    """Return `1 class` or `2 classes`."""
    plural = {"class": "classes", "group": "groups"}
    return f"{n:,} {noun if n == 1 else plural[noun]}"


def _mark_omitted(ax: Axes, y: float, text: str) -> None:
    ax.axhline(y, color=style.GREY, linewidth=0.8)
    look: dict[str, Any] = {"ha": "right", "va": "center", "backgroundcolor": "white"}
    ax.text(1.08, y, text, fontsize=8.5, color=style.GREY, **look)


def _mark_mean(ax: Axes, f1: Floats, noun: str, which: str) -> None:
    """Mark the mean, and state how many classes it is of and how many have no images."""
    finite = f1[np.isfinite(f1)]
    facts = [which + _counted(len(finite), noun)]
    if len(finite):
        ax.axvline(float(finite.mean()), color="black", linestyle="--", linewidth=1.2)
        facts.append(f"mean F1 {finite.mean():.3f} (dashed)")
    if len(finite) < len(f1):
        facts.append(f"{len(f1) - len(finite)} without images left out")
    ax.set_title(", ".join(facts), loc="left", color=style.GREY)
