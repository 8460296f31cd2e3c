"""The style that all figures share: colours, type sizes, labels, legends, and saving."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from numpy.typing import NDArray

from clipkit.errors import UsageError
from clipkit.tables import distinct_names

Floats = NDArray[np.float64]

FORMATS = ("png", "svg", "pdf")
DPI = 200  # a figure 7 inches wide has 1,400 pixels; shown 800 wide, 10 pt text is 16 pixels high
MAX_PIXELS = 12_000_000  # of a larger figure, a PNG has fewer dots per inch: each takes 40 bytes

# Okabe and Ito, Color Universal Design (2008): colours that colour-blind readers can tell apart.
# Yellow is left out, since it is hard to see on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
DASHES = ("-", "--", ":")
BLUE, VERMILLION = PALETTE[:2]
GREY = "#555555"
MAX_LEGEND = 60

_STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "font.size": 10,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 6,
    "pdf.fonttype": 42,
    "svg.hashsalt": "clipkit",
    "text.parse_math": False,  # a dollar sign in a prompt is a dollar sign
}
# Without time stamps and version numbers, the same figure gives the same bytes.
_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


# A decorator. A function runs in clipkit's style over matplotlib's defaults, whatever the user's
# matplotlibrc says, and leaves matplotlib's global settings alone.
clipkit_style = matplotlib.style.context(["default", _STYLE])


def new_figure(width: float, height: float, title: str | None) -> Figure:
    """Create an empty figure of `width` x `height` inches.

    A title is wrapped to the width, and each of its lines adds to the height.
    """
    title_lines = []
    if title:
        text = sanitize_label(title, 300)
        title_lines = textwrap.wrap(text, int(width * 9.5), break_on_hyphens=False)
    fig = Figure(figsize=(width, height + 0.25 * len(title_lines)), layout="constrained")
    fig.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr, call-arg]
    if title_lines:
        fig.suptitle("\n".join(title_lines), x=0.08 / width, ha="left")
    return fig


def sanitize_label(text: str, width: int = 40) -> str:
    r"""Make one printable line of at most `width` characters, cut with an ellipsis.

    >>> sanitize_label("a photo of a very, very long prompt", 20)
    'a photo of a very, …'
    >>> sanitize_label("pickup_truck \x1b[31m$x^2$\n")
    'pickup_truck [31m$x^2$'
    """
    printable = [character if character.isprintable() else " " for character in text]
    line = " ".join("".join(printable).split())
    if len(line) <= width:
        return line
    return line[: width - 1] + "…"


def sanitize_names(
    names: Sequence[str], width: int, numbers: Sequence[int] | None = None
) -> list[str]:
    """Sanitize the names of different things; those that look alike get their numbers in front.

    >>> sanitize_names(["crane", "cock", "crane"], 20)
    ['0: crane', 'cock', '2: crane']
    """
    return distinct_names([sanitize_label(name, width) for name in names], numbers)


def line_style(i: int) -> dict[str, Any]:
    """Return colour, marker and dashes of the i-th line; the first 21 differ."""
    n = len(PALETTE)
    return {
        "color": PALETTE[i % n],
        "marker": MARKERS[i % n],
        "linestyle": DASHES[i // n % len(DASHES)],
    }


def add_legend(fig: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """Add a legend below the axes; the figure grows to make room for it.

    Of more than 60 labels, it states how many are left out.
    """
    labels = [sanitize_label(label, 76) for label in labels[:MAX_LEGEND]]
    if len(handles) > MAX_LEGEND:
        labels[-1] = f"… and {len(handles) - MAX_LEGEND + 1:,} more"
    handles = handles[:MAX_LEGEND]
    entry_inches = max(map(len, labels)) * 0.085 + 0.6
    columns = max(1, min(len(labels), int(fig.get_figwidth() / entry_inches)))
    fig.set_figheight(fig.get_figheight() + 0.22 * math.ceil(len(labels) / columns))
    # Matplotlib leaves out labels that begin with "_", so the texts are set afterwards.
    legend = fig.legend(
        handles, ["x"] * len(labels), loc="outside lower center", ncols=columns, fontsize=9.5
    )
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)


def use_plain_numbers(axis: Axis) -> None:
    """Label an axis with full numbers (3.4656), never with an offset or a power of ten."""
    formatter = ScalarFormatter(useOffset=False)
    formatter.set_scientific(False)
    axis.set_major_formatter(formatter)


def format_of(path: str | Path) -> str:
    """Return the format that a picture's name ends in.

    Raises
    ------
    UsageError
        If the name does not end in .png, .svg or .pdf.

    >>> format_of("tau.PNG")
    'png'
    """
    ending = Path(path).suffix.lower().removeprefix(".")
    if ending not in FORMATS:
        raise UsageError(
            f"expected a picture's name to end in .png, .svg or .pdf, got {str(path)!r}",
            "name it picture.png, for example",
        )
    return ending


@clipkit_style
def save(fig: Figure, path: str | Path, format: str | None = None) -> None:
    """Write a figure. The same figure gives the same bytes.

    Parameters
    ----------
    fig : Figure
    path : path
        Opened only once the picture is complete.
    format : {"png", "svg", "pdf"}, optional
        By default what the path ends in. A PNG has 200 dots per inch, or fewer if the figure is
        larger than 17 x 17 inches.

    Raises
    ------
    UsageError
        If the path ends in none of the three.
    """
    format = format or format_of(path)
    buffer = io.BytesIO()
    width, height = fig.get_size_inches()
    dpi = min(DPI, math.sqrt(MAX_PIXELS / (width * height)))
    with warnings.catch_warnings():
        # A glyph that the font lacks is drawn as a box. A script that matplotlib does not shape is
        # drawn letter by letter.
        warnings.simplefilter("ignore", UserWarning)
        fig.savefig(buffer, format=format, dpi=dpi, metadata=_METADATA[format])
    Path(path).write_bytes(buffer.getvalue())
