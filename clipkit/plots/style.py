"""The style that all figures share: colours, type sizes, labels, legends, and saving."""

from __future__ import annotations

import functools
import io
import itertools
import math
import re
import textwrap
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from clipkit.base import console
from clipkit.base.errors import UsageError
from clipkit.base.names import distinct_names

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.text import Text

__all__ = ["check_size", "finish", "format_of", "overlapping_texts", "save", "title_of"]

P = ParamSpec("P")
T = TypeVar("T")
Floats = NDArray[np.float64]

FORMATS = ("png", "svg", "pdf", "jpg", "webp")
ENDINGS = ".png, .jpg, .webp, .svg or .pdf"
PIXEL_FORMATS = ("png", "jpg", "webp")
TITLE_LINES = 2  # at most; what more a finding says stands in the subtitle
DPI = 200  # a figure 7 inches wide has 1,400 pixels; shown 800 wide, 10 pt text is 16 pixels high
CELL_DPI = 100  # CSS pixels of an inch in a notebook: text of 10 pt is 14 pixels high
DPI_LIMITS = (20, 1200)
SIZE_LIMITS = (2.0, 40.0)  # inches, of the width and of the height
MAX_PIXELS = 12_000_000  # of a larger figure, pictures have fewer dots: each takes 40 bytes
MAX_ASKED_PIXELS = 50_000_000  # with a resolution that the user chose: 2 GB
MAX_WEBP_SIDE = 16_383  # pixels; the format stores 14 bits

# Okabe and Ito, Color Universal Design (2008): colours that colour-blind readers can distinguish.
# Yellow is left out, since it is hard to see on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
DASHES = ("-", "--", ":")
BLUE, VERMILLION = PALETTE[:2]
GREY = "#555555"
FONT = "DejaVu Sans"  # bundled with matplotlib
# Fonts for characters that it lacks. Matplotlib cannot draw Noto Color Emoji.
NOTO = (
    "CJK JP,JP,Devanagari,Bengali,Gurmukhi,Gujarati,Tamil,Telugu,Kannada,Malayalam,Sinhala,Thai,"
    "Khmer,Myanmar,Ethiopic"
)
OTHERS = (
    "WenQuanYi Zen Hei,PingFang SC,Yu Gothic,Malgun Gothic,Nirmala UI,Kohinoor Devanagari,"
    "Noto Emoji,Segoe UI Emoji,Symbola"
)
FALLBACKS = [*(f"Noto Sans {script}" for script in NOTO.split(",")), *OTHERS.split(",")]
MISSING_GLYPH = re.compile(r"Glyph (\d+) ")  # of matplotlib's warning
MAX_LEGEND = 60
LEGEND_CHARACTER = 0.085  # inches
CHART = "chart"  # the comment in a PNG without photographs
PAD = 0.08  # inches around everything
TITLE_SIZE, SUBTITLE_SIZE = 12, 9.5  # points
FULL_SIZE = 8.0  # inches; pages show wider figures smaller, so titles and labels grow with them

_STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.titlesize": TITLE_SIZE,
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
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "png": {},
    "svg": {"metadata": {"Date": None, "Creator": None}},
    "pdf": {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}},
    "jpg": {"pil_kwargs": {"quality": 92, "subsampling": 0}},  # sharp edges of coloured text
    "webp": {"pil_kwargs": {"lossless": True}},
}


Drawn = tuple["Figure", str]  # a figure, and what it is of for its subtitle


@functools.cache
def _installed_fonts() -> list[str]:
    from matplotlib.font_manager import fontManager

    names = set(fontManager.get_font_names())
    return [name for name in FALLBACKS if name in names]


def clipkit_style(draw: Callable[P, T]) -> Callable[P, T]:
    """Run a function in clipkit's style over matplotlib's defaults, whatever matplotlibrc says.

    It leaves matplotlib's global settings alone.
    """

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> T:
        import matplotlib.style

        fonts = {"font.family": [FONT, *_installed_fonts()]}
        with matplotlib.style.context(["default", _STYLE | fonts]):
            return draw(*args, **kwargs)

    return styled


def new_figure(width: float, height: float, title: str | None) -> Figure:
    """Create an empty figure of `width` x `height` inches.

    A title is wrapped to the width, and each of its lines adds to the height.
    """
    from matplotlib.figure import Figure

    lines = _wrap_title(title or "", width)
    fig = Figure(figsize=(width, height + 0.25 * len(lines)), layout="constrained")
    fig.get_layout_engine().set(w_pad=PAD, h_pad=PAD)  # type: ignore[union-attr, call-arg]
    if lines:
        fig.suptitle("\n".join(lines), x=PAD / width, ha="left")
    # a notebook shows matplotlib's figures only once pyplot is in use
    fig._repr_png_ = functools.partial(_as_cell, fig)  # type: ignore[attr-defined]
    return fig


def _as_cell(fig: Figure) -> tuple[bytes, dict[str, int | str]]:
    """Return a PNG for a notebook, with its title as text and its size in CSS pixels.

    It has more pixels, to be sharp.
    """
    content, missing = render(fig, "png")
    warn_of_boxes(missing)
    width, height = (round(CELL_DPI * inches) for inches in fig.get_size_inches())
    alternative = " ".join(fig.get_suptitle().split())
    return content, {"width": width, "height": height, "alt": alternative}


def new_axes(width: float, height: float, title: str | None) -> tuple[Figure, Axes]:
    """Create a figure with one pair of axes; see `new_figure`."""
    fig = new_figure(width, height, title)
    return fig, fig.add_subplot()


def _wrap_title(title: str, width: float) -> list[str]:
    """Return the lines of a title that is `width` inches wide."""
    return wrap(sanitize_label(title, 300), int(width * 9.5))


def divide_title(title: str, width: float) -> tuple[str, str]:
    """Return what fits two lines of a title that is `width` inches wide, and the rest.

    The title ends with a clause or, if the first one is too long, within a list.

    >>> divide_title("3 of 4 cost accuracy: a cat, a dog and a cow; 1 not decided", 3)
    ('3 of 4 cost accuracy: a cat, a dog and a cow', '1 not decided')
    >>> divide_title("3 of 4 cost accuracy: a cat, a dog and a cow; 1 not decided", 2)
    ('3 of 4 cost accuracy: a cat …', '… a dog and a cow; 1 not decided')
    """
    if len(_wrap_title(title, width)) <= TITLE_LINES:
        return title, ""
    for marks, ellipsis in (("; |[.] ", ""), (", |: ", " …"), (" ", " …")):
        for match in reversed(list(re.finditer(marks, title))):
            head, rest = title[: match.start()] + ellipsis, title[match.end() :]
            is_open = head.count("(") > head.count(")")
            if not is_open and len(_wrap_title(head, width)) <= TITLE_LINES:
                return head, f"{ellipsis.strip()} {rest}".strip()
    return title, ""  # one word


def wrap(text: str, width: int) -> list[str]:
    """Wrap a text to lines of `width` characters, or of half as many wide ones."""
    lines = textwrap.wrap(text, width, break_on_hyphens=False)
    if all(text_width(line) <= width for line in lines):
        return lines
    return textwrap.wrap(text, max(width // 2, 1), break_on_hyphens=False)


@clipkit_style
def finish(
    fig: Figure,
    subtitle: str | None = None,
    size: tuple[float, float] | None = None,
    title: str | None = None,
) -> None:
    """Write a subtitle below a figure's title, and wrap all texts to the figure's width.

    Of a title that takes more than two lines, the rest begins the subtitle.

    Parameters
    ----------
    size : (width, height), optional
        Inches. By default the figure keeps its width, and grows by the lines of the subtitle.
    title : str, optional
        In place of the figure's title. It is not divided.

    Raises
    ------
    UsageError
        If a side is not between 2 and 40 inches, or its labels leave no room for the axes.
    """
    if size is not None:
        fig.set_size_inches(check_size(size))
        _fit_legends(fig)
    width = fig.get_figwidth()
    scale = max(1.0, width / FULL_SIZE)
    words = subtitle or ""
    fig.set_label(title or title_of(fig))  # the whole, which pages show as text
    if not title:
        title, rest = divide_title(title_of(fig), width / scale)
        words = ". ".join(filter(None, (rest, words)))
    lines = wrap(sanitize_label(words, 600), int(width / scale * 12.5))
    title_inches, added = _fit_title(fig, title, scale)
    subtitle_inches = scale * (0.17 * len(lines) + 0.04) if lines else 0.0
    if size is None:
        fig.set_figheight(fig.get_figheight() + added + subtitle_inches)
    _leave_room(fig, subtitle_inches)
    added = _fit_facts(fig, scale)
    if size is None and added:
        fig.set_figheight(fig.get_figheight() + added)
        _leave_room(fig, subtitle_inches)
    if lines:
        top = 1 - (PAD + title_inches) / fig.get_figheight()
        text = "\n".join(lines)
        fig.text(PAD / width, top, text, va="top", fontsize=SUBTITLE_SIZE * scale, color=GREY)
    if _lay_out(fig):
        width, height = fig.get_size_inches()
        raise UsageError(
            f"expected a size with room for labels and axes, got {width:g} x {height:g} inches",
            "choose a larger --size, or leave it out",
        )


@clipkit_style
def state(fig: Figure, finding: str, source: str) -> Drawn:
    """Put a finding, if any, in place of a figure's title, which moves into the subtitle."""
    quantity = title_of(fig)
    if not finding:
        return fig, source
    _, added = _fit_title(fig, finding, 1.0)
    fig.set_figheight(fig.get_figheight() + added)
    return fig, f"{quantity}: {source}"


def check_size(size: tuple[float, float]) -> tuple[float, float]:
    """Return a width and a height in inches, if both are between 2 and 40."""
    smallest, largest = SIZE_LIMITS
    width, height = size
    if not (smallest <= width <= largest and smallest <= height <= largest):
        raise UsageError(
            f"size: expected sides of {smallest:g} to {largest:g} inches, got {width:g}x{height:g}"
        )
    return size


def _fit_legends(fig: Figure) -> None:
    """Arrange and cut the labels of legends by the figure's width."""
    width = fig.get_figwidth()
    for legend in fig.legends:
        labels = [text.get_text() for text in legend.get_texts()]
        labels = sanitize_names(labels, max(int((width - 0.6) / LEGEND_CHARACTER), 8))
        for text, label in zip(legend.get_texts(), labels, strict=True):
            text.set_text(label)
        legend.set_ncols(_legend_columns(labels, width))


def _fit_title(fig: Figure, title: str, scale: float) -> tuple[float, float]:
    """Wrap and scale the title; return its height, and by how much that grew, in inches."""
    if not title:
        return 0.0, 0.0
    drawn = fig.get_suptitle()
    width = fig.get_figwidth()
    lines = _wrap_title(title, width / scale)
    fig.suptitle("\n".join(lines), x=PAD / width, ha="left", fontsize=TITLE_SIZE * scale)
    added = 0.25 * (scale * len(lines) - len(drawn.splitlines()))
    return 0.2 * scale * len(lines) + 0.05, added


def _leave_room(fig: Figure, inches: float) -> None:
    """Leave room between the title, which constrained layout knows, and the axes."""
    rect = (0, 0, 1, 1 - inches / fig.get_figheight())
    fig.get_layout_engine().set(rect=rect)  # type: ignore[union-attr, call-arg]


def _fit_facts(fig: Figure, scale: float) -> float:
    """Scale axis labels, wrap left titles that are too wide; return the added height in inches."""
    for ax in fig.axes:
        for artist in (ax.xaxis.label, ax.yaxis.label, *_left_titles(ax)):
            artist.set_fontsize(float(artist.get_fontsize()) * scale)
    _lay_out(fig)
    artists = list(itertools.chain.from_iterable(map(_left_titles, fig.axes)))
    boxes = [artist.get_window_extent() for artist in artists]
    added = 0.0
    for artist, box in zip(artists, boxes, strict=True):
        right = min([other.x0 for other in boxes if other.x0 > box.x0 + 1], default=fig.bbox.width)
        room = right - box.x0 - PAD * fig.dpi
        if 0 < room < box.width:
            title = artist.get_text()
            lines = wrap(title, max(int(len(title) * room / box.width), 10))
            artist.set_text("\n".join(lines))
            added = max(added, 0.17 * scale * (len(lines) - 1))
    return added


def _left_titles(ax: Axes) -> list[Text]:
    """Return the left title of axes, if there is one."""
    from matplotlib.text import Text

    title = ax.get_title("left")
    if not title:
        return []
    found = []
    for artist in ax.get_children():
        if isinstance(artist, Text) and artist.get_text() == title:
            found.append(artist)
    return found


def _lay_out(fig: Figure) -> bool:
    """Place the texts of a figure; return whether they leave no room for the axes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fig.draw_without_rendering()
    return any("collapsed to zero" in str(warning.message) for warning in caught)


def overlapping_texts(fig: Figure) -> list[tuple[str, str]]:
    """Return the pairs of texts of a figure that overlap. Slanted texts are left out."""
    from matplotlib.text import Text

    _lay_out(fig)
    outside = set(itertools.chain.from_iterable(map(_labels_outside, fig.axes)))
    artists = []
    for text in fig.findobj(Text):
        is_level = text.get_rotation() % 90 == 0
        if text.get_text() and is_level and text not in outside:
            artists.append(text)
    boxes = np.array([text.get_window_extent().extents for text in artists]).reshape(-1, 4)
    x0, y0, x1, y1 = boxes.T
    slack = 0.02 * fig.dpi  # a text's box is a little larger than its letters
    in_x = np.minimum.outer(x1, x1) - np.maximum.outer(x0, x0) > slack
    in_y = np.minimum.outer(y1, y1) - np.maximum.outer(y0, y0) > slack
    pairs = np.argwhere(np.triu(in_x & in_y, k=1))
    return [(artists[i].get_text(), artists[j].get_text()) for i, j in pairs]


def _labels_outside(ax: Axes) -> list[Text]:
    """Return the labels of ticks beyond an axis's limits, which matplotlib never draws."""
    outside = []
    for i, axis, limits in ((0, ax.xaxis, ax.get_xlim()), (1, ax.yaxis, ax.get_ylim())):
        low, high = sorted(limits)
        labels = axis.get_ticklabels(which="both")
        outside += [label for label in labels if not low <= label.get_position()[i] <= high]
    return outside


def text_width(text: str) -> int:
    """Return how many small letters are as wide as a text: M, W and Chinese letters count twice.

    >>> text_width("ab猫")
    4
    """
    return len(text) + sum(map(_is_wide, text))


def _is_wide(letter: str) -> bool:
    return letter in "MW" or unicodedata.east_asian_width(letter) in "WF"


def sanitize_label(text: str, width: int = 40) -> str:
    r"""Make one printable line, as wide as at most `width` characters, cut with an ellipsis.

    >>> sanitize_label("a photo of a very, very long prompt", 20)
    'a photo of a very, …'
    >>> sanitize_label("pickup_truck \x1b[31m$x^2$\n")
    'pickup_truck [31m$x^2$'
    """
    printable = [character if character.isprintable() else " " for character in text]
    line = " ".join("".join(printable).split())
    if text_width(line) <= width:
        return line
    line = line[: width - 1]
    while text_width(line) > width - 1:
        line = line[:-1]
    return line + "…"


def sanitize_names(
    names: Sequence[str], width: int, rows: Iterable[int] | None = None
) -> list[str]:
    """Sanitize the names of some rows; names that look alike get the number of their row in front.

    >>> sanitize_names(["crane", "cock", "crane"], 20)
    ['0: crane', 'cock', '2: crane']
    """
    numbers = list(range(len(names)) if rows is None else rows)
    return distinct_names([sanitize_label(names[number], width) for number in numbers], numbers)


def line_style(i: int) -> dict[str, Any]:
    """Return colour, marker and dashes of the i-th line; the first 21 differ."""
    n = len(PALETTE)
    return {
        "color": PALETTE[i % n],
        "marker": MARKERS[i % n],
        "linestyle": DASHES[i // n % len(DASHES)],
    }


def add_legend(fig: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """Add a legend of at most 60 labels below the axes; the figure grows to make room for it."""
    labels = sanitize_names(labels[:MAX_LEGEND], 76)
    if len(handles) > MAX_LEGEND:
        labels[-1] = f"… and {len(handles) - MAX_LEGEND + 1:,} more"
    handles = handles[:MAX_LEGEND]
    columns = _legend_columns(labels, fig.get_figwidth())
    fig.set_figheight(fig.get_figheight() + 0.22 * math.ceil(len(labels) / columns))
    # Matplotlib leaves out labels that begin with "_", so the texts are set afterwards.
    legend = fig.legend(
        handles, ["x"] * len(labels), loc="outside lower center", ncols=columns, fontsize=9.5
    )
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)


def _legend_columns(labels: Sequence[str], width: float) -> int:
    """Return how many columns of a legend fit into `width` inches."""
    entry_inches = max(map(text_width, labels)) * LEGEND_CHARACTER + 0.6
    return max(1, min(len(labels), int(width / entry_inches)))


def name_rows(ax: Axes, y: Floats, names: Sequence[str], pad: float, **style: Any) -> None:
    """Name rows at rising `y` from 0, the first at the top, with room before and after them."""
    ax.set_yticks(y, names, **style)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(y.max(initial=0) + pad, -pad)
    ax.grid(False, axis="y")


def dodge(number: int, count: int, step: float, room: float) -> float:
    """Return how far to move a series aside, so that its bars are apart from the others'.

    Series are a step apart, or less where all of them would take more than the room.
    """
    if count > 1:
        step = min(step, room / (count - 1))
    return (number - (count - 1) / 2) * step


def use_plain_numbers(axis: Axis) -> None:
    """Label an axis with full numbers (3.4656), never with an offset or a power of ten."""
    from matplotlib.ticker import ScalarFormatter

    formatter = ScalarFormatter(useOffset=False)
    formatter.set_scientific(False)
    axis.set_major_formatter(formatter)


def limit_ticks(axis: Axis, count: int, *, integer: bool = False) -> None:
    """Divide an axis into at most `count` steps between round numbers."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(count, integer=integer))


def spaced_on_log(values: Floats) -> list[float]:
    """Return the values, in their order, that have room for labels on a log axis.

    >>> spaced_on_log(np.array([1.0, 1.001, 2.0, 64.0]))
    [1.0, 2.0, 64.0]
    """
    span = abs(math.log(values[0] / values[-1])) or 1.0
    spaced: list[float] = []
    for value in values.tolist():
        if not spaced or abs(math.log(spaced[-1] / value)) > 0.07 * span:
            spaced.append(value)
    return spaced


def hide_minor_labels(axis: Axis) -> None:
    """Leave the minor ticks of an axis without numbers."""
    from matplotlib.ticker import NullFormatter

    axis.set_minor_formatter(NullFormatter())


def hide_minor_ticks(axis: Axis) -> None:
    """Leave out the minor ticks of an axis."""
    from matplotlib.ticker import NullLocator

    axis.set_minor_locator(NullLocator())


def legend_line(**look: Any) -> Artist:
    """Return a line that only a legend shows."""
    from matplotlib.lines import Line2D

    return Line2D([], [], **look)


def texts_of(fig: Figure) -> list[str]:
    """Return all texts of a figure, those of its legends too."""
    from matplotlib.text import Text

    return [text.get_text() for text in fig.findobj(Text) if isinstance(text, Text)]


def title_of(fig: Figure) -> str:
    """Return the title of a figure in one line."""
    return fig.get_suptitle().replace("\n", " ")


def finding_of(fig: Figure) -> str:
    """Return the title of a figure as it was before `finish` divided it."""
    return str(fig.get_label()) or title_of(fig)


def format_of(path: str | Path) -> str:
    """Return the format that a picture's name ends in; refuse others with a `UsageError`.

    >>> format_of("tau.PNG")
    'png'
    """
    ending = Path(path).suffix.lower().removeprefix(".")
    if ending == "jpeg":
        ending = "jpg"
    if ending not in FORMATS:
        raise UsageError(
            f"expected a picture's name to end in {ENDINGS}, got {str(path)!r}",
            "name it picture.png, for example",
        )
    return ending


def save(
    fig: Figure, path: str | Path, format: str | None = None, *, dpi: float | None = None
) -> None:
    """Write a figure. The same figure gives the same bytes, without times or names of files.

    Parameters
    ----------
    path : path
        Opened only once the picture is complete.
    format : {"png", "jpg", "webp", "svg", "pdf"}, optional
        By default what the path ends in.
    dpi : float, optional
        Dots per inch of a .png, .jpg or .webp, 20 to 1,200. By default 200, or fewer if the figure
        is larger than 17 x 17 inches.

    Raises
    ------
    UsageError
        If the path ends in none of the formats, or the picture would have too many pixels.
    """
    content, missing = render(fig, format or format_of(path), dpi=dpi)
    warn_of_boxes(missing)
    Path(path).write_bytes(content)


@clipkit_style
def render(fig: Figure, format: str, *, dpi: float | None = None) -> tuple[bytes, list[str]]:
    """Return the bytes of a picture, and the characters that no font has; see `save`."""
    width, height = fig.get_size_inches()
    if dpi is None:
        dpi = min(DPI, math.sqrt(MAX_PIXELS / (width * height)))
    elif format in PIXEL_FORMATS:
        _check_dpi(dpi, width, height, format)
    buffer = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        options = _SAVE_OPTIONS[format]
        if format == "png":  # `report` shows the title below the picture, and in its place
            texts = {"Software": None, "Title": finding_of(fig), "Comment": _comment(fig)}
            options = {"metadata": texts}
        fig.savefig(buffer, format=format, dpi=dpi, **options)
    matches = [MISSING_GLYPH.match(str(warning.message)) for warning in caught]
    missing = [chr(int(match[1])) for match in matches if match]
    return buffer.getvalue(), missing


def _comment(fig: Figure) -> str | None:
    """Return CHART for a figure without photographs: dark pages may show it in dark colours."""
    from matplotlib.image import AxesImage

    images: list[Any] = fig.findobj(AxesImage)
    return None if any(image.get_array().ndim == 3 for image in images) else CHART


def warn_of_boxes(characters: Iterable[str]) -> None:
    """Warn of the characters that matplotlib draws as boxes, since its fonts lack them."""
    import matplotlib

    listed = " ".join(dict.fromkeys(characters))
    if listed:
        console.warn(
            f"boxes stand for {listed[:40]}: no font that clipkit uses has them; hint: install "
            "Noto Sans CJK, Noto Sans Devanagari, Noto Emoji or the like, and delete "
            f"{matplotlib.get_cachedir()}, where matplotlib lists the fonts"
        )


def _check_dpi(dpi: float, width: float, height: float, format: str) -> None:
    lowest, highest = DPI_LIMITS
    if not lowest <= dpi <= highest:
        raise UsageError(f"dpi: expected {lowest} to {highest:,}, got {dpi:g}")
    pixels = width * height * dpi**2
    if pixels > MAX_ASKED_PIXELS:
        raise UsageError(
            f"expected at most {MAX_ASKED_PIXELS // 1_000_000} million pixels, got {width:.1f} x "
            f"{height:.1f} inches at {dpi:g} dots per inch: {pixels / 1e6:.0f} million",
            "choose a smaller --dpi or --size, or draw a .pdf",
        )
    side = max(width, height) * dpi
    if format == "webp" and side > MAX_WEBP_SIDE:
        raise UsageError(
            f"expected sides of at most {MAX_WEBP_SIDE:,} pixels in a .webp, got {side:,.0f}",
            "choose a smaller --dpi, or draw a .png",
        )
