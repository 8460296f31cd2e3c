"""Shares of variance that attributes explain, of embeddings or of the cosines with prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from clipkit.analysis import results
from clipkit.base.errors import ClipkitError
from clipkit.features.model import FeatureFile
from clipkit.plots import heatmap, style
from clipkit.plots.picture import Picture, always
from clipkit.plots.style import Drawn, Floats, clipkit_style
from clipkit.statistics import metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["prompt_variance", "variance"]

MOST_NAMED = 3  # attributes in a title


def draw_variance(file: FeatureFile) -> Drawn:
    """Draw the share of variance, of embeddings or of prompts' cosines, that attributes explain."""
    if "prompt" in file.runs:
        return _draw_prompt_variance(file)
    of_controls = "control_share control_low control_high"
    names = f"split attribute share unique {of_controls}"
    columns = results.columns_of(file, "variance", names)
    attributes, share, unique = [columns[name] for name in ("attribute", "share", "unique")]
    control = None
    if np.isfinite(columns["control_share"]).any():
        control = columns["control_share"], columns["control_low"], columns["control_high"]
    title = "What the embeddings' variance is about"
    figure = variance(
        attributes.tolist(),
        share,
        unique=unique,
        control=control,
        fact=_why_unique_exceeds(file, share, unique),
        title=title,
    )
    shares_of_control = None if control is None else columns["control_share"]
    finding = _largest_shares(attributes.tolist(), share, shares_of_control)
    return style.state(figure, finding, results.source_label(file, str(columns["split"][0])))


def _largest_shares(names: Sequence[str], shares: Floats, controls: Floats | None) -> str:
    """List the largest shares of variance, with those of the untrained control."""
    parts = []
    for place in metrics.falling_order(np.nan_to_num(shares))[:MOST_NAMED]:
        text = f"{style.sanitize_label(names[place], 24)} {100 * shares[place]:.1f} %"
        if controls is not None:
            text += f" (control {100 * controls[place]:.1f} %)"
        parts.append(text)
    return f"Share of the embeddings' variance: {', '.join(parts)}"


def _why_unique_exceeds(file: FeatureFile, share: Floats, unique: Floats) -> str:
    """Say why more is lost without an attribute than it explains alone, if that is so."""
    if not np.any(unique > share):
        return ""
    rows, of_unique = file.runs.get("rows"), file.runs.get("unique_rows")
    if rows is not None and of_unique is not None and np.any((of_unique > 0) & (of_unique < rows)):
        least = of_unique[of_unique > 0].min()
        return f"dots: of the {least:,.0f} of {rows.max():,.0f} images that have all attributes"
    return "a dot beyond its bar: alone, the other attributes hide a part"


VARIANCE = Picture(
    "variance",
    draw_variance,
    "clipkit plot variance variance.h5 -o variance.png",
    of=("variance",),
    is_reported=always,
)


def _draw_prompt_variance(file: FeatureFile) -> Drawn:
    columns = results.columns_of(file, "variance", "split attribute prompt share above")
    attributes = list(dict.fromkeys(columns["attribute"].tolist()))
    prompts = columns["prompt"].tolist()[:: len(attributes)]
    if columns["attribute"].tolist() != attributes * len(prompts):
        raise ClipkitError(
            f"{file.display_name}: expected a row for each prompt and attribute, got others"
        )
    shape = (len(prompts), len(attributes))
    share, above = columns["share"].reshape(shape), columns["above"].reshape(shape)
    title = f"What each prompt's {file.similarity_name}s measure"
    figure = prompt_variance(share, above, prompts, attributes, title=title)
    cells, above_both = int(np.isfinite(share).sum()), int(above.sum())
    finding = (
        f"{above_both:,} of {cells:,} cells of {len(prompts):,} prompts and {len(attributes)} "
        f"attributes are above both nulls; {0.01 * cells:.2g} by chance"
    )
    return style.state(figure, finding, results.source_label(file, str(columns["split"][0])))


@clipkit_style
def variance(
    attributes: Sequence[str],
    share: ArrayLike,
    *,
    unique: ArrayLike,
    control: tuple[ArrayLike, ArrayLike, ArrayLike] | None = None,
    fact: str = "",
    title: str | None = None,
) -> Figure:
    """Draw how much of the embeddings' variance each attribute explains, the most first.

    Parameters
    ----------
    attributes : sequence of A str
    share, unique : arrays (A,)
        Adjusted R squared alone, and what is lost without the attribute; fractions.
    control : (mean, lowest, highest), each (A,), optional
        Shares of the untrained controls.
    fact : str
        What the reader has to know of the shares that are lost.
    """
    shares = np.asarray(share, np.float64)
    order = metrics.falling_order(np.nan_to_num(shares))
    y = np.arange(len(order), dtype=np.float64)
    row_inches, height, offset = 0.26, 0.7, 0.0
    if control:
        row_inches, height, offset = 0.36, 0.38, 0.19
    fig, ax = style.new_axes(7.0, row_inches * len(order) + 0.9, title)
    handles: list[Any] = [
        ax.barh(y - offset, 100 * shares[order], height, color=style.BLUE),
        ax.scatter(100 * np.asarray(unique)[order], y - offset, color="black", s=14, zorder=3),
    ]
    labels = ["alone", "lost without it (unique)"]
    facts = [fact]
    if control:
        mean, low, high = 100 * np.asarray(control, np.float64)[:, order]
        handles.append(ax.barh(y + offset, mean, height, color=style.VERMILLION))
        ax.hlines(y + offset, low, high, color="black", linewidth=1.2)
        labels.append("untrained control")
        if np.any(high > low):
            facts.append("lines: range of the untrained controls; their bars: the mean")
    ax.set_title("; ".join(filter(None, facts)), loc="left", color=style.GREY)
    style.name_rows(ax, y, style.sanitize_names(attributes, 28, order), 0.6)
    ax.set_xlabel("share of the embeddings' variance (%, adjusted R²)")
    style.add_legend(fig, handles, labels)
    return fig


@clipkit_style
def prompt_variance(
    share: ArrayLike,
    above: ArrayLike,
    prompts: Sequence[str],
    attributes: Sequence[str],
    *,
    title: str | None = None,
) -> Figure:
    """Draw how much of the variance of each prompt's cosines each attribute explains.

    If there are more than 128 prompts, the 30 with the largest shares are drawn.

    Parameters
    ----------
    share : array (K, A)
        Adjusted R squared, fractions.
    above : array (K, A) of bool
        Cells with a number: above 99 % of random directions and 95 % of unrelated attributes.
    prompts : sequence of K str
    attributes : sequence of A str
    """
    shares = 100 * np.asarray(share, np.float64)
    rows, fact = heatmap.choose_rows(np.nan_to_num(shares, nan=-np.inf).max(axis=1))
    percent = shares[rows]
    texts = style.sanitize_names(prompts, 40, rows.tolist())
    cells = heatmap.Cells(texts, style.sanitize_names(attributes, 24), "prompt", "attribute")
    label = "share of variance (%)"
    look = {"cmap": "Blues", "vmin": 0, "vmax": 100}
    fig, ax, image = heatmap.draw_cells(percent, cells, label, title, slanted=True, **look)
    shown = np.where(np.asarray(above, bool)[rows], percent, np.nan)
    heatmap.write_numbers(ax, image, shown, decimals=0, size=7.5)
    if fact:
        fact += ": the largest shares; "
    n_cells = int(np.isfinite(shares).sum())
    fact += f"numbers: above both nulls; by chance {0.01 * n_cells:.2g} of {n_cells:,} cells"
    ax.set_title(fact, loc="left", color=style.GREY)
    return fig
