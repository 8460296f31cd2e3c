"""Tables of a report: paired differences, attributes, variance, layers, and what ran."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, NamedTuple

from clipkit.analysis.compare import comparison
from clipkit.analysis.compare.comparison import Bools
from clipkit.analysis.layer_curves import layer_curves
from clipkit.analysis.layout import make_cell
from clipkit.base.cells import NO_BREAK, format_p
from clipkit.base.markdown import escape
from clipkit.base.matrices import Int64
from clipkit.base.version import __version__
from clipkit.features import model_settings
from clipkit.features.columns import columns_of_command
from clipkit.features.history import Entry
from clipkit.features.model import FeatureFile
from clipkit.report.blocks import Bar, Block, Cell, Number, Table
from clipkit.report.markdown import format_percent, p_name
from clipkit.statistics import metrics

if TYPE_CHECKING:
    from clipkit.analysis.layer_curves import LayerPoints

LIBRARIES = ("numpy", "scikit-learn", "torch", "transformers")
EMBEDDING = math.inf  # the layer of its row, which is the last
LAYERS = (
    "Accuracy of a probe on the hidden states after each layer. Layer 0 is the input of the first "
    "layer, and the last row is the embedding. The table has the mean of several controls."
)


class Pair(NamedTuple):
    """A row: its labels, the name of a result, and which of N images it and another get right.

    Images of one cluster (N) depend on each other.
    """

    labels: Sequence[str]
    source: str
    right: Bools
    other: Bools
    clusters: Int64 | None = None
    unequal: Int64 | None = None  # the labels (N) of unequal classes


def difference_table(
    pairs: Sequence[Pair], label_header: Sequence[str], other: str, which: str, not_covered: str
) -> list[Block]:
    """Return a table of differences with its text.

    The header calls what each result is compared with `other`. In the text, `which` says of what
    the differences are, and `not_covered` what the interval does not cover.
    """
    if not pairs:
        return []
    rows = [
        comparison.compare_right(pair.right, pair.other, pair.clusters, pair.unequal)
        for pair in pairs
    ]
    p_values = metrics.holm([row["p"] for row in rows])
    furthest = max(max(abs(row["low"]), abs(row["high"])) for row in rows)
    span = (-furthest, furthest)  # the bars have one scale
    known = columns_of_command("compare")
    cells: list[list[Cell]] = []
    for pair, row, p in zip(pairs, rows, p_values, strict=True):
        interval = row["difference"], row["low"], row["high"]
        bar = Bar(*interval, reference=0.0, span=span, reference_name="no difference")
        text = make_cell(row, known["difference"], known).replace(NO_BREAK, " ")
        difference = Number(text, bar)
        counts = [f"{row['only_a']}", f"{row['only_b']}"]
        cells.append([*pair.labels, difference, *counts, format_p(p)])
    header = [*label_header, "difference (points)", "only this", f"only {other}", "p"]
    names = [p_name(pair.clusters, is_recall=pair.unequal is not None) for pair in pairs]
    p = " or ".join(dict.fromkeys(names))
    if len(pairs) > 1:
        p += ", corrected for all rows by Holm's method"
    text = f"Paired differences {which}: {p}. The 95 % intervals do not cover {not_covered}."
    return [text, Table(header, cells, len(label_header), [pair.source for pair in pairs])]


def layer_table(files: Sequence[FeatureFile]) -> list[Block]:
    """Return the table of accuracy by layer, with columns for each probe and its control."""
    curves, _ = layer_curves(files)
    columns: dict[str, Mapping[float, str]] = {}
    for curve in curves:
        label = escape(curve.label) if len(curves) > 1 else "accuracy"
        for suffix, points in (("", curve.trained), (", untrained", curve.control)):
            if points is not None:
                columns[f"{label}{suffix} (%)"] = _layer_cells(points)
    rows = []
    for layer in sorted(set().union(*columns.values())):
        name = "embedding" if layer == EMBEDDING else f"{layer}"
        rows.append([name, *(column.get(layer, "") for column in columns.values())])
    return [LAYERS, Table(["layer", *columns], rows)]


def _layer_cells(points: LayerPoints) -> dict[float, str]:
    """Return the accuracy after each layer, and of the embedding."""
    cells: dict[float, str] = {}
    for layer, accuracy in zip(points.layers, points.values, strict=True):
        cells[layer] = format_percent(accuracy)
    if points.embedding is not None:
        cells[EMBEDDING] = format_percent(points.embedding[0])
    return cells


def provenance_table(files: Iterable[FeatureFile]) -> Table:
    """Return the table of what ran: models and data sets, as histories name them, and versions."""
    rows: dict[tuple[str, str], None] = {}  # each once
    for file in files:
        for entry in file.history:
            if entry["command"] == "embed":
                rows |= dict.fromkeys(_embedding_rows(entry))
    versions = [f"clipkit {__version__}", f"Python {platform.python_version()}"]
    versions += [f"{name} {metadata.version(name)}" for name in LIBRARIES]
    cells = [[escape(name), escape(fact)] for name, fact in rows]
    cells.append(["reported by", escape(", ".join(versions))])
    return Table(["what ran", ""], cells, text_columns=2)


def _embedding_rows(entry: Entry) -> list[tuple[str, str]]:
    """Return the facts of an entry of `embed`, each with its name."""
    name = str(entry.member("model.name"))
    role = "model"
    if entry.member("model.untrained") is not None:
        role, name = "untrained control", f"{name}, untrained (seed {entry['model']['untrained']})"
    weights = entry.member("model.weights") or entry.member("model.digest")
    computed = f"{entry.member('model.precision')} on {entry.member('model.device')}"
    rows = [
        (role, f"{name}, {weights}, {computed}"),
        ("embedded by", f"clipkit {entry.get('clipkit')}"),
    ]
    dataset = str(entry.member("dataset.name"))
    splits = entry.object("dataset", "splits")
    for split in splits:
        count, digest = map(splits.object(split).get, ("images", "rows"))
        rows.append((f"rows of {split}", f"{dataset}: {count} images, sha256:{digest}"))
    for setting in model_settings.SETTINGS:
        value = entry.member(setting.member)
        if setting.is_of_images and value is not None:
            words = model_settings.say(setting.suffix, entry.model, value)
            rows.append((f"images {words}", f"changed by {setting.flag}"))
    draw = entry.object("dataset", "draw")
    if draw:
        rows.append(("draw", ", ".join(f"{key} {value}" for key, value in draw.items())))
    skipped = entry.list_of("skipped")
    if skipped:
        rows.append(("skipped images", f"{len(skipped)}"))
    return rows
