"""Sheets of images: a contact sheet, and the images nearest to prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clipkit.analysis import results
from clipkit.base import console
from clipkit.base.errors import ImageError, unknown
from clipkit.base.matrices import Int64
from clipkit.base.options import LabelColumn, Option, PathColumn, SplitColumn, option
from clipkit.features.matching import choose_split, default_split
from clipkit.features.model import FeatureFile
from clipkit.plots import style
from clipkit.plots.logits import choose_prompts
from clipkit.plots.picture import Picture, Split
from clipkit.plots.style import Drawn, Floats, clipkit_style
from clipkit.statistics import metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from clipkit.datasets.dataset import Dataset, ImageDataset

__all__ = ["NearestImages", "contact_sheet", "nearest"]

SHEET_IMAGES = 40
COLUMNS = 8
MOST_NAMED = 3  # prompts in a title
TILE = 1.05  # inches of an image's width
GAP = 0.08  # inches between images
TITLE_STRIP = 0.22  # inches above an image with a title
TILE_PIXELS = 96
TILE_GREY = 204  # of the tile in place of an image that cannot be used
ID_LENGTH = 12  # characters of an image's id
Root = Annotated[str | None, option("FOLDER", "Folder that holds the data set.")]


def _embedded_column(what: str) -> Option:
    return option(
        "NAME", f"Column of a manifest {what} (default: the one that clipkit embed read)."
    )


def draw_images(
    dataset: list[str],
    split: Split = None,
    root: Root = None,
    path_column: PathColumn = None,
    label_column: LabelColumn = None,
    split_column: SplitColumn = None,
) -> Drawn:
    """Draw a contact sheet of 40 images of a data set, balanced by class."""
    from clipkit import datasets

    data = datasets.load(
        dataset,
        root=root,
        path_column=path_column,
        label_column=label_column,
        split_column=split_column,
        splits=None if split is None else [split],
        limit=SHEET_IMAGES,
    )
    return draw_contact_sheet(data)


IMAGES = Picture(
    "images",
    draw_images,
    "clipkit plot images shapes -o sheet.png",
    kinds=(),
    of=("images",),
    needs_images=True,
)


def draw_contact_sheet(dataset: Dataset) -> Drawn:
    """Draw the images of the split `test`, else of the first."""
    split = default_split(dataset.splits)
    images = dataset.splits[split]
    source = f"{dataset.name}, {split}"
    if images.labels is None:
        titles = list(map(_short_id, images.ids))
    else:
        titles = [dataset.class_names[label] for label in images.labels]
        source += f", {len(dataset.class_names):,} classes"
    title = f"{console.count(len(images), 'image')} from {dataset.name}"
    return contact_sheet(read_tiles(images, split), titles, title=title), source


def read_tiles(images: ImageDataset, split: str) -> NDArray[np.uint8]:
    """Return small pictures (N, H, W, 3) of images on white; one that cannot be used is grey."""
    from PIL import ImageOps  # which the functions on numbers do without

    tiles = np.full((len(images), TILE_PIXELS, TILE_PIXELS, 3), TILE_GREY, np.uint8)
    for number, tile in enumerate(tiles):
        try:
            image = images.image(number)
        except ImageError as error:
            console.warn(f"{split}/{images.ids[number]} is a grey tile: {error.message}")
        else:
            tile[:] = np.asarray(ImageOps.pad(image, tile.shape[:2], color="white"))
    return tiles


def _short_id(row_id: str) -> str:
    """Return the end of an id, in which the files of a folder differ."""
    name = row_id.rpartition("/")[2]
    return name if len(name) <= ID_LENGTH else f"…{name[1 - ID_LENGTH :]}"


@clipkit_style
def contact_sheet(
    images: ArrayLike, titles: Sequence[str] | None = None, *, title: str | None = None
) -> Figure:
    """Draw a sheet of images, left to right and top to bottom, each with its title above it.

    Parameters
    ----------
    images : array (N, H, W, 3) uint8
        At least one.
    titles : sequence of N str, optional
    """
    images = np.asarray(images)
    N, H, W = images.shape[:3]
    cols = min(COLUMNS, N)
    rows = math.ceil(N / cols)
    strip = 0.0 if titles is None else TITLE_STRIP
    tile_height = TILE * H / W
    pitch = tile_height + strip + GAP
    width, height = cols * (TILE + GAP), rows * pitch
    fig, ax = style.new_axes(max(width, 2.0) + 0.2, height + 0.2, title)
    ax.axis("off")
    for i, image in enumerate(images):
        left = i % cols * (TILE + GAP)
        top = i // cols * pitch + strip
        _draw_tile(ax, image, left, top, tile_height)
        if titles is not None:
            name = style.sanitize_label(titles[i], 15)
            ax.text(left + TILE / 2, top - 0.04, name, ha="center", va="bottom", fontsize=8)
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    return fig


def _draw_tile(ax: Axes, image: ArrayLike, left: float, top: float, height: float) -> None:
    extent = (left, left + TILE, top + height, top)
    ax.imshow(image, extent=extent, interpolation="nearest", aspect="equal")


class Nearest(NamedTuple):
    """Rows and their cosines (2, M): the highest M and the lowest M with a prompt, both falling."""

    name: str
    rows: Int64
    cosines: Floats


def nearest_images(
    file: FeatureFile,
    split: str,
    prompts: Sequence[str] = (),
    classes: Sequence[str] = (),
    count: int = 4,
) -> list[Nearest]:
    """Find the images with the highest and the lowest cosine with prompts, at most `count` each.

    By default these are the first four prompts. A class counts by its most similar prompt.
    """
    texts, names = file.texts or [], file.class_names or []
    cosines = np.asarray(file.cosines(split))
    nearest = []
    if prompts or not classes:
        for number in choose_prompts(file, prompts or texts[:4]):
            nearest.append(nearest_rows(texts[number], cosines[:, number], count))
    for name in classes:
        of_class = np.zeros(len(texts), bool)
        if name in names:
            of_class = np.asarray(file.class_index) == names.index(name)
        if not of_class.any():
            raise unknown(f"class with prompts of {file.display_name}", name, names)
        nearest.append(nearest_rows(name, cosines[:, of_class].max(axis=1), count))
    return nearest


def nearest_rows(name: str, cosines: Floats, count: int) -> Nearest:
    """Return the rows with the highest and the lowest of some cosines (N), at most `count` each."""
    highest = metrics.highest(cosines[None], count)[0]
    lowest = len(cosines) - 1 - metrics.highest(-cosines[None, ::-1], count)[0]  # the last of equal
    rows = np.stack([highest, lowest[::-1]])
    return Nearest(name, rows, cosines[rows])


def draw_nearest(  # noqa: PLR0913 - options
    file: FeatureFile,
    dataset: list[str],
    prompt: Annotated[
        list[str], option("TEXT", "Draw the images of this prompt; repeatable.")
    ] = [],  # noqa: B006
    class_: Annotated[
        list[str], option("NAME", "Draw the images of this class's prompts; repeatable.", "--class")
    ] = [],  # noqa: B006
    count: Annotated[
        int, option("N", "Number of images on each side.", "--count", min=1, max=20)
    ] = 4,
    split: Split = None,
    root: Root = None,
    path_column: Annotated[str | None, _embedded_column("that names the image files")] = None,
    label_column: Annotated[str | None, _embedded_column("with the labels")] = None,
    split_column: Annotated[str | None, _embedded_column("with the splits")] = None,
) -> Drawn:
    """Draw the images that are most and least similar to prompts (default: the first four)."""
    from clipkit.datasets.matching import load_images, match_images, warn_of_other_name

    file, split = choose_split(file, split)
    found = nearest_images(file, split, prompt, class_, count)
    data = load_images(
        file,
        dataset,
        root=root,
        path_column=path_column,
        label_column=label_column,
        split_column=split_column,
    )
    rows = np.stack([of_prompt.rows for of_prompt in found])
    _, images = match_images(file, split, data, rows.ravel())
    warn_of_other_name(file, data)
    tiles = read_tiles(images, split)
    tiles = tiles.reshape(*rows.shape, *tiles.shape[1:])
    sheets = []
    for of_prompt, pictures in zip(found, tiles, strict=True):
        labels = _image_labels(file, split, of_prompt)
        sheets.append(NearestImages(of_prompt.name, pictures, labels))
    noun = file.similarity_name
    figure = nearest(sheets, noun=noun, title="Nearest images")
    return style.state(figure, _nearest_finding(found, noun), results.source_label(file, split))


NEAREST = Picture(
    "nearest",
    draw_nearest,
    'clipkit plot nearest logits.h5 shapes --prompt "a noisy image" -o nearest.png',
    kinds=("logits",),
    of=("logits",),
    needs_images=True,
    draws_dot_products=True,
)


def _nearest_finding(found: Sequence[Nearest], noun: str) -> str:
    """Say from where to where the similarities of images with each of the first prompts go."""
    parts = []
    for name, _, values in found[:MOST_NAMED]:
        low, high = float(np.min(values)), float(np.max(values))
        parts.append(f"“{style.sanitize_label(name, 30)}” {low:.2f} to {high:.2f}")
    return f"{noun.capitalize()} of images, lowest to highest: {', '.join(parts)}"


def _image_labels(file: FeatureFile, split: str, nearest: Nearest) -> list[list[str]]:
    """Return what stands below each image: its cosine, and its class or else its id."""
    labels, ids = file.splits[split].labels, file.splits[split].ids
    names = [] if labels is None else results.class_names(file, labels.max())
    texts = []
    for rows, cosines in zip(nearest.rows, nearest.cosines, strict=True):
        of_side = []
        for row, cosine in zip(rows, cosines, strict=True):
            name = _short_id(ids[row]) if labels is None else names[labels[row]]
            of_side.append(f"{cosine:.2f} {name}")
        texts.append(of_side)
    return texts


class NearestImages(NamedTuple):
    """The images (2, M, H, W, 3) uint8 with the highest and lowest cosines, and labels (2, M)."""

    name: str
    images: ArrayLike
    labels: Sequence[Sequence[str]]


@clipkit_style
def nearest(
    prompts: Sequence[NearestImages], *, noun: str = "cosine", title: str | None = None
) -> Figure:
    """Draw a row of images for each prompt: the highest cosines left, the lowest right."""
    M, H, W = np.asarray(prompts[0].images).shape[1:4]
    tile_height = TILE * H / W
    pitch = tile_height + 2 * TITLE_STRIP + 3 * GAP
    half = M * (TILE + GAP)
    width, height = 2 * half + 4 * GAP, TITLE_STRIP + len(prompts) * pitch
    fig, ax = style.new_axes(width + 0.2, height + 0.2, title)
    ax.axis("off")
    ax.text(0, 0.12, f"highest {noun}s", fontsize=9, color=style.GREY)
    ax.text(half + 4 * GAP, 0.12, f"lowest {noun}s", fontsize=9, color=style.GREY)
    for row, (name, images, labels) in enumerate(prompts):
        top = 1.6 * TITLE_STRIP + row * pitch
        text = style.sanitize_label(name, int(width * 12))
        ax.text(0, top + 0.1, text, fontsize=10, fontweight="bold")
        for side, (of_side, below) in enumerate(zip(np.asarray(images), labels, strict=True)):
            left = side * (half + 4 * GAP)
            for image, label in zip(of_side, below, strict=True):
                _draw_tile(ax, image, left, top + TITLE_STRIP, tile_height)
                place = (left + TILE / 2, top + TITLE_STRIP + tile_height + 0.04)
                text = style.sanitize_label(label, 19)
                ax.text(*place, text, ha="center", va="top", fontsize=7.5)
                left += TILE + GAP
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    return fig
