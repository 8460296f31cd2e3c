"""Curves of accuracy by layer, with untrained controls and the model's embedding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clipkit.analysis import results
from clipkit.analysis.layer_curves import (
    LayerCurve,
    LayerPoints,
    holds_attributes,
    layer_curves,
)
from clipkit.analysis.sections import CHANGES
from clipkit.features.matching import choose_split
from clipkit.features.model import FeatureFile
from clipkit.plots import marks, style
from clipkit.plots.picture import Picture, Split
from clipkit.plots.style import Drawn, Floats, clipkit_style
from clipkit.statistics import claims

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = ["LayerCurve", "LayerPoints", "layers"]

MOST_NAMED = 3  # curves in a title
MOST_TICKS = 16
STEPS = (1, 2, 4, 5, 10, 20, 50, 100)  # layers between ticks
EMBEDDING = 1.12  # where its column is, in depths
MARK = 0.035  # half the width of its mark, in depths
CONTROL: dict[str, Any] = {"linestyle": "--", "markerfacecolor": "white"}
SAID: dict[str, Any] = {"linestyle": "none", "marker": "*", "ms": 11, "mec": "white", "zorder": 6}
CHANCE: dict[str, Any] = {"linestyle": ":", "linewidth": 1.4, "zorder": 1}


def draw_layers(files: Sequence[FeatureFile], split: Split = None) -> Drawn:
    """Draw the accuracy of probes by layer, with untrained controls and the models' embeddings.

    From results of attributes, draw their recall by layer.
    """
    curves, source = layer_curves(files, split)
    if holds_attributes(files[0]):
        ylabel, title = "mean recall per value (%)", "Recall by layer"
    else:
        _, chosen = choose_split(files[0], split)
        what = results.name_of_numbers((file, chosen) for file in files)
        ylabel, title = f"{what} (%)", f"{what.capitalize()} by layer"
    figure = layers(curves, ylabel=ylabel, title=title)
    return style.state(figure, _finding(curves), source)


LAYERS = Picture(
    "layers",
    draw_layers,
    "clipkit plot layers img.l*.svm.h5 img.svm.h5 -o layers.png",
    of=("probe",),
    draws_several=True,
    section=CHANGES,
)


def _finding(curves: Sequence[LayerCurve]) -> str:
    """State where the trained curve is highest, and how high its control or chance is.

    Of several, state where each of the first is highest.
    """
    of_trained = [curve for curve in curves if curve.trained is not None]
    if len(of_trained) > 1:
        is_share = len({curve.depth for curve in curves}) > 1
        labels = [_legend_label(curve, is_share) for curve in of_trained]
        more = f" and {len(labels) - MOST_NAMED} more" if len(labels) > MOST_NAMED else ""
        return "; ".join(labels[:MOST_NAMED]) + more
    if len(curves) != 1 or curves[0].trained is None:
        return ""
    trained, control = curves[0].trained, curves[0].control
    names = [str(layer) for layer in trained.layers]
    finding = claims.best_of("layer", names, trained.values, (trained.low, trained.high))
    of_control = math.nan
    if control is not None and list(control.layers) == list(trained.layers):
        of_control = max(control.values)
    return finding + claims.control_of_best(of_control, curves[0].chance)


class _Line(NamedTuple):
    number: int  # of its curve
    points: LayerPoints
    depth: int
    look: dict[str, Any]


@clipkit_style
def layers(
    curves: Sequence[LayerCurve],
    *,
    ylabel: str = "accuracy (%)",
    title: str | None = None,
) -> Figure:
    """Draw accuracy by layer: a solid line per curve, and its control dashed in the same colour.

    Short marks on the right are the accuracies of the embeddings, and dotted lines are chance.
    A chance that several curves share is grey. Models of different depth are drawn by the share of
    their depth. The points of several lines at one layer are moved apart.

    Parameters
    ----------
    curves : sequence of LayerCurve
        At least one; the styles of the first 49 differ.
    """
    fig, ax = style.new_axes(7.0, 4.0, title)
    depths = {curve.depth for curve in curves}
    is_share = len(depths) > 1
    unit = max(depths)
    if is_share:
        unit = 100
    room = 0.3 * unit / max(depths)
    lines = _lines(curves)
    handles: dict[int, Line2D] = {}
    for number, line in enumerate(lines):
        x = np.asarray(line.points.layers, np.float64)
        if is_share:
            x *= unit / line.depth
        x += style.dodge(number, len(lines), 0.012 * unit, room)
        handles.setdefault(line.number, _draw_points(ax, x, line.points, line.look))
    chances = [curve.chance for curve in curves]
    for i, chance in enumerate(chances):
        if chances.index(chance) == i:
            ax.axhline(100 * chance, color=_color(i, chances.count(chance)), **CHANCE)
    _draw_embeddings(ax, curves, unit)
    _set_layer_axis(ax, unit, is_share, any(line.points.embedding for line in lines))
    ax.set_ylim(-0.02 * ax.get_ylim()[1])  # so that marks near 0 are whole
    ax.set_ylabel(ylabel)
    facts = ["bars: 95 % intervals over images"]
    if any(line.points.seeds > 1 for line in lines):
        facts.append("dashed: untrained controls, bars: their range")
    elif any(curve.trained and curve.control for curve in curves):
        facts.append("dashed: untrained control")
    facts.append("dotted: chance")
    if _draw_said(ax, curves, unit):
        facts.append("star: what the model says")
    ax.set_title("; ".join(facts), loc="left", color=style.GREY)
    # The title states the highest value of a single curve
    ends = [curve.label if len(curves) == 1 else _name_end(curve) for curve in curves]
    named = list(handles.values())
    if not marks.name_ends(ax, named, ends):
        style.add_legend(fig, named, [_legend_label(curve, is_share) for curve in curves])
    return fig


def _lines(curves: Sequence[LayerCurve]) -> list[_Line]:
    lines = []
    for i, curve in enumerate(curves):
        if curve.trained is not None:
            lines.append(_Line(i, curve.trained, curve.depth, _style(i)))
        if curve.control is not None:
            lines.append(_Line(i, curve.control, curve.depth, _style(i) | CONTROL))
    return lines


def _style(i: int) -> dict[str, Any]:
    """Return colour and marker of the i-th curve: dashes tell models from controls."""
    n = len(style.PALETTE)
    return {"color": style.PALETTE[i % n], "marker": style.MARKERS[(i + i // n) % n]}


def _draw_points(ax: Axes, x: Floats, points: LayerPoints, look: dict[str, Any]) -> Line2D:
    low, values, high = 100 * np.array([points.low, points.values, points.high], np.float64)
    return marks.draw_curve(ax, x, values, (low, high), look)


def _draw_embeddings(ax: Axes, curves: Sequence[LayerCurve], unit: float) -> None:
    """Draw a short horizontal mark at the accuracy of each embedding, with its interval.

    A mark that several curves share has a part in the colour of each.
    """
    for name, dashes in (("trained", "-"), ("control", "--")):
        owners_of: dict[tuple[float, float, float], list[int]] = {}
        for i, curve in enumerate(curves):
            points = getattr(curve, name)
            if points is not None and points.embedding is not None:
                owners_of.setdefault(points.embedding, []).append(i)
        for embedding, owners in owners_of.items():
            value, low, high = 100 * np.array(embedding)
            ends = unit * np.linspace(EMBEDDING - MARK, EMBEDDING + MARK, len(owners) + 1)
            for i, left, right in zip(owners, ends[:-1], ends[1:], strict=True):
                color = _style(i)["color"]
                ax.hlines(value, left, right, color=color, linestyle=dashes, linewidth=2.6)
            color = _color(owners[0], len(owners))
            ax.vlines(unit * EMBEDDING, low, high, color=color, linewidth=1.2, alpha=0.7)


def _draw_said(ax: Axes, curves: Sequence[LayerCurve], unit: float) -> bool:
    """Draw a star beside the embedding for what each model says; return whether there is one."""
    found = False
    for i, curve in enumerate(curves):
        if curve.trained is not None and curve.trained.said is not None:
            value, low, high = 100 * np.array(curve.trained.said)
            look = {"color": _style(i)["color"], "clip_on": False}
            ax.plot(unit * EMBEDDING, value, **SAID, **look)
            ax.vlines(unit * EMBEDDING, low, high, linewidth=1.2, alpha=0.7, color=look["color"])
            found = True
    return found


def _color(i: int, count: int) -> str:
    """Return the colour of what the i-th curve has alone, or shares with others."""
    return str(_style(i)["color"]) if count == 1 else style.GREY


def _set_layer_axis(ax: Axes, unit: float, is_share: bool, has_embedding: bool) -> None:
    if is_share:
        ticks = [0.0, 25.0, 50.0, 75.0, 100.0]
        ax.set_xlabel("layer, as a share of the model's depth (%)")
    else:
        step = next((step for step in STEPS if unit / step <= MOST_TICKS), STEPS[-1])
        ticks = [float(layer) for layer in range(0, int(unit) + 1, step)]
        ax.set_xlabel("layer (0: the input of the first)")
    labels = [f"{tick:g}" for tick in ticks]
    right = 1.05 * unit
    if has_embedding:
        ticks.append(unit * EMBEDDING)
        labels.append("embedding")
        right = ticks[-1] + 0.07 * unit
    ax.set_xticks(ticks, labels)
    ax.set_xlim(-0.05 * unit, right)


def _name_end(curve: LayerCurve) -> str:
    """Return the name of a curve with its highest value."""
    points = curve.trained or curve.control
    assert points is not None
    return f"{curve.label}: {100 * max(points.values):.1f} %"


def _legend_label(curve: LayerCurve, is_share: bool) -> str:
    """Return the label of a curve and its highest value."""
    label = style.sanitize_label(curve.label, results.MAX_LABEL)
    points = curve.trained or curve.control
    assert points is not None
    of = f" of {curve.depth}" if is_share else ""
    names = [f"layer {layer}{of}" for layer in points.layers]
    return claims.best_label(label, names, points.values)
