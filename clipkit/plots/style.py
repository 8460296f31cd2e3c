"""What all figures share: palette, type sizes, literal labels, legends, and writing the file."""

from __future__ import annotations

import functools
import io
import textwrap
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, ParamSpec

import matplotlib.style
from matplotlib.artist import Artist
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from clipkit.errors import UsageError

P = ParamSpec("P")

FORMATS = ("png", "svg", "pdf")
DPI = 200  # a 7 inch figure has 1,400 pixels, and 10 pt text is still 16 pixels high when it is shown 800 wide

# Okabe and Ito, Color Universal Design (2008): colours that colour-blind readers can tell apart; yellow is left out.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
DASHES = ("-", "--", ":")
BLUE, VERMILLION = PALETTE[:2]
GREY = "#555555"

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
_NO_STAMPS: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def _context() -> AbstractContextManager[None]:
    """Clipkit's style over matplotlib's defaults, whatever the user's matplotlibrc says."""
    return matplotlib.style.context(["default", _STYLE])


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in clipkit's style and leave matplotlib's global settings as they were."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with _context():
            return draw(*args, **kwargs)

    return wrapper


def new(width: float, height: float, title: str | None) -> Figure:
    """An empty figure of `width` x `height` inches; a long title is wrapped to its width and adds to its height."""
    lines = (
        textwrap.wrap(literal(title, 300), int(width * 9.5), break_on_hyphens=False)
        if title
        else []
    )
    fig = Figure(figsize=(width, height + 0.25 * len(lines)), layout="constrained")
    fig.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # type: ignore[union-attr, call-arg]
    if lines:
        fig.suptitle("\n".join(lines), x=0.08 / width, ha="left")
    return fig


def literal(text: str, width: int = 40) -> str:
    r"""One printable line of at most `width` characters, cut with an ellipsis.

    >>> literal("a photo of a very, very long prompt", 20)
    'a photo of a very, …'
    >>> literal("pickup_truck \x1b[31m$x^2$\n")
    'pickup_truck [31m$x^2$'
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def pen(i: int) -> dict[str, str]:
    """Colour, marker and dashes of the i-th line; the first 21 differ."""
    n = len(PALETTE)
    return {
        "color": PALETTE[i % n],
        "marker": MARKERS[i % n],
        "linestyle": DASHES[i // n % len(DASHES)],
    }


def legend(fig: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """A legend below the axes, for which the figure grows."""
    labels = [literal(label, 60) for label in labels]
    widest = max(map(len, labels)) * 0.085 + 0.6  # inches of an entry
    columns = max(1, min(len(labels), int(fig.get_figwidth() / widest)))
    fig.set_figheight(fig.get_figheight() + 0.22 * -(-len(labels) // columns))
    # Matplotlib skips labels that begin with "_": the texts are set afterwards.
    box = fig.legend(
        handles, ["x"] * len(labels), loc="outside lower center", ncols=columns, fontsize=9.5
    )
    for text, label in zip(box.get_texts(), labels, strict=True):
        text.set_text(label)


def plain_numbers(axis: Axis) -> None:
    """Full tick labels (3.4656), never an offset or a power of ten in the corner."""
    formatter = ScalarFormatter(useOffset=False)
    formatter.set_scientific(False)
    axis.set_major_formatter(formatter)


def format_of(path: str | Path) -> str:
    """The format that the ending of a figure's name asks for.

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
            f"a figure's name must end in .png, .svg or .pdf; got {str(path)!r}",
            "name it figure.png, for example",
        )
    return ending


def save(fig: Figure, target: str | Path | BinaryIO, format: str | None = None) -> None:
    """Write a figure; the same figure gives the same bytes (no time stamps, no random ids).

    Parameters
    ----------
    fig : Figure
        What one of the drawing functions returned.
    target : path or binary file
        Where to. A path is opened only once the picture is complete.
    format : {"png", "svg", "pdf"}, optional
        By default what the path ends in. Required for a file object. A PNG has 200 dots per inch.

    Raises
    ------
    UsageError
        If the format is none of the three.
    """
    is_path = isinstance(target, str | Path)
    format = format_of(f"figure.{format}" if format else target if is_path else "figure")  # type: ignore[arg-type]
    buffer = io.BytesIO()
    with _context(), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing from"
        )  # a box is drawn in its place
        fig.savefig(buffer, format=format, dpi=DPI, metadata=_NO_STAMPS[format])
    if isinstance(target, str | Path):
        Path(target).write_bytes(buffer.getvalue())
    else:
        target.write(buffer.getvalue())
