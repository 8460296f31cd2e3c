"""Singular values of prompt sets, and of images beside a Gaussian sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from clipkit.analysis import results
from clipkit.base import console, suggestions
from clipkit.base.errors import UsageError
from clipkit.features import similarity
from clipkit.features.matching import choose_split
from clipkit.features.model import FeatureFile
from clipkit.features.provenance import provenance
from clipkit.plots import marks, style
from clipkit.plots.picture import Picture, Split
from clipkit.plots.style import Drawn, Floats, clipkit_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = ["spectrum"]

SEED = 42
MOST_NAMED = 4  # spectra in a title
LATE = 0.9  # of a line: where a mark stands close to the name of the line


def draw_spectra(files: Sequence[FeatureFile], split: Split = None) -> Drawn:
    """Draw the singular values of prompt sets, or of images, with their effective ranks.

    The effective rank is the exponential of the entropy of the singular values' shares. It is 1 if
    one direction holds everything, and the number of directions if all hold the same. For images,
    it is called RankMe (Garrido et al. 2023). Effective ranks grow with the number of vectors, so
    that they are left out where it differs. Images stand beside a Gaussian sample of as many
    vectors, whose directions are all alike.
    """
    files, splits = _splits_of_images(files, split)
    values = spectra(files, splits)
    nulls = {}
    if splits:
        noun = "images"
        pairs = zip(files, splits, strict=True)
        sizes = {file.splits[name].features.shape for file, name in pairs}
        row_counts = {n for n, _ in sizes}
        for n, width in sorted(sizes):
            name = f"a Gaussian sample, n {n:,}, {width} dimensions"
            nulls[name] = similarity.gaussian_singular_values(n, width, SEED)
    else:
        noun = "prompts"
        row_counts = {len(file.features) for file in files}
    ranks = {}
    if len(row_counts) == 1:
        spectra_of = {**values, **nulls}.items()
        ranks = {name: similarity.effective_rank(sigma) for name, sigma in spectra_of}
    else:
        console.note(f"no effective ranks: they grow with the number of {noun}, which differs")
    if splits and ranks:
        facts = [f"{name}: {rank:.1f}" for name, rank in ranks.items()]
        console.note(f"effective rank (RankMe): {'; '.join(facts)}")
    title = f"Singular values of the {noun}' directions"
    figure = spectrum({**values, **nulls}, ranks, nulls=list(nulls), title=title)
    finding = _finding([*values.items()][:MOST_NAMED], ranks, nulls)
    return style.state(figure, finding, results.sources_label(files, splits))


def _finding(
    values: Sequence[tuple[str, Floats]], ranks: Mapping[str, float], nulls: Iterable[str]
) -> str:
    """Say how many dimensions each matrix uses, beside a Gaussian sample, if there is one.

    Without effective ranks, say how much the first direction has of the sum of squares.
    """
    parts: list[str] = []
    for name, sigma in values:
        if ranks:
            dimensions = "" if parts else " dimensions"
            parts.append(f"{name} uses {ranks[name]:.1f} of {len(sigma):,}{dimensions}")
        else:
            parts.append(f"{100 * sigma.max() ** 2 / np.sum(sigma**2):.1f} % of {name}")
    found = ", ".join(parts)
    if not ranks:
        return f"One direction has {found}"
    of_nulls = [f"{ranks[name]:.1f}" for name in nulls]
    return f"{found}; a Gaussian sample uses {' or '.join(of_nulls)}" if of_nulls else found


def _splits_of_images(
    files: Sequence[FeatureFile], split: str | None
) -> tuple[Sequence[FeatureFile], list[str]]:
    """Return the files, and the split of each file of images; none for texts."""
    chosen = [choose_split(file, split) for file in files if file.kind == "images"]
    if chosen and len(chosen) < len(files):
        texts: dict[str, list[str]] = {
            file.display_name: [] for file in files if file.kind == "texts"
        }
        apart = suggestions.again(texts) or "draw one kind at a time"
        raise UsageError("expected files of images or of texts, got both", apart)
    if split is not None and not chosen:
        raise UsageError(f"expected images for --split, got {files[0].display_name}")
    if not chosen:
        return files, []
    return [file for file, _ in chosen], [name for _, name in chosen]


SPECTRUM = Picture(
    "spectrum",
    draw_spectra,
    "clipkit plot spectrum txt.h5 -o spectrum.png",
    kinds=("texts", "images"),
    of=("texts", "images"),
    draws_several=True,
)


def spectra(files: Sequence[FeatureFile], splits: Sequence[str] = ()) -> dict[str, Floats]:
    """Compute the singular values of prompt sets, or of a split of each file of images.

    Each is named after its model, its file and its number of rows.
    """
    values = {}
    labels = []
    models = set()
    for number, file in enumerate(files):
        path = Path(file.display_name)
        if path in values:
            raise UsageError(f"expected files with different names, got {path.stem} twice")
        matrix, size = file.features, ""
        if splits:
            matrix, size = file.splits[splits[number]].features, "n "
        values[path] = similarity.singular_values(matrix)
        labels.append((number, f"{path.stem} ({size}{len(matrix):,})"))
        models.add(provenance(file).model)
    names = [label for _, label in labels]
    if len(models) > 1 or len(set(names)) < len(names):
        names = results.name_curves(files, labels)
    return dict(zip(names, values.values(), strict=True))


@clipkit_style
def spectrum(
    values: Mapping[str, ArrayLike],
    effective_rank: Mapping[str, float],
    *,
    nulls: Sequence[str] = (),
    title: str | None = None,
) -> Figure:
    """Draw singular values of matrices on a log scale, each with its effective rank marked.

    Parameters
    ----------
    values : mapping of str to array (min(K, D),)
        Singular values of each matrix; zeros are left out.
    effective_rank : mapping of str to float
        Of the same matrices; a matrix without one has no mark.
    nulls : sequence of str
        Names of the matrices that are drawn as dashed grey lines.
    """
    fig, ax = style.new_axes(7.0, 3.8, title)
    lines: list[Line2D] = []
    for i, (name, sigma) in enumerate(values.items()):
        falling = np.sort(np.array(sigma, np.float64))[::-1]
        falling[falling <= 0] = np.nan
        index = np.arange(1, len(falling) + 1)
        look = style.line_style(i)
        if name in nulls:
            look |= {"color": style.GREY, "linestyle": "--"}
        lines += ax.plot(index, falling, **{**look, "marker": ""})
        rank = effective_rank.get(name)
        if rank is None:
            continue
        height = float(np.exp(np.interp(rank, index, np.log(falling))))
        ax.plot(rank, height, markersize=9, markeredgecolor="white", **look)
        ax.plot([rank, rank], [0, height], color=look["color"], linewidth=1, linestyle=":")
        # right of the mark and above the falling line; at its end, where its name is, to the left
        place: dict[str, Any] = {"xytext": (7, 3), "textcoords": "offset points"}
        if rank > LATE * len(falling):
            place |= {"xytext": (-4, 8), "ha": "right"}
        ax.annotate(f"{rank:.1f}", (rank, height), color=look["color"], fontsize=9.5, **place)
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    style.hide_minor_labels(ax.yaxis)
    ax.set(xlabel="index of the singular value", ylabel="singular value (log scale)")
    if effective_rank:
        ax.set_title("marks: effective rank", loc="left", color=style.GREY)
    labels = [style.sanitize_label(name, 52) for name in values]
    if not marks.name_ends(ax, lines, labels):
        style.add_legend(fig, lines, labels)
    return fig
