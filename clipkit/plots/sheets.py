"""Images as they are: a contact sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from clipkit.plots.style import literal, new, styled

TILE = 1.05  # inches


@styled
def contact_sheet(
    images: ArrayLike,
    titles: Sequence[str] | None = None,
    cols: int | None = None,
    *,
    title: str | None = None,
) -> Figure:
    """A sheet of images, left to right and top to bottom, each with its title above it.

    Parameters
    ----------
    images : array (N, H, W, 3) uint8
        All of one size; at least one.
    titles : sequence of N str, optional
        Of the images.
    cols : int, optional
        Images a row; by default about as many as rows, at most 8.
    title : str, optional
        Of the sheet.

    Returns
    -------
    Figure
    """
    images = np.asarray(images)
    N, H, W = images.shape[:3]
    cols = min(cols or min(8, math.ceil(math.sqrt(max(N, 1)))), max(N, 1))
    rows = max(1, math.ceil(N / cols))
    tall = TILE * H / W
    strip = 0.22 if titles is not None else 0.0  # inches above each image
    gap = 0.08
    width, height = cols * (TILE + gap), rows * (tall + strip + gap)
    fig = new(max(width, 2.0) + 0.2, height + 0.2, title)
    ax = fig.add_subplot()
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    ax.axis("off")
    for i, image in enumerate(images):
        x, y = i % cols * (TILE + gap), i // cols * (tall + strip + gap) + strip
        ax.imshow(image, extent=(x, x + TILE, y + tall, y), interpolation="nearest", aspect="equal")
        if titles is not None:
            ax.text(
                x + TILE / 2, y - 0.04, literal(titles[i], 15), ha="center", va="bottom", fontsize=8
            )
    ax.set(xlim=(0, width), ylim=(height, 0))
    return fig
