"""The tables of chapter 6 and of layers: attributes, variance, calibration, few shots."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from clipkit.analysis.for_people import attribute_rows
from clipkit.base.errors import ClipkitError
from clipkit.plots.layer_curves import layer_curves
from clipkit.report.blocks import Bar, Block, Cell, Number, Rows, Sourced, Table
from clipkit.report.claims import Run
from clipkit.report.folder import Measurement, ResultsFolder
from clipkit.report.formatting import escape, format_measurement, format_percent

if TYPE_CHECKING:
    from clipkit.plots import LayerPoints

Blocks = list[Block]

ZEROSHOT = "classes.logits.zeroshot"
EMBEDDING = math.inf  # the layer of its row, which is the last
# The probes of chapters 2 to 4 with one classifier and one setting
PROBES = {
    "img.svm": "SVM on embeddings",
    "img.svm-c": "SVM on embeddings, C chosen",
    "img.logreg": "logistic regression on embeddings",
    "generic32.logits.svm": "SVM on 32 prompts, τ 1",
    "generic32.logits.logreg": "logistic regression on 32 prompts, τ 1",
    "generic32.logits.svm-val": "SVM on 32 prompts, τ chosen",
    "generic32.logits.logreg-val": "logistic regression on 32 prompts, τ chosen",
    "generic32.logits.mlp-val": "MLP on 32 prompts, τ chosen",
}


def attributes(results: ResultsFolder) -> Blocks:
    """Return the table of the recall of each attribute."""
    return attribute_table(results.table("img.attributes"), "img.attributes")


def attribute_table(rows: Sequence[Run], source: str) -> Blocks:
    """Return the table of the rows of a result of `clipkit attributes`."""
    if not rows:
        return []
    formatted = attribute_rows(rows)
    header = [name.removesuffix(" %") for name in formatted[0]]
    cells = []
    for row, texts in zip(rows, formatted, strict=True):
        cells.append([_attribute_cell(row, title, text) for title, text in texts.items()])
    return [Table(header, cells, sources=[source] * len(cells))]


def _attribute_cell(row: Run, title: str, text: object) -> Cell:
    """Return a cell with the bar of its recall, if the column holds a recall."""
    if text is None:
        return ""
    name = title.removesuffix(" %")
    if name == title or name in ("chance", "control"):
        return escape(text)
    low, high = row.get(f"{name}_low", math.nan), row.get(f"{name}_high", math.nan)
    return Number(escape(text), Bar(row[name], low, high, row["chance"], row["control"]))


def variance(results: ResultsFolder) -> Blocks:
    """Return the table of the shares of variance."""
    return variance_table(results.table("img.variance"), "img.variance")


def variance_table(rows: Sequence[Run], source: str) -> Blocks:
    """Return the table of the rows of a result of `clipkit variance` on images."""
    if not rows:
        return []
    header = ["attribute", "share", "null", "unique", "share in the control"]
    has_null = "unique_null95" in rows[0]  # not in results of an earlier clipkit
    header[4:4] = ["null of unique"] * has_null
    cells: list[list[Cell]] = []
    for row in rows:
        unique, null = format_percent(row["unique"]), format_percent(row["null95"])
        bar = Bar(
            row["share"],
            reference=row["null95"],
            control=row["control_share"],
            reference_name="95 % of unrelated attributes",
        )
        share = Number(format_percent(row["share"]), bar)
        cells.append([escape(row["attribute"]), share, null, unique, _control_share(row)])
        if has_null:
            cells[-1].insert(4, format_percent(row["unique_null95"]))
    return [Table(header, cells, sources=[source] * len(cells))]


def _control_share(row: Run) -> str:
    """Return the mean share of the controls, with its range if there are several."""
    mean, low, high = row["control_share"], row["control_low"], row["control_high"]
    if low < high:
        return format_measurement(Measurement(mean, "%", low, high))
    return format_percent(mean)


def calibration(folders: Mapping[str, ResultsFolder]) -> Blocks:
    """Return the table of temperatures of the softmax over the classes."""
    rows = Rows()
    for suffix, results in folders.items():
        rows.add_all(_calibration_rows(results), suffix)
    if not rows:
        return []
    text = (
        "How informative and how well calibrated is the softmax over the classes? *Information* is "
        "the entropy of the labels minus their negative log-likelihood, in nats. *ECE* is the "
        "expected calibration error. *Calibrated* is its mean for a calibrated model with the same "
        "confidences, and the last column is the 95 % quantile. The temperature is fitted on the "
        "training images and has a 95 % interval."
    )
    header = ["softmax", "information (nats)", "ECE (%)", "calibrated", "95 %"]
    return [text, *rows.tables(header)]


def _calibration_rows(results: ResultsFolder) -> Iterator[Sourced]:
    source = "classes.logits.calibrate"
    for row in results.table(source):
        name = f"τ {row['temperature']:.4g}"
        if row["fitted"]:
            name += f", fitted ({_interval(row['low'], row['high'])})"
        errors = [format_percent(row[column]) for column in ("ece", "ece_null", "ece_null95")]
        yield source, [name, f"{row['information']:.3f}", *errors]


def _interval(low: float, high: float) -> str:
    """Return `0.03–0.04`; an end that is NaN is open."""
    if math.isnan(low):
        return f"up to {high:.4g}"
    if math.isnan(high):
        return f"{low:.4g} or more"
    return f"{low:.4g}–{high:.4g}"


def shots(folders: Mapping[str, ResultsFolder]) -> Blocks:
    """Return the table of few-shot accuracies."""
    columns: dict[str, dict[float, str]] = {}
    for suffix, results in folders.items():
        accuracies: dict[float, list[float]] = defaultdict(list)  # by images per class
        for run in results.runs("img.shots"):
            accuracies[int(run["shots"])].append(run["acc1"])
        if accuracies:
            column = {number: _mean_and_range(values) for number, values in accuracies.items()}
            columns[f"accuracy{suffix} (%)"] = column
    if not columns:
        return []
    text = (
        "Logistic regression is fitted on the embeddings of a few images per class. The table has "
        "the mean over the draws, with the lowest and the highest."
    )
    return [text, _join_columns("images per class", columns, "img.shots")]


def _mean_and_range(values: Sequence[float]) -> str:
    mean = float(np.mean(values))
    return format_measurement(Measurement(mean, "%", min(values), max(values)))


def _join_columns(
    key_name: str, columns: Mapping[str, Mapping[float, str]], source: str = ""
) -> Table:
    """Return a table of columns by their titles, whose cells are given by their rows' keys."""
    rows = []
    for key in sorted(set().union(*columns.values())):
        label = "embedding" if key == EMBEDDING else f"{key}"
        rows.append([label, *(column.get(key, "") for column in columns.values())])
    sources = [source] * len(rows) if source else ()
    return Table([key_name, *columns], rows, sources=sources)


def layers(results: ResultsFolder, controls: Sequence[ResultsFolder]) -> Blocks:
    """Return the table of accuracy by layer, with a column per set of labels and its control."""
    files = results.layer_results()
    if not files:
        return []
    for control in controls:
        files += control.layer_results()
    try:
        curves, _ = layer_curves(files)
    except ClipkitError as error:
        results.leave_out("img.l*.svm", error.message)
        return []
    columns = {}
    for curve in curves:
        label = escape(curve.label) if len(curves) > 1 else "accuracy"
        for suffix, points in (("", curve.trained), (", untrained", curve.control)):
            if points is not None:
                columns[f"{label}{suffix} (%)"] = _layer_cells(points)
    return [_join_columns("layer", columns)]


def _layer_cells(points: LayerPoints) -> dict[float, str]:
    """Return the accuracy after each layer, and that of the embedding."""
    cells: dict[float, str] = {}
    for layer, accuracy in zip(points.layers, points.values, strict=True):
        cells[layer] = format_percent(accuracy)
    if points.embedding is not None:
        cells[EMBEDDING] = format_percent(points.embedding[0])
    return cells
