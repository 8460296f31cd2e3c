"""A contact sheet of images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from clipkit.plots.style import clipkit_style, new_figure, sanitize_label

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
