"""Singular values of prompt sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import ArrayLike

from clipkit.analysis import results, similarity
from clipkit.base.errors import UsageError
from clipkit.features.history import provenance
from clipkit.features.model import FeatureFile
from clipkit.plots import style
from clipkit.plots.style import Drawn, Floats, clipkit_style
from clipkit.plots.temperature import name_curves


def draw_spectra(texts: Sequence[FeatureFile]) -> Drawn:
    """Draw the singular values of prompt sets."""
    values = prompt_spectra(texts)
    title = "Singular values of the prompts' directions"
    ranks = {name: similarity.effective_rank(sigma) for name, sigma in values.items()}
    return spectrum(values, ranks, title=title), results.sources_label(texts)


def prompt_spectra(texts: Sequence[FeatureFile]) -> dict[str, Floats]:
    """Compute the singular values of prompt sets, each named after its model, its file and size."""
    values = {}
    labels = []
    models = set()
    for number, file in enumerate(texts):
        path = Path(file.display_name)
        if path in values:
            raise UsageError(f"expected files with different names, got {path.stem} twice")
        similarity.refuse_dot_product(file, "for a spectrum")
        values[path] = similarity.singular_values(file.features)
        labels.append((number, f"{path.stem} ({len(file.features)})"))
        models.add(provenance(file).model)
    names = [label for _, label in labels]
    if len(models) > 1 or len(set(names)) < len(names):
        names = name_curves(texts, labels)
    return dict(zip(names, values.values(), strict=True))


@clipkit_style
def spectrum(
    values: Mapping[str, ArrayLike],
    effective_rank: Mapping[str, float],
    *,
    title: str | None = None,
) -> Figure:
    """Draw singular values of prompt matrices on a log scale, each with its effective rank marked.

    Parameters
    ----------
    values : mapping of str to array (min(K, D),)
        Singular values of each prompt set; zeros are left out.
    effective_rank : mapping of str to float
        Of the same prompt sets.
    """
    fig, ax = style.new_axes(7.0, 3.8, title)
    handles: list[Artist] = []
    labels = []
    for i, (name, sigma) in enumerate(values.items()):
        falling = np.sort(np.array(sigma, np.float64))[::-1]
        falling[falling <= 0] = np.nan
        index = np.arange(1, len(falling) + 1)
        look = style.line_style(i)
        handles += ax.plot(index, falling, **{**look, "marker": ""})
        rank = effective_rank[name]
        labels.append(f"{style.sanitize_label(name, 52)}: effective rank {rank:.1f}")
        height = float(np.exp(np.interp(rank, index, np.log(falling))))
        ax.plot(rank, height, markersize=9, markeredgecolor="white", **look)
        ax.plot([rank, rank], [0, height], color=look["color"], linewidth=1, linestyle=":")
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set(xlabel="index of the singular value", ylabel="singular value (log scale)")
    ax.set_title("marks: effective rank", loc="left", color=style.GREY)
    style.add_legend(fig, handles, labels)
    return fig
