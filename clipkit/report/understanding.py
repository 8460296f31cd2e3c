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
    shown = for_people(rows)
    header = [name.removesuffix(" %") for name in shown[0]]
    cells = [
        [_attribute_cell(row, name, "" if cell is None else cell) for name, cell in of_row.items()]
        for row, of_row in zip(rows, shown, strict=True)
    ]
    return [Table(header, cells, sources=[source] * len(cells))]


def _attribute_cell(row: Run, title: str, cell: object) -> Cell:
    """Return a cell with the bar of its recall, if the column holds a recall."""
    text, name = escape(cell), title.removesuffix(" %")
    if name == title or name in ("chance", "control") or not text:
        return text
    low, high = (row.get(f"{name}_{end}", math.nan) for end in ("low", "high"))
    return Number(text, Bar(row[name], low, high, row["chance"], row["control"]))


def variance(results: ResultsFolder) -> Blocks:
    """Return the table of the shares of variance."""
    return variance_table(results.table("img.variance", VARIANCE), "img.variance")


def variance_table(rows: Sequence[Run], source: str) -> Blocks:
    """Return the table of the rows of a result of `clipkit variance` on images."""
    header = ["attribute", "share", "unique", "null", "share in the control"]
    cells: list[list[Cell]] = []
    for row in rows:
        unique, null = (_percent(row[name]) for name in ("unique", "null95"))
        bar = Bar(
            row["share"],
            reference=row["null95"],
            control=row["control_share"],
            reference_name="95 % of unrelated attributes",
        )
        share = Number(_percent(row["share"]), bar)
        cells.append([escape(row["attribute"]), share, unique, null, _with_range(row)])
    return [Table(header, cells, sources=[source] * len(cells))] if rows else []


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{100 * value:.2f}"


def _with_range(row: Run) -> str:
    text = _percent(row["control_share"])
    if row["control_low"] < row["control_high"]:
        text += f" ({_percent(row['control_low'])}–{_percent(row['control_high'])})"
    return text


def against_zeroshot(results: ResultsFolder) -> Blocks:
    """Return the table of probes against zero-shot on the same images."""
    return paired_differences(results, ZEROSHOT, "zero-shot", PROBES)


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
    paired = []
    for name, label in labels.items():
        runs = results.runs(name)
        if runs and results.predictions(name, runs[0]).ids == ids:
            paired.append((label, name, runs[0]["number"]))
    if not paired:
        return []
    files = [results.read(base), *(results.read(name) for _, name, _ in paired)]
    numbers = [base_runs[0]["number"], *(number for _, _, number in paired)]
    matched = comparison.pair(files, base_runs[0]["split"], numbers)
    labels_of_rows = [label for label, _, _ in paired]
    return difference_table(matched, base_label, labels_of_rows, [name for _, name, _ in paired])


def difference_table(
    paired: comparison.PairedResults,
    base_label: str,
    labels: Sequence[str],
    sources: Sequence[str],
) -> Blocks:
    """Return the table of the differences of results from the first of them, with its text."""
    rows = comparison.compare(paired).rows()
    header = [
        f"against {base_label}",
        "difference (points)",
        "only this",
        f"only {base_label}",
        "p",
    ]
    cells: list[list[Cell]] = []
    furthest = max(abs(row[end]) for row in rows for end in ("low", "high"))
    for label, row in zip(labels, rows, strict=True):
        difference = difference_cell(-row["difference"], -row["high"], -row["low"], furthest)
        p = row.get("p_holm", row["p"])
        cells.append([label, difference, f"{row['only_b']}", f"{row['only_a']}", f"{p:.2g}"])
    correction = ", corrected for all rows by Holm's method" if len(rows) > 1 else ""
    text = (
        f"Differences from {base_label} ({100 * rows[0]['acc_a']:.2f} %) on the same images: the "
        "paired difference with its 95 % interval, the number of images that only one of the two "
        f"gets right, and McNemar's exact p{correction}. The interval covers another draw of test "
        "images, but not another draw of training images."
    )
    return [text, Table(header, cells, sources=sources)]


def difference_cell(value: float, low: float, high: float, furthest: float) -> Number:
    """Return a difference of accuracies with its interval. The bar ends at `furthest` from 0."""
    text = f"{100 * value:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"
    span = (-furthest, furthest)
    return Number(text, Bar(value, low, high, 0.0, span=span, reference_name="no difference"))


def calibration(folders: Mapping[str, ResultsFolder]) -> Blocks:
    """Return the table of temperatures of the softmax over the classes."""
    cells, sources = [], []
    for suffix, results in folders.items():
        for row in results.table("classes.logits.calibrate", CALIBRATION):
            name = f"τ {row['temperature']:.4g}"
            if row["fitted"]:
                name += f", fitted ({_interval(row['low'], row['high'])})"
            numbers = [f"{row['information']:.3f}"]
            numbers += [_percent(row[column]) for column in ("ece", "ece_null", "ece_null95")]
            cells.append([name + suffix, *numbers])
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
    by_shots: dict[int, dict[str, list[float]]] = {}
    for suffix, results in folders.items():
        for run in results.runs("img.shots"):
            of_folder = by_shots.setdefault(int(run["shots"]), {})
            of_folder.setdefault(suffix, []).append(run["acc1"])
    if not by_shots:
        return []
    suffixes = [suffix for suffix in folders if any(suffix in row for row in by_shots.values())]
    header = ["images per class", *(f"accuracy{suffix} (%)" for suffix in suffixes)]
    cells = [
        [f"{n}", *(_mean_and_range(row.get(suffix, [])) for suffix in suffixes)]
        for n, row in sorted(by_shots.items())
    ]
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
    if not results.layer_results():
        return []
    files = [file for folder in (results, *controls) for file in folder.layer_results()]
    try:
        curves, _ = layer_curves(files)
    except ClipkitError as error:
        results.leave_out_layers(error.message)
        return []
    columns = {}
    for curve in curves:
        for points, suffix in ((curve.trained, ""), (curve.control, ", untrained")):
            if points is not None:
                label = curve.label if len(curves) > 1 else "accuracy"
                column: dict[int | str, float] = dict(
                    zip(points.layers, points.values, strict=True)
                )
                if points.embedding is not None:
                    column["embedding"] = points.embedding[0]
                columns[f"{escape(label)}{suffix} (%)"] = column
    present = {row for column in columns.values() for row in column}
    rows = sorted(present - {"embedding"}) + ["embedding"] * ("embedding" in present)
    cells = [
        [f"{row}", *(_percent(column.get(row, math.nan)) for column in columns.values())]
        for row in rows
    ]
    return [Table(["layer", *columns], cells)]
