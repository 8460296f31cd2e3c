"""The tables of chapter 6 and of layers: attributes, variance, comparisons, calibration, shots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from clipkit import comparison
from clipkit.attributes import for_people
from clipkit.errors import ClipkitError
from clipkit.layer_curves import layer_curves
from clipkit.report.blocks import Bar, Block, Cell, Number, Table
from clipkit.report.claims import Run
from clipkit.report.folder import ResultsFolder
from clipkit.report.formatting import escape

Blocks = list[Block]

ATTRIBUTES = (
    "attribute values rows chance zeroshot names random probe control reach reach_low reach_high"
)
VARIANCE = "attribute share unique null95 control_share control_low control_high"
CALIBRATION = "temperature fitted low high nll information ece ece_null ece_null95"
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
    return attribute_table(results.table("img.attributes", ATTRIBUTES), "img.attributes")


def attribute_table(rows: Sequence[Run], source: str) -> Blocks:
    """Return the table of the rows of a result of `clipkit attributes`."""
    if not rows:
        return []
    formatted = for_people(rows)
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
    return variance_table(results.table("img.variance", VARIANCE), "img.variance")


def variance_table(rows: Sequence[Run], source: str) -> Blocks:
    """Return the table of the rows of a result of `clipkit variance` on images."""
    if not rows:
        return []
    header = ["attribute", "share", "unique", "null", "share in the control"]
    cells: list[list[Cell]] = []
    for row in rows:
        unique, null = _percent(row["unique"]), _percent(row["null95"])
        bar = Bar(
            row["share"],
            reference=row["null95"],
            control=row["control_share"],
            reference_name="95 % of unrelated attributes",
        )
        share = Number(_percent(row["share"]), bar)
        cells.append([escape(row["attribute"]), share, unique, null, _with_range(row)])
    return [Table(header, cells, sources=[source] * len(cells))]


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.2f}"


def _with_range(row: Run) -> str:
    text = _percent(row["control_share"])
    if row["control_low"] < row["control_high"]:
        text += f" ({_percent(row['control_low'])}–{_percent(row['control_high'])})"
    return text


def paired_differences(
    results: ResultsFolder, base: str, base_label: str, labels: Mapping[str, str]
) -> Blocks:
    """Return the differences of results from one of them, on the same images, with intervals.

    Results that the folder lacks, or that are of other images, are left out of the table.
    """
    base_runs = results.runs(base)
    if not base_runs:
        return []
    ids = results.predictions(base, base_runs[0]).ids
    names, numbers = [base], [base_runs[0]["number"]]
    for name in labels:
        runs = results.runs(name)
        if runs and results.predictions(name, runs[0]).ids == ids:
            names.append(name)
            numbers.append(runs[0]["number"])
    if len(names) == 1:
        return []
    files = [results.read(name) for name in names]
    matched = comparison.pair(files, base_runs[0]["split"], numbers)
    return difference_table(matched, base_label, {name: labels[name] for name in names[1:]})


def difference_table(
    paired: comparison.PairedResults, base_label: str, labels: Mapping[str, str]
) -> Blocks:
    """Return the table of the differences of results from the first of them, with its text.

    `labels` are those of the others, by the names of the results.
    """
    rows = comparison.compare(paired).rows()
    header = [f"against {base_label}", "difference (points)", "only this"]
    header += [f"only {base_label}", "p"]
    intervals = [(-row["difference"], -row["high"], -row["low"]) for row in rows]
    cells: list[list[Cell]] = []
    for name, row, cell in zip(labels, rows, difference_cells(intervals), strict=True):
        p = row.get("p_holm", row["p"])
        cells.append([labels[name], cell, f"{row['only_b']}", f"{row['only_a']}", f"{p:.2g}"])
    base = f"from {base_label} ({100 * rows[0]['acc_a']:.2f} %)"
    text = explain_differences(base, len(rows), "another draw of training images")
    return [text, Table(header, cells, sources=list(labels))]


def difference_cells(intervals: Sequence[tuple[float, float, float]]) -> list[Number]:
    """Return differences of accuracies with their low and high. Their bars have one scale."""
    furthest = max(max(abs(low), abs(high)) for _, low, high in intervals)
    span = (-furthest, furthest)
    cells = []
    for value, low, high in intervals:
        text = f"{100 * value:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
        bar = Bar(value, low, high, 0.0, span=span, reference_name="no difference")
        cells.append(Number(text, bar))
    return cells


def explain_differences(which: str, count: int, not_covered: str) -> str:
    """Return the text of a table of `count` differences."""
    p = "McNemar's exact p"
    if count > 1:
        p += ", corrected for all rows by Holm's method"
    return (
        f"Differences {which} on the same images: the paired difference with its 95 % interval, "
        f"the number of images that only one of the two gets right, and {p}. The interval covers "
        f"another draw of test images, but not {not_covered}."
    )


def calibration(folders: Mapping[str, ResultsFolder]) -> Blocks:
    """Return the table of temperatures of the softmax over the classes."""
    cells, sources = [], []
    for suffix, results in folders.items():
        for row in results.table("classes.logits.calibrate", CALIBRATION):
            name = f"τ {row['temperature']:.4g}"
            if row["fitted"]:
                name += f", fitted ({_interval(row['low'], row['high'])})"
            errors = [_percent(row[column]) for column in ("ece", "ece_null", "ece_null95")]
            cells.append([name + suffix, f"{row['information']:.3f}", *errors])
            sources.append("" if suffix else "classes.logits.calibrate")
    if not cells:
        return []
    text = (
        "How informative and how well calibrated is the softmax over the classes? *Information* is "
        "ln C minus the negative log-likelihood, in nats. *ECE* is the expected calibration error. "
        "*Calibrated* is its mean for a calibrated model with the same confidences, and the last "
        "column is the 95 % quantile. The temperature is fitted on the training images and has a "
        "95 % interval."
    )
    header = ["softmax", "information (nats)", "ECE (%)", "calibrated", "95 %"]
    return [text, Table(header, cells, sources=sources)]


def _interval(low: float, high: float) -> str:
    """Return `0.03–0.04`; an end that is NaN is open."""
    if math.isnan(low):
        return f"up to {high:.4g}"
    if math.isnan(high):
        return f"{low:.4g} or more"
    return f"{low:.4g}–{high:.4g}"


def shots(folders: Mapping[str, ResultsFolder]) -> Blocks:
    """Return the table of few-shot accuracies."""
    columns: dict[str, dict[int, list[float]]] = {}  # title -> images per class -> accuracies
    for suffix, results in folders.items():
        for run in results.runs("img.shots"):
            column = columns.setdefault(f"accuracy{suffix} (%)", {})
            column.setdefault(int(run["shots"]), []).append(run["acc1"])
    if not columns:
        return []
    cells = []
    for n in sorted(set().union(*columns.values())):
        cells.append([f"{n}", *(_mean_and_range(column.get(n, [])) for column in columns.values())])
    header = ["images per class", *columns]
    text = (
        "Logistic regression is fitted on the embeddings of a few images per class. The table has "
        "the mean over the draws, with the lowest and the highest."
    )
    return [text, Table(header, cells, sources=["img.shots"] * len(cells))]


def _mean_and_range(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, high = 100 * min(values), 100 * max(values)
    return f"{100 * np.mean(values):.2f} ({low:.2f}–{high:.2f})"


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
        results.leave_out_layers(error.message)
        return []
    columns: dict[str, dict[float, float]] = {}  # title -> layer -> accuracy
    for curve in curves:
        label = curve.label if len(curves) > 1 else "accuracy"
        for points, suffix in ((curve.trained, ""), (curve.control, ", untrained")):
            if points is None:
                continue
            column: dict[float, float] = dict(zip(points.layers, points.values, strict=True))
            if points.embedding is not None:
                column[EMBEDDING] = points.embedding[0]
            columns[f"{escape(label)}{suffix} (%)"] = column
    cells = []
    for layer in sorted(set().union(*columns.values())):
        name = "embedding" if layer == EMBEDDING else f"{layer}"
        values = [_percent(column.get(layer, math.nan)) for column in columns.values()]
        cells.append([name, *values])
    return [Table(["layer", *columns], cells)]
