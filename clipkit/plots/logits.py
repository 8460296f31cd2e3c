"""Cosines with prompts: of images and class means as dots, and of all classes as a heatmap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import ArrayLike

from clipkit.analysis import results
from clipkit.base.errors import ClipkitError, unknown
from clipkit.base.names import distinct_names
from clipkit.base.options import flag, option
from clipkit.features import similarity as cosine
from clipkit.features.matching import choose_split
from clipkit.features.model import FeatureFile
from clipkit.features.validation import MAX_COUNTED
from clipkit.plots import heatmap, style
from clipkit.plots.picture import Picture, Split
from clipkit.plots.style import Drawn, Floats, clipkit_style

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

__all__ = ["logits", "similarity"]

MAX_ROWS = 40  # of more prompts, those that differ the most are drawn
MAX_MEANS = 1 << 24  # of classes x prompts: 128 MiB
FEW_CLASSES = 5
AXES = {"cosine": "cosine similarity"}


def draw_cosines(
    file: FeatureFile,
    split: Split = None,
    class_: Annotated[
        list[str], option("NAME", "Draw the mean of this class; repeatable.", "--class")
    ] = [],  # noqa: B006
    image: Annotated[list[str], option("ID", "Draw this image; repeatable.")] = [],  # noqa: B006
    prompt: Annotated[
        list[str], option("TEXT", "Draw this prompt (default: all, at most 40); repeatable.")
    ] = [],  # noqa: B006
) -> Drawn:
    """Draw the cosine of images or class means with prompts, as dots (default: five classes)."""
    file, split = choose_split(file, split)
    cosines, labels = cosine_lines(file, split, image, class_)
    columns = choose_prompts(file, prompt)
    texts = [(file.texts or [])[column] for column in columns]
    noun = file.similarity_name
    title = f"{noun.capitalize()} with prompts"
    figure = logits(cosines[:, columns], labels, texts, noun=noun, title=title)
    finding = _spread(cosines[:, columns], texts, noun, "rows" if image else "classes")
    return style.state(figure, finding, results.source_label(file, split))


LOGITS = Picture(
    "logits",
    draw_cosines,
    "clipkit plot logits logits.h5 --class cat --class dog -o cosines.png",
    kinds=("logits",),
    of=("logits",),
    draws_dot_products=True,
)


def cosine_lines(
    file: FeatureFile,
    split: str | None = None,
    images: Sequence[str] = (),
    classes: Sequence[str] = (),
) -> tuple[Floats, list[str]]:
    """Return cosines (M, K) of images, by their ids, and of classes, and M labels.

    If neither are given, the first five classes are selected. A name selects all its classes.
    """
    file, split = choose_split(file, split)
    ids = file.splits[split].ids
    cosines = np.asarray(file.cosines(split))
    lines, labels = [], []
    for image in images:
        if image not in ids:
            raise unknown(f"image of {split}", image, ids)
        lines.append(cosines[ids.index(image)])
        labels.append(image)
    if classes or not images:
        class_of = results.labels_of(file, split)
        names = results.class_names(file, int(class_of.max()))
        distinct = distinct_names(names)
        for c in _select_classes(names, classes):
            mean = np.full(cosines.shape[1], np.nan)
            if (class_of == c).any():
                mean = cosines[class_of == c].mean(axis=0, dtype=np.float64)
            lines.append(mean)
            labels.append(f"mean of {distinct[c]}")
    return np.stack(lines), labels


def choose_prompts(file: FeatureFile, prompts: Sequence[str] = ()) -> list[int]:
    """Return the columns of prompts, given by their texts; by default all."""
    texts = file.texts or []
    for prompt in prompts:
        if prompt not in texts:
            raise unknown(f"prompt of {file.display_name}", prompt, texts)
    return [texts.index(prompt) for prompt in prompts] or list(range(len(texts)))


def _select_classes(names: Sequence[str], selected: Sequence[str]) -> list[int]:
    numbers: list[int] = []
    for name in selected:
        if name not in names:
            raise unknown("class", name, names)
        numbers += np.flatnonzero(np.array(names) == name).tolist()
    return numbers or list(range(len(names)))[:FEW_CLASSES]


@clipkit_style
def logits(
    cosines: ArrayLike,
    labels: Sequence[str],
    texts: Sequence[str],
    *,
    noun: str = "cosine",
    title: str | None = None,
) -> Figure:
    """Draw a row per prompt, with a dot at the cosine of each image or class mean.

    If there are more than 40 prompts, the 40 are drawn in which the images or classes differ the
    most; for a single image or class, the 40 with the highest cosines.

    Parameters
    ----------
    cosines : array (M, K)
    labels : sequence of M str
        What each series of dots is: an image's id, a class's name.
    texts : sequence of K str
    noun : str
        What a similarity is called.
    """
    values = np.asarray(cosines, np.float64)
    M, K = values.shape
    size = values[0]
    if M > 1:
        size = _ranges(values)
    rows = heatmap.largest(size, MAX_ROWS)
    prompts = style.sanitize_names(texts, 48, rows.tolist())
    row_inches = min(0.15 + 0.022 * M, 0.5)
    fig, ax = style.new_axes(7.5, row_inches * len(rows) + 0.8, title)
    y = np.arange(len(rows), dtype=np.float64)
    ax.hlines(y + 0.5, 0, 1, transform=ax.get_yaxis_transform(), color="#eeeeee", linewidth=0.6)
    handles: list[Artist] = []
    for i, series in enumerate(values[:, rows]):
        look = {**style.line_style(i), "linestyle": "none", "markersize": 5.5}
        offset = style.dodge(i, M, 0.14, 0.66)
        handles += ax.plot(series, y + offset, markeredgecolor="white", mew=0.4, **look)
    style.name_rows(ax, y, prompts, 0.5, fontsize=9)
    style.use_plain_numbers(ax.xaxis)
    ax.set_xlabel(AXES.get(noun, noun))
    if len(rows) < K:
        choice = "largest differences" if M > 1 else f"highest {noun}s"
        ax.set_title(f"{len(rows)} of {K:,} prompts: the {choice}", loc="left", color=style.GREY)
    style.add_legend(fig, handles, style.sanitize_names(labels, 32))
    return fig


def _ranges(values: Floats) -> Floats:
    """Return the range of each column of (M, K) values, without those that are missing."""
    filled = np.ma.masked_invalid(values)
    return np.ma.filled(np.ma.ptp(filled, axis=0), np.nan)


def draw_similarity(
    file: FeatureFile,
    split: Split = None,
    centred: Annotated[bool, flag("--centred", "Subtract each prompt's mean.")] = False,
) -> Drawn:
    """Draw the mean cosine of each class with each prompt."""
    file, split = choose_split(file, split)
    means, names = class_means(file, split)
    noun = file.similarity_name
    title = f"Mean {noun} of each class with each prompt"
    names_and_texts = names, file.texts or []
    figure = similarity(means, *names_and_texts, centred=centred, noun=noun, title=title)
    finding = _spread(means, file.texts or [], noun, "classes")
    return style.state(figure, finding, results.source_label(file, split))


def _spread(values: Floats, texts: Sequence[str], noun: str, what: str) -> str:
    """Say by how much rows (M, K) differ at most on one prompt, and from where to where they go."""
    if len(values) < 2 or not np.isfinite(values).any():
        return ""
    ranges = _ranges(np.asarray(values, np.float64))
    place = int(np.nanargmax(ranges))
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    text = style.sanitize_label(texts[place], 40)
    return (
        f"{len(values):,} {what} differ by at most {ranges[place]:.3f}, on “{text}”; "
        f"{noun}s go from {low:.3f} to {high:.3f}"
    )


SIMILARITY = Picture(
    "similarity",
    draw_similarity,
    "clipkit plot similarity logits.h5 --centred -o similarity.png",
    kinds=("logits",),
    of=("logits",),
    draws_dot_products=True,
)


def class_means(file: FeatureFile, split: str | None = None) -> tuple[Floats, list[str]]:
    """Return the mean cosine of each class with each prompt (C, K), and the class names (C).

    NaN stands for a class without images.
    """
    file, split = choose_split(file, split)
    labels = results.labels_of(file, split)
    C, K = results.class_count(file, int(labels.max())), len(file.texts or [])
    if C > MAX_COUNTED or C * K > MAX_MEANS:
        raise ClipkitError(
            f"{file.display_name}: expected at most {MAX_COUNTED:,} classes and "
            f"{MAX_MEANS:,} means, got {C:,} classes x {K:,} prompts"
        )
    names = results.class_names(file, C - 1)
    return cosine.class_means(file.cosines(split), labels, C), names


@clipkit_style
def similarity(
    means: ArrayLike,
    class_names: Sequence[str],
    texts: Sequence[str],
    *,
    centred: bool = False,
    noun: str = "cosine",
    title: str | None = None,
) -> Figure:
    """Draw a heatmap of the mean cosine of each class's images with each prompt, one row a prompt.

    Parameters
    ----------
    means : array (C, K)
    class_names : sequence of C str
    texts : sequence of K str
        If there are more than 128, the 30 are drawn in which classes differ the most.
    centred : bool
        Show each prompt's difference from its mean over classes, on a diverging scale. Prompts
        usually differ more from one another than classes do on one prompt; this shows the classes.
    noun : str
        What a similarity is called.
    """
    rows, fact = heatmap.choose_rows(_ranges(np.asarray(means, np.float64)))
    cosines = np.asarray(means, np.float64).T[rows]  # (n, C)
    label, colours = f"mean {AXES.get(noun, noun)}", "viridis"
    low, high = heatmap.limits(cosines)
    if centred:
        mean = np.ma.masked_invalid(cosines).mean(axis=1, keepdims=True)
        cosines = cosines - mean.filled(np.nan)
        label, colours = f"{noun} − the prompt's mean", "RdBu_r"
        high = max(map(abs, heatmap.limits(cosines)))
        low = -high
    cells = heatmap.Cells(
        style.sanitize_names(texts, 40, rows.tolist()),
        style.sanitize_names(class_names, 24),
        "prompt",
        "class",
        inches=(0.4, 0.2),
        least=(2.5, 2.4),
    )
    slanted = cosines.shape[1] <= heatmap.MAX_NUMBERS
    look = {"cmap": colours, "vmin": low, "vmax": high}
    fig, ax, _ = heatmap.draw_cells(cosines, cells, label, title, slanted, **look)
    if fact:
        ax.set_title(f"{fact}: the largest differences", loc="left", color=style.GREY)
    return fig
