"""Draw declared pictures of results, by their plot type."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipkit.analysis import results
from clipkit.analysis.for_people import findings
from clipkit.analysis.results import newest_entry
from clipkit.base.cells import Heading, format_number
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.base.pictures import Curves, Declaration, Distributions, Dots, Matrix, Sheet, from_json
from clipkit.base.views import QUESTIONS
from clipkit.features.columns import OWN_QUESTION, POINTS, SHARE, Column
from clipkit.features.model import FeatureFile, known_columns
from clipkit.plots import heatmap, images, style
from clipkit.plots.marks import LOOKS, Points, dot_rows, draw_curve, draw_histogram, name_ends
from clipkit.plots.picture import Picture
from clipkit.plots.style import Drawn, Floats, clipkit_style
from clipkit.statistics import metrics

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from clipkit.datasets.dataset import Dataset

__all__ = ["draw_declared"]

FEWEST_BINS, BINS = 10, 60
MAX_ROWS = 60  # of more, those with the largest values are drawn
MAX_CURVES = 21  # whose styles differ
MAX_CELLS = 1_000_000
MAX_IMAGES = 40
MAX_PARTS = 7  # histograms in one picture
CONTROL = "untrained control"
IN_PERCENT = (SHARE.symbol, POINTS.symbol)  # units of columns that hold fractions


class _Rows:
    """The columns of a result's rows, as a declaration names them."""

    def __init__(self, file: FeatureFile, columns: Mapping[str, Column]) -> None:
        self.file = file
        self.columns = columns
        if not file.run_count:
            raise ClipkitError(f"{file.display_name}: expected a result with rows to draw")

    def __contains__(self, name: str) -> bool:
        return name in self.file.runs

    def heading(self, name: str) -> Heading:
        """Return what people read above a column, and the unit of its numbers."""
        if name in self.columns:
            return self.columns[name].heading
        return Heading(name.replace("_", " "), "", format_number)

    def title(self, name: str) -> str:
        """Return what people read above a column, without its unit."""
        title = self.heading(name).title
        for column in self.columns.values():
            if name == column.control_column:
                title = CONTROL
            if name == column.chance_column:
                title = column.reference_name
        return style.sanitize_label(title, 32)

    def _values(self, name: str) -> NDArray[Any]:
        if name not in self.file.runs:
            shown = style.sanitize_label(name)
            raise ClipkitError(f"{self.file.display_name}: expected a column {shown} to draw")
        return self.file.runs[name]

    def numbers(self, name: str) -> Floats:
        """Return the numbers of a column, in the unit in which people read them."""
        values = self._values(name)
        if values.dtype.kind == "U":
            shown = style.sanitize_label(name)
            raise ClipkitError(f"{self.file.display_name}: runs/{shown}: expected numbers to draw")
        numbers = np.array(values, np.float64)
        numbers[~np.isfinite(numbers)] = np.nan
        if self.heading(name).unit in IN_PERCENT:
            numbers *= 100
        return numbers

    def texts(self, name: str) -> list[str]:
        """Return the values of a column as people read them."""
        values = self._values(name)
        if values.dtype.kind == "U":
            return list(map(str, values))
        write = self.heading(name).format
        return [write(float(value)) for value in values]

    def points(self, name: str) -> Points:
        """Return the numbers of a column, and the ends of their intervals where there are some."""
        values = self.numbers(name)
        ends = []
        for end in self.ends(name):
            ends.append(self.numbers(end) if end in self else np.full(len(values), np.nan))
        return Points(values, *ends)

    def ends(self, name: str) -> tuple[str, str]:
        """Return the columns of the ends of a column's intervals."""
        named = self.columns[name].ends if name in self.columns else ()
        return named or (f"{name}_low", f"{name}_high")

    def axis(self, names: Sequence[str], label: str = "") -> str:
        """Return the label of the axis of some columns; refuse columns of several units.

        It is the title of a single column, and `label` for others.
        """
        units = list(dict.fromkeys(self.heading(name).unit for name in names))
        if len(units) > 1:
            listed = ", ".join(map(style.sanitize_label, names))
            raise UsageError(f"expected columns of one unit on one axis, got {listed}")
        if len(names) == 1:
            label = self.title(names[0])
        return f"{label} ({units[0]})" if units[0] else label

    def interval_facts(self, mark: str, names: Sequence[str]) -> list[str]:
        """Return what the marks of intervals are, if columns have some."""
        having = [name for name in names if self.ends(name)[0] in self]
        of_control = [
            name for name in having if name.endswith("control") or self.title(name) == CONTROL
        ]
        facts = []
        if len(of_control) < len(having):
            facts.append("95 % intervals")
        if of_control:
            facts.append("of controls, the range")
        return [f"{mark}: {'; '.join(facts)}"] if facts else []

    def stated(self, names: Sequence[str]) -> list[str]:
        """Return the titles and values of the columns that have one value in all rows."""
        words = []
        for name in filter(self.__contains__, names):
            values = list(dict.fromkeys(self.texts(name)))
            if len(values) == 1:
                unit = self.heading(name).unit
                words.append(f"{self.title(name)} {values[0]}{f' {unit}' if unit else ''}")
        return words

    def several(self, names: Sequence[str]) -> str:
        """Return the titles of columns as the start of a sentence."""
        return _as_sentence(", ".join(map(self.title, names)))


def _as_sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def draw_declared(
    declaration: Declaration,
    file: FeatureFile,
    *,
    columns: Mapping[str, Column] | None = None,
    title: str = "",
    dataset: Dataset | None = None,
) -> Drawn:
    """Draw a declared picture of a result's rows.

    A reference or a group that the result lacks, such as a control, is left out, and so is a value
    beside others.

    Parameters
    ----------
    columns : mapping of str to Column, optional
        The records of the result's columns (default: those of the command that made it).
    title : str, optional
        The finding. Without it, the picture's title says what is drawn.
    dataset : Dataset, optional
        Where a sheet takes its images from.
    """
    rows = _Rows(file, known_columns(file) if columns is None else columns)
    declaration = _without_absent(declaration, rows)
    if isinstance(declaration, Sheet):
        if dataset is None:
            raise UsageError("a sheet needs the images of a data set", "name the data set")
        figure = _draw_sheet(declaration, rows, dataset)
    else:
        figure = DRAWERS[type(declaration)](declaration, rows)
    if declaration.title:
        figure.suptitle(_as_sentence(declaration.title))
    splits = list(dict.fromkeys(filter(None, file.split_of_runs)))
    source = results.source_label(file, ", ".join(splits))
    return style.state(figure, title, "; ".join([source, *rows.stated(declaration.stated)]))


def _without_absent(declaration: Declaration, rows: _Rows) -> Declaration:
    """Return a declaration without the optional columns that a result lacks."""
    changes: dict[str, Any] = {}
    for name in ("reference", "group", "decided"):
        if getattr(declaration, name, "") not in rows:
            changes[name] = ""
    values: tuple[str, ...] = getattr(declaration, "values", ())
    changes["values"] = tuple(filter(rows.__contains__, values)) or values
    fields = {field.name for field in dataclasses.fields(declaration)}
    known = {name: value for name, value in changes.items() if name in fields}
    return dataclasses.replace(declaration, **known)


@clipkit_style
def _draw_dots(declaration: Dots, rows: _Rows) -> Figure:
    axis = rows.axis(declaration.values, declaration.axis)
    first = declaration.values[0]
    shown = heatmap.largest(rows.numbers(first), MAX_ROWS)
    if declaration.is_sorted:
        shown = shown[metrics.falling_order(rows.numbers(first)[shown])]
    bands = []
    if declaration.group:
        groups = np.array(rows.texts(declaration.group))[shown]
        names, numbers, counts = np.unique(groups, return_inverse=True, return_counts=True)
        shown = shown[np.argsort(numbers, kind="stable")]
        bands = list(zip(style.sanitize_names(names.tolist(), 60), counts.tolist(), strict=True))
    series = {}
    for name in declaration.values:
        values, low, high = np.array(rows.points(name))[:, shown]
        series[rows.title(name)] = Points(values, low, high)
    reference = None
    if declaration.reference:
        at = rows.numbers(declaration.reference)[shown]
        reference = (rows.title(declaration.reference), at)
    labels = style.sanitize_names(rows.texts(declaration.label), 32, shown.tolist())
    title = f"{rows.several(declaration.values)} of each {rows.title(declaration.label)}"
    looks = []
    for number in range(len(series)):
        offset = style.dodge(number, len(series), 0.2, 0.6)
        looks.append(LOOKS[number]._replace(offset=offset))
    drawn = dot_rows(labels, series, reference=reference, bands=bands, looks=looks, title=title)
    drawn.axes.set_xlabel(axis)
    if rows.heading(first).unit == POINTS.symbol:  # a difference
        drawn.axes.axvline(0, color=style.GREY, linewidth=1.0, zorder=1)
    facts = rows.interval_facts("lines", declaration.values)
    total = rows.file.run_count
    if len(shown) < total:
        facts.append(f"{len(shown)} of {total:,} rows: the largest {rows.title(first)}")
    drawn.axes.set_title("; ".join(facts), loc="left", color=style.GREY)
    if len(drawn.handles) > 1:  # the axis names a single one
        style.add_legend(drawn.figure, drawn.handles, drawn.labels)
    return drawn.figure


class _Curve(NamedTuple):
    label: str
    x: Floats
    points: Points


@clipkit_style
def _draw_curves(declaration: Curves, rows: _Rows) -> Figure:
    x = rows.numbers(declaration.x)
    if declaration.is_log:
        x[x <= 0] = np.nan
    group_of = rows.file.split_of_runs
    if declaration.group:
        group_of = rows.texts(declaration.group)
    groups = list(dict.fromkeys(group_of))
    curves = []
    for group in groups:
        of_group = np.flatnonzero(np.array(group_of) == group)
        of_group = of_group[np.argsort(x[of_group], kind="stable")]
        for name in declaration.values:
            values, low, high = np.array(rows.points(name))[:, of_group]
            parts = []
            if len(declaration.values) > 1:
                parts.append(rows.title(name))
            if len(groups) > 1:
                parts.append(style.sanitize_label(group, results.MAX_LABEL))
            curves.append(_Curve(", ".join(parts), x[of_group], Points(values, low, high)))
    title = f"{rows.several(declaration.values)} against {rows.title(declaration.x)}"
    fig, ax = style.new_axes(7.0, 3.8, title)
    handles: list[Line2D] = []
    mark = "bands"
    for number, curve in enumerate(curves[:MAX_CURVES]):
        look = style.line_style(number)
        ends = np.asarray(curve.points.low), np.asarray(curve.points.high)
        if len(np.unique(curve.x)) < len(curve.x):  # several rows at one place are no curve
            mark, look["linestyle"] = "lines", "none"
            handles.append(draw_curve(ax, curve.x, curve.points.values, ends, look))
            continue
        handles.append(draw_curve(ax, curve.x, curve.points.values, None, look))
        ax.fill_between(curve.x, *ends, color=look["color"], alpha=0.18, linewidth=0)
    if declaration.is_log and np.isfinite(x).any():
        ax.set_xscale("log")
        ticks = style.spaced_on_log(np.unique(x[np.isfinite(x)]))
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        style.hide_minor_labels(ax.xaxis)
    ax.set(
        xlabel=rows.axis([declaration.x]), ylabel=rows.axis(declaration.values, declaration.axis)
    )
    style.use_plain_numbers(ax.yaxis)
    facts = rows.interval_facts(mark, declaration.values)
    if len(curves) > MAX_CURVES:
        facts.append(f"{MAX_CURVES} of {len(curves):,} curves")
    ax.set_title("; ".join(facts), loc="left", color=style.GREY)
    labels = [curve.label for curve in curves[:MAX_CURVES]]
    if len(labels) == 1:
        labels, handles = [], []  # the axis names it
    elif name_ends(ax, handles, labels):
        labels, handles = [], []
    if declaration.reference:
        order = np.argsort(x, kind="stable")
        at = rows.numbers(declaration.reference)[order]
        handles += ax.plot(x[order], at, color="black", linestyle="--", linewidth=1.2)
        labels.append(rows.title(declaration.reference))
    if labels:
        style.add_legend(fig, handles, labels)
    return fig


@clipkit_style
def _draw_matrix(declaration: Matrix, rows: _Rows) -> Figure:
    row_of, column_of = rows.texts(declaration.row), rows.texts(declaration.column)
    row_names, column_names = list(dict.fromkeys(row_of)), list(dict.fromkeys(column_of))
    if len(row_names) * len(column_names) > MAX_CELLS:
        raise ClipkitError(
            f"{rows.file.display_name}: expected at most {MAX_CELLS:,} cells to draw, got "
            f"{len(row_names):,} x {len(column_names):,}"
        )
    if len(set(zip(row_of, column_of, strict=True))) < len(row_of):
        pair = f"{rows.title(declaration.row)} and {rows.title(declaration.column)}"
        raise ClipkitError(f"{rows.file.display_name}: expected one row for each {pair}")
    i = [row_names.index(name) for name in row_of]
    j = [column_names.index(name) for name in column_of]
    values = np.full((len(row_names), len(column_names)), np.nan)
    values[i, j] = rows.numbers(declaration.value)
    low, high = heatmap.limits(values)
    look: dict[str, Any] = {"cmap": "viridis", "vmin": low, "vmax": high}
    if rows.heading(declaration.value).unit == SHARE.symbol:
        look = {"cmap": "Blues", "vmin": 0, "vmax": 100}
    elif low < 0:
        most = max(-low, high)
        look = {"cmap": "RdBu_r", "vmin": -most, "vmax": most}
    sizes = np.nan_to_num(values, nan=-np.inf).max(axis=1)
    shown, fact = heatmap.choose_rows(sizes, "rows")
    by = f"{rows.title(declaration.row)} and {rows.title(declaration.column)}"
    cells = heatmap.Cells(
        style.sanitize_names(row_names, 40, shown.tolist()),
        style.sanitize_names(column_names, 24),
        rows.title(declaration.row),
        rows.title(declaration.column),
    )
    title = f"{rows.several([declaration.value])} by {by}"
    label = rows.axis([declaration.value])
    fig, ax, image = heatmap.draw_cells(values[shown], cells, label, title, slanted=True, **look)
    written = values
    if declaration.decided:
        decided = np.zeros(values.shape, bool)
        decided[i, j] = rows.numbers(declaration.decided) == 1
        written = np.where(decided, values, np.nan)
    if declaration.decided or max(len(shown), len(column_names)) <= heatmap.MAX_NUMBERS:
        decimals = 0 if np.abs(values[np.isfinite(values)]).max(initial=0) >= 10 else 2
        heatmap.write_numbers(ax, image, written[shown], decimals, size=7.5)
    if fact:
        ax.set_title(f"{fact}: the largest values", loc="left", color=style.GREY)
    return fig


@clipkit_style
def _draw_distributions(declaration: Distributions, rows: _Rows) -> Figure:
    values = rows.numbers(declaration.x)
    name = rows.title(declaration.x)
    groups = [name] * len(values)
    if declaration.group:
        groups = rows.texts(declaration.group)
    names = list(dict.fromkeys(groups))
    fig, ax = style.new_axes(7.0, 3.6, f"{rows.several([declaration.x])} of the rows")
    finite = values[np.isfinite(values)]
    bins = max(FEWEST_BINS, min(BINS, len(finite) // 5))
    edges = np.histogram_bin_edges(finite, bins)
    handles: list[Artist] = []
    labels = []
    for number, group in enumerate(names[:MAX_PARTS]):
        of_group = values[np.array(groups) == group]
        of_group = of_group[np.isfinite(of_group)]
        color = style.PALETTE[number]
        handles.append(draw_histogram(ax, of_group, edges, color))
        label = f"{style.sanitize_label(group, 40)} ({len(of_group):,})"
        if len(of_group):
            ax.axvline(float(of_group.mean()), color=color, linestyle=":", linewidth=1.6)
            label += f", mean {of_group.mean():.4g}"
        labels.append(label)
    if declaration.reference:
        at = rows.numbers(declaration.reference)
        at = at[np.isfinite(at)]
        if len(at):
            line = ax.axvline(float(at.mean()), color="black", linestyle="--", linewidth=1.2)
            handles.append(line)
            labels.append(f"{rows.title(declaration.reference)} {at.mean():.4g}")
    if len(names) > MAX_PARTS:
        fact = f"{MAX_PARTS} of {len(names):,} groups"
        ax.set_title(fact, loc="left", color=style.GREY)
    ax.set(xlabel=rows.axis([declaration.x]), ylabel="% of the rows, per bin", ylim=(0, None))
    style.add_legend(fig, handles, labels)
    return fig


def _draw_sheet(declaration: Sheet, rows: _Rows, dataset: Dataset) -> Figure:
    ids = rows.texts(declaration.id)
    titles = rows.texts(declaration.label or declaration.id)
    tiles = []
    for split, row_id in zip(rows.file.split_of_runs, ids[:MAX_IMAGES], strict=False):
        tiles.append(_read_tile(dataset, split, row_id))
    title = f"{len(tiles)} of {len(ids):,} images" if len(tiles) < len(ids) else "Images"
    return images.contact_sheet(np.array(tiles), titles[: len(tiles)], title=title)


def _read_tile(dataset: Dataset, split: str, row_id: str) -> NDArray[np.uint8]:
    """Return the small picture of an image of a split; of any split if that is not known."""
    names = [split] if split in dataset.splits else list(dataset.splits)
    for name in names:
        images_of_split = dataset.splits[name]
        ids = list(images_of_split.ids)
        if row_id in ids:
            row = np.array([ids.index(row_id)])
            (tile,) = images.read_tiles(images_of_split.take(row), name)
            return np.asarray(tile)
    raise ClipkitError(f"{dataset.name}: expected an image {style.sanitize_label(row_id)}")


DRAWERS: dict[type[Declaration], Callable[[Any, _Rows], Figure]] = {
    Dots: _draw_dots,
    Curves: _draw_curves,
    Matrix: _draw_matrix,
    Distributions: _draw_distributions,
}


# ---- The package's questions ---------------------------------------------------------------------


def _picture_of(name: str, declared: Sequence[Declaration]) -> Picture:
    def has_columns(file: FeatureFile) -> bool:
        return any(set(one.needed) <= set(file.runs) for one in declared)

    def draw(file: FeatureFile) -> Drawn:
        fitting = [one for one in declared if set(one.needed) <= set(file.runs)]
        chosen = [*fitting, declared[0]][0]
        results.columns_of(file, name, " ".join(chosen.needed))
        return draw_declared(chosen, file, title=next(iter(findings(file)), ""))

    draw.__doc__ = f"Draw {', or '.join(one.title for one in declared)}."
    example = f"clipkit plot {name} {name}.h5 -o {name}.png"
    return Picture(name, draw, example, of=(name,), is_reported=has_columns)


OF_QUESTIONS: list[Picture] = []  # that the records of the package's questions declare
for _name, _find in QUESTIONS.items():
    _declared = _find().picture
    if _declared is not None:
        _several = _declared if isinstance(_declared, tuple) else (_declared,)
        OF_QUESTIONS.append(_picture_of(_name, _several))


# ---- One's own question --------------------------------------------------------------------------


def has_picture(result: FeatureFile) -> bool:
    """Whether a result of one's own question declares a picture."""
    return "picture" in newest_entry(result).object("question")


def draw_question(file: FeatureFile) -> Drawn:
    """Draw what a question of one's own found, by the picture that its record declares.

    The result holds the declaration, so that its Python file is not run again.
    """
    if not has_picture(file):
        raise UsageError(
            f"{file.display_name}: expected a picture in the record of its question, got none",
            "clipkit report shows its table",
        )
    declared = from_json(newest_entry(file).object("question")["picture"])
    title = next(iter(findings(file)), "")
    return draw_declared(declared, file, title=title)


QUESTION = Picture(
    "question",
    draw_question,
    "clipkit plot question needed.h5 -o needed.png",
    of=(OWN_QUESTION,),
    is_reported=has_picture,
)
