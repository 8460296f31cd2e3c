"""Matrices as colours: sizes and labels of cells, the colour bar, and numbers in the cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipkit.plots import style
from clipkit.plots.style import Floats
from clipkit.statistics import metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

CHARACTER_INCHES = 0.062  # width of a character of a 7 pt label, about
MAX_PROMPTS = 128  # of more, those with the largest values are shown
FEW_PROMPTS = 30
MAX_NAMES = 128  # with more rows, none has its name
MAX_COLUMN_NAMES = 60  # with more columns, whose names stand upright, none has its name
MAX_NUMBERS = 20  # with more rows or columns, cells hold no numbers


class Cells(NamedTuple):
    """The cells of a matrix: the names of rows and columns as they are written, and their sizes."""

    rows: Sequence[str]
    columns: Sequence[str]
    row_title: str
    column_title: str
    inches: tuple[float, float] = (0.42, 0.22)  # width and height of a cell
    least: tuple[float, float] = (2.5, 1.5)  # width and height of the matrix


def draw_cells(
    values: Floats, cells: Cells, label: str, title: str | None, slanted: bool, **look: Any
) -> tuple[Figure, Axes, AxesImage]:
    """Draw a matrix (R, S) with the names of its rows and columns, as large as these need."""
    R, S = values.shape
    width = axis_inches(S, cells.inches[0], cells.least[0], MAX_COLUMN_NAMES)
    height = axis_inches(R, cells.inches[1], cells.least[1])
    below = text_inches(cells.columns if len(cells.columns) <= MAX_COLUMN_NAMES else [])
    figure_width = max(width + text_inches(cells.rows) + 2.0, 5.0)
    fig, ax = style.new_axes(figure_width, height + below + 0.9, title)
    image = draw(fig, ax, values, label, **look)
    label_cells(ax, "x", cells.columns, width, cells.column_title, slanted)
    label_cells(ax, "y", cells.rows, height, cells.row_title)
    return fig, ax, image


def axis_inches(n: int, cell: float, least: float, most_names: int = MAX_NAMES) -> float:
    """Return the length of an axis with n cells of `cell` inches.

    Beyond 7.2 inches cells shrink, to 8 pt at least if there are no more than `most_names`.
    """
    room_for_names = n * 0.112 if n <= most_names else 0.0
    return max(min(n * cell, 7.2), room_for_names, least)


def text_inches(labels: Sequence[str]) -> float:
    """Return the width of the longest label."""
    return max(map(style.text_width, labels), default=0) * CHARACTER_INCHES


def label_cells(
    ax: Axes,
    axis: Literal["x", "y"],
    names: Sequence[str],
    inches: float,
    title: str,
    slanted: bool = False,
) -> None:
    """Label an axis `inches` long and its cells; names that cannot be read are not drawn."""
    n = len(names)
    most_names = MAX_COLUMN_NAMES if axis == "x" else MAX_NAMES
    shown = names if n <= most_names else []
    size = min(9.0, max(6.0, 0.85 * inches * 72 / n))
    set_ticks = ax.set_xticks if axis == "x" else ax.set_yticks
    look: dict[str, Any] = {}
    if axis == "x":
        look = {"rotation": 90}
    if slanted:
        look = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    set_ticks(range(len(shown)), shown, fontsize=size, **look)
    if not shown:
        title += f": {n:,}, too many for their names"
    ax.set(**{f"{axis}label": title})


def draw(fig: Figure, ax: Axes, values: Floats, label: str, **look: Any) -> AxesImage:
    """Draw a matrix and its colour bar. Cells without a value are grey."""
    masked = np.ma.masked_invalid(values)
    image = ax.imshow(masked, aspect="auto", interpolation="nearest", **look)
    ax.set_facecolor("#cccccc")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=2, color=style.GREY)
    shrink = min(1.0, 5 / fig.get_figheight())
    bar = fig.colorbar(image, ax=ax, label=label, shrink=shrink, aspect=22, pad=0.02, anchor=(0, 1))
    bar.outline.set_visible(False)
    style.limit_ticks(bar.ax.yaxis, 6)
    style.use_plain_numbers(bar.ax.yaxis)
    return image


def write_numbers(
    ax: Axes,
    image: AxesImage,
    values: Floats,
    decimals: int,
    size: float,
    zeros: bool = True,
    texts: Mapping[tuple[int, int], str] = MappingProxyType({}),
) -> None:
    """Write each value into its cell, in black or white, whichever is legible on its colour.

    `texts` replace the numbers of some cells.
    """
    colors = np.asarray(image.to_rgba(values))  # (R, S, 4)
    is_light = colors[..., :3] @ np.array([0.299, 0.587, 0.114]) > 0.55
    for i, j in np.ndindex(*values.shape):
        value = values[i, j]
        if not np.isfinite(value) or (value == 0 and not zeros):
            continue
        ink = "black" if is_light[i, j] else "white"
        text = texts.get((i, j), f"{value:.{decimals}f}")
        ax.text(j, i, text, ha="center", va="center", fontsize=size, color=ink)


def limits(values: Floats) -> tuple[float, float]:
    """Return the least and largest finite value, moved apart if they are equal."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    if high - low <= 1e-9:
        return low - 1e-3, high + 1e-3
    return low, high


def choose_rows(size: Floats, noun: str = "prompts") -> tuple[NDArray[np.int64], str]:
    """Return the rows (n,) to show of K, and `30 of 1,203 prompts` if these are some.

    Of too many, the rows with the largest `size` (K,) are chosen. They keep their order.
    """
    K = len(size)
    if K <= MAX_PROMPTS:
        return np.arange(K), ""
    return largest(size, FEW_PROMPTS), f"{FEW_PROMPTS} of {K:,} {noun}"


def largest(size: Floats, most: int) -> NDArray[np.int64]:
    """Return the places of at most `most` largest numbers, in their order. NaN counts as least."""
    return np.sort(metrics.falling_order(size)[:most])
