"""Tables of paired differences: which of two results is better on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from clipkit.analysis import comparison, metrics
from clipkit.analysis.comparison import Bools
from clipkit.features.compatibility import matching_split
from clipkit.report.blocks import Bar, Block, Cell, Number, Table
from clipkit.report.claims import Run
from clipkit.report.folder import ResultsFolder
from clipkit.report.formatting import format_points

TRAINING_IMAGES = "another draw of training images"


class Pair(NamedTuple):
    """A row: its labels, the name of a result, and which of N images it and another get right."""

    labels: Sequence[str]
    source: str
    right: Bools
    other: Bools


def paired_differences(
    results: ResultsFolder, base: str, base_label: str, labels: Mapping[str, str]
) -> list[Block]:
    """Return the differences of results from one of them, on the same images, with intervals.

    Results that the folder lacks, or that are of other images, are left out of the table.
    """
    chosen = {}  # name -> run
    for name in (base, *labels):
        for run in results.runs(name)[:1]:
            if not results.untestable(name, run):
                chosen[name] = run
    if base not in chosen:
        return []
    main, split = results.read(base), chosen[base]["split"]
    ids = results.predictions(base, chosen[base]).ids
    for name, run in list(chosen.items()):
        is_same = run["split"] != split or results.predictions(name, run).ids == ids
        if not is_same or matching_split(results.read(name), main, split) != run["split"]:
            del chosen[name]
    if len(chosen) == 1:
        return []
    files = [results.read(name) for name in chosen]
    numbers = [run["number"] for run in chosen.values()]
    paired = comparison.pair(files, split, numbers)
    compared = {name: label for name, label in labels.items() if name in chosen}
    return differences_from_base(paired, base_label, compared)


def differences_from_base(
    paired: comparison.PairedResults, base_label: str, labels: Mapping[str, str]
) -> list[Block]:
    """Return the table of the differences of results from the first of them, with its text.

    `labels` are those of the others, by the names of the results.
    """
    base, *others = paired.right
    pairs = []
    for (name, label), right in zip(labels.items(), others, strict=True):
        pairs.append(Pair([label], name, right, base))
    images = f"the {len(base):,} images that all have" if paired.common else paired.images
    which = f"from {base_label} ({100 * base.mean():.2f} %) on {images}"
    return difference_table(pairs, [f"against {base_label}"], base_label, which, TRAINING_IMAGES)


def difference_table(
    pairs: Sequence[Pair], label_header: Sequence[str], other: str, which: str, not_covered: str
) -> list[Block]:
    """Return a table of differences with its text.

    Parameters
    ----------
    pairs : sequence of Pair
    label_header : sequence of str
        The header of the labels of pairs.
    other : str
        What each result is compared with, in the header.
    which : str
        The same, in the text, with the images.
    not_covered : str
        What the interval does not cover.
    """
    rows = [comparison.compare_right(pair.right, pair.other) for pair in pairs]
    p_values = metrics.holm([row["p"] for row in rows])
    cells: list[list[Cell]] = []
    for pair, row, difference, p in zip(pairs, rows, _differences(rows), p_values, strict=True):
        counts = [f"{row['only_a']}", f"{row['only_b']}"]
        cells.append([*pair.labels, difference, *counts, f"{p:.2g}"])
    header = [*label_header, "difference (points)", "only this", f"only {other}", "p"]
    p_name = "McNemar's exact p"
    if len(pairs) > 1:
        p_name += ", corrected for all rows by Holm's method"
    text = (
        f"Differences {which}: the paired difference with its 95 % interval, "
        f"the number of images that only one of the two gets right, and {p_name}. The interval "
        f"covers another draw of test images, but not {not_covered}."
    )
    return [text, Table(header, cells, len(label_header), [pair.source for pair in pairs])]


def _differences(rows: Sequence[Run]) -> list[Number]:
    """Return the differences with their intervals. The bars have one scale."""
    furthest = max(max(abs(row["low"]), abs(row["high"])) for row in rows)
    cells = []
    for row in rows:
        interval = row["difference"], row["low"], row["high"]
        span = (-furthest, furthest)
        bar = Bar(*interval, reference=0.0, span=span, reference_name="no difference")
        cells.append(Number(format_points(*interval), bar))
    return cells
