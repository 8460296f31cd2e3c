"""Sheets of images: a contact sheet, and the images nearest to prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from clipkit.plots.style import GREY, clipkit_style, new_figure, sanitize_label

COLUMNS = 8
TILE = 1.05  # inches of an image's width
GAP = 0.08  # inches between images
TITLE_STRIP = 0.22  # inches above an image with a title


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
        One per image, cut after 15 characters.
    """
    images = np.asarray(images)
    N, H, W = images.shape[:3]
    cols = min(COLUMNS, N)
    rows = math.ceil(N / cols)
    strip = 0.0 if titles is None else TITLE_STRIP
    tile_height = TILE * H / W
    pitch = tile_height + strip + GAP
    width, height = cols * (TILE + GAP), rows * pitch
    fig = new_figure(max(width, 2.0) + 0.2, height + 0.2, title)
    ax = fig.add_subplot()
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    ax.axis("off")
    for i, image in enumerate(images):
        left = i % cols * (TILE + GAP)
        top = i // cols * pitch + strip
        extent = (left, left + TILE, top + tile_height, top)
        ax.imshow(image, extent=extent, interpolation="nearest", aspect="equal")
        if titles is not None:
            name = sanitize_label(titles[i], 15)
            ax.text(left + TILE / 2, top - 0.04, name, ha="center", va="bottom", fontsize=8)
    ax.set(xlim=(0, width), ylim=(height, 0))  # imshow changed them
    return fig


class NearestImages(NamedTuple):
    """The images with the highest and with the lowest cosine with one prompt.

    Attributes
    ----------
    name : str
        The prompt or class.
    images : (2, M, H, W, 3) uint8
        By falling cosine: M of the highest, M of the lowest.
    labels : (2, M) sequence of str
        What stands below each image.
    """

    name: str
    images: ArrayLike
    labels: Sequence[Sequence[str]]


@clipkit_style
def nearest(prompts: Sequence[NearestImages], *, title: str | None = None) -> Figure:
    """Draw a row of images for each prompt: the highest cosines left, the lowest right."""
    M, H, W = np.asarray(prompts[0].images).shape[1:4]
    tile_height = TILE * H / W
    pitch = tile_height + 2 * TITLE_STRIP + 3 * GAP
    half = M * (TILE + GAP)
    width, height = 2 * half + 4 * GAP, TITLE_STRIP + len(prompts) * pitch
    fig = new_figure(width + 0.2, height + 0.2, title)
    ax = fig.add_subplot()
    ax.axis("off")
    ax.text(0, 0.12, "highest cosines", fontsize=9, color=GREY)
    ax.text(half + 4 * GAP, 0.12, "lowest cosines", fontsize=9, color=GREY)
    for row, (name, images, labels) in enumerate(prompts):
        top = 1.6 * TITLE_STRIP + row * pitch
        text = sanitize_label(name, int(width * 12))
        ax.text(0, top + 0.1, text, fontsize=10, fontweight="bold")
        for side, (of_side, below) in enumerate(zip(np.asarray(images), labels, strict=True)):
            left = side * (half + 4 * GAP)
            _draw_row(ax, of_side, below, left, top + TITLE_STRIP, tile_height)
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    return fig


def _draw_row(
    ax: Axes, images: ArrayLike, labels: Sequence[str], left: float, top: float, height: float
) -> None:
    for image, label in zip(np.asarray(images), labels, strict=True):
        extent = (left, left + TILE, top + height, top)
        ax.imshow(image, extent=extent, interpolation="nearest", aspect="equal")
        text = sanitize_label(label, 19)
        place = (left + TILE / 2, top + height + 0.04)
        ax.text(*place, text, ha="center", va="top", fontsize=7.5)
        left += TILE + GAP
