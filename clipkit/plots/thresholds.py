"""Cosines of the pairs of images and prompts that match and that do not, with a threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import ArrayLike

from clipkit.analysis import results
from clipkit.analysis.threshold import thresholds
from clipkit.base.options import EvalSplit, option, split_option
from clipkit.features.model import FeatureFile
from clipkit.plots import marks, style
from clipkit.plots.picture import Picture
from clipkit.plots.style import Drawn, clipkit_style
from clipkit.statistics import claims

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["threshold"]

BINS = 80


def draw_threshold(
    logits: FeatureFile,
    fpr: Annotated[float, option("P", "False-positive rate on the fitted split.")] = 0.01,
    fit_split: Annotated[str, split_option("Split to choose the threshold on.")] = "train",
    eval_split: EvalSplit = "test",
) -> Drawn:
    """Draw the cosines of matching and of other pairs, with the threshold between them."""
    row, pairs = thresholds.choose_overall(logits, fpr, fit_split, eval_split)
    title = "Cosines of images with prompts"
    matching, others = pairs.cosines[pairs.matches], pairs.cosines[~pairs.matches]
    figure = threshold(matching, others, row["threshold"], title=title)
    finding = claims.threshold_sentence(row)
    return style.state(figure, finding, results.source_label(logits, row["split"]))


THRESHOLD = Picture(
    "threshold",
    draw_threshold,
    "clipkit plot threshold class-logits.h5 -o threshold.png",
    kinds=("logits",),
    of=("logits",),
)


@clipkit_style
def threshold(
    matching: ArrayLike, others: ArrayLike, at: float, *, title: str | None = None
) -> Figure:
    """Draw histograms of two sets of cosines, each in percent of its pairs, and a threshold.

    Parameters
    ----------
    matching, others : arrays (M,) and (N,)
    at : float
        The threshold.
    """
    sets = [np.ravel(others), np.ravel(matching)]
    fig, ax = style.new_axes(7.0, 3.6, title)
    edges = np.histogram_bin_edges(np.concatenate(sets), BINS)
    for cosines, color in zip(sets, (style.GREY, style.BLUE), strict=True):
        marks.draw_histogram(ax, cosines, edges, color)
    ax.set_title(f"other pairs ({len(sets[0]):,})", loc="left", color=style.GREY)
    ax.set_title(f"matching pairs ({len(sets[1]):,})", loc="right", color=style.BLUE)
    ax.axvline(at, color="black", linestyle="--", linewidth=1.2)
    ax.set_title(f"dashed: threshold {at:.3g}")
    ax.set(xlabel="cosine similarity", ylabel="% of the pairs, per bin", ylim=(0, None))
    return fig
