"""Compute counts per class, curves, grids and means from results and logits, for pictures.

Functions raise `UsageError` for a split, run, image or class that does not exist, and
`ClipkitError` for a file that does not hold what they need.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipkit import bundled, files, metrics, prompts, similarity
from clipkit.errors import ClipkitError, UsageError, unknown
from clipkit.features import FeatureFile, Int64
from clipkit.features.provenance import provenance
from clipkit.tables import distinct_names

if TYPE_CHECKING:
    from clipkit.plots import ShotCurve, Sweep

Floats = NDArray[np.float64]
Row = dict[str, Any]

MAX_CLASSES = 1000  # of a matrix of counts, in memory and on paper
MAX_MEANS = 1 << 24  # of classes x prompts: 128 MiB
MAX_RUNS = 10_000  # of a result that is drawn or reported
MAX_CURVES = 100
MAX_PROMPTS = 1 << 20
MAX_NAME = 60  # characters of a name from a history, where anything may be written
NAMED_PROMPTS = "prompts: "
SWEEP_COLUMNS = ("classifier", "C", "temperature", "eval_split", "acc1", "mean_entropy")


@dataclass(frozen=True)
class ScoredRuns:
    """The runs of a result that were scored on one split, and what they predicted.

    `rows` are the R runs, `labels` (N) the classes of the images, `predicted` (R, N) the classes or
    clusters that each run gave them.
    """

    split: str
    rows: list[Row]
    ids: list[str]
    labels: Int64
    predicted: Int64


@dataclass(frozen=True)
class Predictions:
    """The true and the predicted class of each image (N), of one run.

    `ids` name the images. `label` says what sets the run apart, for a title. `display_name` is the
    result's. Predictions of groups of classes keep the accuracy by class in `class_accuracy`.
    """

    ids: list[str]
    labels: Int64
    predicted: Int64
    class_names: list[str]
    label: str
    display_name: str
    class_accuracy: float | None = None


@dataclass(frozen=True)
class ClassCounts:
    """Images of each class (row) in each predicted class or cluster (column) of a run.

    `counts` is (C, K) int64; see `Predictions` for the others.
    """

    counts: Int64
    class_names: list[str]
    label: str
    class_accuracy: float | None = None


@dataclass(frozen=True)
class AccuracyGrid:
    """Accuracies (S, T) as fractions: row s at `Cs[s]`, column t at `temperatures[t]`."""

    values: Floats
    Cs: list[float]
    temperatures: list[float]
    label: str
    split: str


@dataclass(frozen=True)
class ComparisonPanels:
    """The rows of a comparison as arrays for a picture.

    Attributes
    ----------
    names : list of F str
        Of the results, with their models if these differ.
    groups : list of G str
        Empty without groups; then G is 1.
    accuracy : (F, G, 3) array
        Accuracy of each result in each group, with the ends of Wilson's 95 % interval.
    difference : (F - 1, G, 3) array
        Of the first result minus each other, with the ends of its 95 % interval.
    null5 : (F,) array
        The 5th percentile of the worst group's accuracy under permutation; NaN without groups.
    label : str
        Results and attribute, for a title.
    source : str
        Models, data set, split, number of images and prompts, for a subtitle.
    """

    names: list[str]
    groups: list[str]
    accuracy: Floats
    difference: Floats
    null5: Floats
    label: str
    source: str


def choose_split(file: FeatureFile, split: str | None = None) -> str:
    """Return the given split, which must exist; by default `test`, else the first split."""
    if not file.splits:
        raise ClipkitError(f"{file.display_name}: expected a split, got none")
    if split is None:
        split = "test" if "test" in file.splits else next(iter(file.splits))
    return file.choose_splits([split])[0]


def last_entry(result: FeatureFile) -> dict[str, Any]:
    """Return the history's entry about the command that made a result."""
    return result.history[-1] if result.history else {"command": "an unknown command"}


def scored_runs(result: FeatureFile, split: str) -> ScoredRuns:
    """Return the runs that were scored on a split, with a row of predictions for each.

    Raises
    ------
    ClipkitError
        If the split has no predictions or labels, or not as many runs as rows of predictions.
    """
    if split not in result.splits:
        raise ClipkitError(f"{result.display_name}: expected predictions of {split}, got none")
    scored = result.splits[split]
    labels = _labels(result, split)
    assert scored.predicted is not None  # a result's split without predictions is invalid
    names_splits = {"eval_split", "split"} & result.runs.keys()
    check_run_count(result)
    rows = result.runs_on(split) if names_splits else result.rows()
    if not result.runs:
        rows = [{} for _ in scored.predicted]
    if len(rows) != len(scored.predicted):
        raise ClipkitError(
            f"{result.display_name}: expected a row of predictions for each of {len(rows)} runs "
            f"on {split}, got {len(scored.predicted)}"
        )
    return ScoredRuns(split, rows, scored.ids, labels, scored.predicted)


def check_run_count(result: FeatureFile) -> None:
    """Refuse a result with more runs than can be drawn."""
    if result.run_count > MAX_RUNS:
        raise ClipkitError(
            f"{result.display_name}: expected at most {MAX_RUNS:,} runs, got {result.run_count:,}"
        )


def check_columns(result: FeatureFile, *columns: str) -> None:
    """Check that a result has some columns; `validate` has checked their types."""
    missing = [name for name in columns if name not in result.runs]
    if missing:
        raise ClipkitError(
            f"{result.display_name}: expected the columns {', '.join(columns)}, "
            f"got no {', '.join(missing)}"
        )


def _settings(row: Row, numbers: Sequence[str] = ("C", "temperature")) -> list[str]:
    """Return the classifier and the given numbers of a run, without those that do not apply."""
    settings = []
    if "classifier" in row:
        settings.append(row["classifier"])
    for name in numbers:
        if not math.isnan(row.get(name, math.nan)):
            settings.append(f"{name} {row[name]:g}")
    return settings


def predictions(
    result: FeatureFile, split: str | None = None, run: int | None = None
) -> Predictions:
    """Return the true and the predicted classes of a run.

    Parameters
    ----------
    result : FeatureFile
        Of `probe` or `zeroshot`, with labels.
    split : str, optional
        See `choose_split`.
    run : int, optional
        From 0 among the runs on the split; the most accurate by default.
    """
    check_predicted_classes(result)
    split = choose_split(result, split)
    scored = scored_runs(result, split)
    check_run(scored, run)
    if run is None:
        run = int((scored.predicted == scored.labels).mean(axis=1).argmax())  # of equals, the first
    predicted = scored.predicted[run]
    names = class_names(result, max(scored.labels.max(), predicted.max()))
    label = run_label(result, scored, run)
    return Predictions(scored.ids, scored.labels, predicted, names, label, result.display_name)


def check_predicted_classes(result: FeatureFile) -> None:
    """Refuse a result that does not hold predicted classes."""
    command = last_entry(result)["command"]
    if not result.splits or command == "cluster":
        raise ClipkitError(
            f"{result.display_name}: expected predicted classes, got a result of {command}",
            "keep them with: clipkit probe -o, or clipkit zeroshot -o",
        )


def run_label(result: FeatureFile, scored: ScoredRuns, run: int) -> str:
    """Name a run by its settings: `probe, svm, C 1, temperature 0.07, on test`."""
    command = last_entry(result)["command"]
    return ", ".join([command, *_settings(scored.rows[run]), f"on {scored.split}"])


def confusion_counts(
    result: FeatureFile, split: str | None = None, run: int | None = None
) -> ClassCounts:
    """Count true against predicted classes (C, C) of a run; see `predictions`.

    There may be at most 1,000 classes.
    """
    return count(predictions(result, split, run))


def count(predictions: Predictions) -> ClassCounts:
    """Count true against predicted classes (C, C) of at most 1,000 classes."""
    C = len(predictions.class_names)
    if C > MAX_CLASSES:
        raise ClipkitError(
            f"{predictions.display_name}: expected at most {MAX_CLASSES:,} classes to count, "
            f"got {C:,}",
            "draw groups of classes with --groups FILE",
        )
    return ClassCounts(
        metrics.confusion(predictions.labels, predictions.predicted, C),
        predictions.class_names,
        predictions.label,
        predictions.class_accuracy,
    )


def cluster_counts(result: FeatureFile, split: str | None = None, run: int = 0) -> ClassCounts:
    """Count the images of each class in each cluster (C, K) of a run; see `predictions`."""
    command = last_entry(result)["command"]
    if command != "cluster":
        raise ClipkitError(
            f"{result.display_name}: expected clusters, got a result of {command}",
            "keep them with: clipkit cluster img.h5 -o clusters.h5",
        )
    split = choose_split(result, split)
    scored = scored_runs(result, split)
    check_run(scored, run)
    clusters = scored.predicted[run]
    C, K = _class_count(result, scored.labels.max()), int(clusters.max()) + 1
    if max(C, K) > MAX_CLASSES:
        raise ClipkitError(
            f"{result.display_name}: expected at most {MAX_CLASSES:,} classes and clusters to "
            f"count, got {C:,} and {K:,}"
        )
    counts = metrics.confusion(scored.labels, clusters, max(C, K))[:C, :K]
    return ClassCounts(counts, class_names(result, C - 1), f"k-means, k {K}, on {split}")


def check_run(scored: ScoredRuns, run: int | None) -> None:
    """Check the number of a run, from 0."""
    last = len(scored.predicted) - 1
    if run is not None and not 0 <= run <= last:
        expected = f"0 to {last}" if last else "0"
        raise UsageError(f"run: expected {expected} on {scored.split}, got {run}")


def _labels(file: FeatureFile, split: str) -> Int64:
    labels = file.splits[split].labels
    if labels is None:
        raise ClipkitError(f"{file.display_name}: expected labels in {split}, got none")
    return labels


def _class_count(file: FeatureFile, largest: int) -> int:
    """Return C; without class names, the classes are the numbers up to the largest."""
    return len(file.class_names) if file.class_names else int(largest) + 1


def class_names(file: FeatureFile, largest: int) -> list[str]:
    """Return the classes' names; the numbers up to the largest where the file has no names."""
    return file.class_names or [str(c) for c in range(int(largest) + 1)]


def read_groups(path: str, class_names: Sequence[str]) -> list[str]:
    """Read the group of each class (C) from lines of class TAB group; each must have one.

    The path may be the name of bundled groups, such as ``shapes-outlines``.
    """
    group_of = read_group_lines(path)
    for name in class_names:
        if not group_of.get(name):
            raise ClipkitError(
                f"{path}: expected a group for every class, got none for {name!r}",
                "write a line: class TAB group",
            )
    return [group_of[name] for name in class_names]


def read_group_lines(path: str, noun: str = "class") -> dict[str, str]:
    """Read lines of name TAB group, for names of classes or of what `noun` says."""
    group_of: dict[str, str] = {}
    data = files.read_bytes(bundled.locate(path, "groups"))
    for line in prompts.parse(data, path).texts:
        name, _, group = map(str.strip, line.partition("\t"))
        if group_of.setdefault(name, group) != group:
            raise ClipkitError(
                f"{path}: expected one group for every {noun}, got {group_of[name]!r} and "
                f"{group!r} for {name!r}"
            )
    return group_of


def group_classes(predictions: Predictions, groups: Sequence[str]) -> Predictions:
    """Replace each class (C) by its group; groups are sorted by name."""
    names = sorted(set(groups))
    number = {name: i for i, name in enumerate(names)}
    index = np.array([number[group] for group in groups])
    return replace(
        predictions,
        labels=index[predictions.labels],
        predicted=index[predictions.predicted],
        class_names=names,
        class_accuracy=metrics.accuracy(predictions.labels, predictions.predicted),
    )


def temperature_sweeps(results: Sequence[FeatureFile], split: str | None = None) -> list[Sweep]:
    """Collect accuracy and entropy against temperature, with Wilson's 95 % interval.

    Parameters
    ----------
    results : sequence of FeatureFile
        Of `probe` on logits.
    split : str, optional
        Only the runs that were scored on this split. By default those of every split with several
        runs, or all if none has: a sweep is drawn without the run that was chosen from it.

    Returns
    -------
    list of Sweep
        One per classifier, C and split of each result. Where results differ in model, data set or
        prompts, the labels begin with these. Otherwise equal labels begin with the file's name.
    """
    curves: dict[tuple[int, str, str], list[Row]] = {}  # number of the result, label, C -> runs
    for number, result in enumerate(results):
        _check_sweep(result)
        rows = _rows_of_sweeps(result) if split is None else _rows_on(result, split)
        for row in rows:
            key = (number, _sweep_label(result, row), str(row["C"]))  # as text, NaN equals NaN
            curves.setdefault(key, []).append(row)
    if len(curves) > MAX_CURVES:
        raise ClipkitError(
            f"expected at most {MAX_CURVES} curves, got {len(curves):,}",
            "choose a split with --split, or draw fewer files",
        )
    numbers = [number for number, _, _ in curves]
    labels = _tell_apart(results, numbers, [label for _, label, _ in curves])
    return [
        _sweep(results[number], label, rows)
        for number, label, rows in zip(numbers, labels, curves.values(), strict=True)
    ]


def sweep_splits(results: Sequence[FeatureFile], split: str | None = None) -> list[str]:
    """Return the splits that `temperature_sweeps` draws."""
    if split is not None:
        return [split]
    rows = itertools.chain.from_iterable(map(_rows_of_sweeps, results))
    return [*dict.fromkeys(row["eval_split"] for row in rows)]


def _rows_of_sweeps(result: FeatureFile) -> list[Row]:
    rows = result.rows()
    counts = Counter(row["eval_split"] for row in rows)
    return [row for row in rows if counts[row["eval_split"]] > 1] or rows


def _sweep_label(result: FeatureFile, row: Row) -> str:
    label = ", ".join([*_settings(row, numbers=["C"]), row["eval_split"]])
    if last_entry(result).get("features") == "probs":
        label += " (probs)"
    return label


def _tell_apart(
    results: Sequence[FeatureFile], numbers: Sequence[int], labels: Sequence[str]
) -> list[str]:
    """Prefix labels by what sets their results apart, so that no two labels are equal.

    That is the model, data set and prompts as far as they differ, else the file. Labels that
    differ, of results that do not, stay as they are. `numbers` are the results of the labels.
    """
    from clipkit.plots import Sweep  # loads matplotlib

    sources = _differing_sources(results)
    if not any(sources) and len(set(labels)) == len(labels):
        return list(labels)
    paths = [Path(result.display_name).with_suffix("") for result in results]
    candidates = [
        sources,
        [path.name for path in paths],
        ["/".join(path.parts[-2:]) for path in paths],
    ]
    for names in candidates:
        prefixed = [f"{names[i]}: {label}" for i, label in zip(numbers, labels, strict=True)]
        cut = {label[: Sweep.MAX_LABEL - 1] for label in prefixed}
        if any(names) and len(cut) == len(labels):
            return prefixed
    return [f"file {i + 1}: {label}" for i, label in zip(numbers, labels, strict=True)]


def _differing_sources(results: Sequence[FeatureFile]) -> list[str]:
    """Name the model, data set and prompts of each result, as far as the results differ in them."""
    names = []
    for file in results:
        source = provenance(file)
        names.append((source.model or "no model", source.dataset, source.prompts))
    differs = [len(set(column)) > 1 for column in zip(*names, strict=True)]
    return [", ".join(filter(None, itertools.compress(row, differs))) for row in names]


def _accuracy_on(result: FeatureFile, ids: Sequence[str]) -> float | None:
    """Return the accuracy of the first run on some images; None if no split holds all of them."""
    for split in result.splits.values():
        row_of = {row_id: row for row, row_id in enumerate(split.ids)}
        if split.labels is None or split.predicted is None or not row_of.keys() >= set(ids):
            continue
        rows = [row_of[row_id] for row_id in ids]
        return metrics.accuracy(split.labels[rows], split.predicted[0, rows])
    return None


def source_label(file: FeatureFile, split: str = "") -> str:
    """Name what a file is about: `tiny on shapes, test, prompts: generic32.txt`."""
    return sources_label([file], [split])


def sources_label(files: Sequence[FeatureFile], splits: Sequence[str] = ()) -> str:
    """Name what files are about: `tiny and untrained tiny on shapes, test, 32 prompts`.

    Each model, data set and set of prompts is named once, a missing model is `no model`, and what
    else is missing is left out.
    """
    sources = [provenance(file) for file in files]
    on_data = [_join([source.model or "no model" for source in sources])]
    datasets = _join([source.dataset for source in sources])
    if datasets:
        on_data.append(datasets)
    labels = [prompts_label(file) for file in files]
    prompts = _join([label.removeprefix(NAMED_PROMPTS) for label in labels])
    if any(label.startswith(NAMED_PROMPTS) for label in labels):
        prompts = NAMED_PROMPTS + prompts
    parts = [" on ".join(on_data), _join(splits), prompts]
    return ", ".join(part for part in parts if part)


def prompts_label(file: FeatureFile) -> str:
    """Name a file's prompts: `prompts: generic32.txt`, or `32 prompts` if it does not name them."""
    entry = last_entry(file).get("prompts")
    name = provenance(file).prompts
    if not name and isinstance(entry, str):
        name = entry[:MAX_NAME]
    if name:
        return NAMED_PROMPTS + name
    count = len(file.texts or []) or _prompt_count(entry)
    if not count:
        return ""
    return "1 prompt" if count == 1 else f"{count:,} prompts"


def _join(names: Sequence[str]) -> str:
    """Join different names: `a`, `a and b`, `a, b and c`, `a, b, c and 2 more`."""
    distinct = [name for name in dict.fromkeys(names) if name]
    if len(distinct) > 3:
        distinct[3:] = [f"{len(distinct) - 3} more"]
    if len(distinct) < 2:
        return "".join(distinct)
    return f"{', '.join(distinct[:-1])} and {distinct[-1]}"


def _check_sweep(result: FeatureFile) -> None:
    check_run_count(result)
    has_columns = set(SWEEP_COLUMNS).issubset(result.runs)
    if not has_columns or not np.isfinite(result.runs["temperature"]).all():
        raise ClipkitError(
            f"{result.display_name}: expected a sweep over temperatures, got a result of "
            f"{last_entry(result)['command']}",
            "make one with: clipkit probe logits.h5 -t 1,0.5,0.07 -o probe.h5",
        )


def _rows_on(result: FeatureFile, split: str) -> list[Row]:
    rows = result.runs_on(split)
    if not rows:
        splits = set(result.runs["eval_split"].tolist())
        raise unknown(f"split of {result.display_name}", split, splits)
    return rows


def _sweep(result: FeatureFile, label: str, rows: list[Row]) -> Sweep:
    from clipkit.plots import Sweep  # loads matplotlib

    accuracies = [row["acc1"] for row in rows]
    n = len(scored_runs(result, rows[0]["eval_split"]).labels)
    low, high = np.transpose([metrics.wilson(accuracy, n) for accuracy in accuracies])
    return Sweep(
        label,
        tau=[row["temperature"] for row in rows],
        accuracy=accuracies,
        entropy=[row["mean_entropy"] for row in rows],
        low=low,
        high=high,
    )


def comparison_panels(result: FeatureFile) -> ComparisonPanels:
    """Arrange a result of `compare` for a picture.

    Raises
    ------
    ClipkitError
        If it is a result of another command.
    """
    columns = columns_of(result, "compare", "a split rows acc_a low high")
    names = [str(columns["a"][0])]
    if "b" in result.runs:
        columns |= columns_of(result, "compare", "b acc_b difference")
        names += dict.fromkeys(name for name in columns["b"].tolist() if name)
    _check_finite(result, "rows", low=1)
    rows = result.rows()
    worst = [row for row in rows if not np.isnan(row.get("null", np.nan))]
    if worst:
        columns_of(result, "compare", "group null null5")
    rows = rows[: len(rows) - len(worst)]
    pairs = max(1, len(names) - 1)  # the rows of a group come one after the other
    if not rows or len(rows) % pairs or len(worst) not in (0, len(names)):
        raise ClipkitError(
            f"{result.display_name}: expected {pairs} rows for each group, got others"
        )
    firsts = rows[::pairs]
    accuracy = [[_with_wilson(row["acc_a"], row["rows"]) for row in firsts]]
    difference = []
    if len(names) > 1:
        for number in range(pairs):
            of_pair = rows[number::pairs]
            accuracy.append([_with_wilson(row["acc_b"], row["rows"]) for row in of_pair])
            difference.append([(row["difference"], row["low"], row["high"]) for row in of_pair])
    title = names[0]
    if len(names) > 1:
        title += f" against {', '.join(names[1:])}"
    entry = last_entry(result)
    if worst:
        title += f", by {entry.get('column', 'group')}"
    on_data = [_join(_texts_of(entry, "models")) or "no model"]
    on_data.append(provenance(result).dataset)
    facts = [" on ".join(filter(None, on_data)), rows[0]["split"]]
    facts.append(f"{int(sum(row['rows'] for row in firsts)):,} images")
    prompts = _join(_texts_of(entry, "prompts"))
    if prompts:
        facts.append(NAMED_PROMPTS + prompts)
    return ComparisonPanels(
        _with_models(names, _texts_of(entry, "models")),
        [row["group"] for row in firsts] if worst else [],
        np.array(accuracy),
        np.array(difference).reshape(-1, len(firsts), 3),
        np.array([row["null5"] for row in worst] or [np.nan] * len(names)),
        title,
        ", ".join(facts),
    )


def _texts_of(entry: Row, name: str) -> list[str]:
    """Return a list of texts of a history, where anything may be written."""
    value = entry.get(name)
    return [str(text)[:MAX_NAME] for text in value] if isinstance(value, list) else []


def _with_models(names: Sequence[str], models: Sequence[str]) -> list[str]:
    """Add the models of results to their names, if the models differ."""
    if len(models) != len(names) or len(set(models)) == 1:
        return list(names)
    return [f"{name} ({model})" for name, model in zip(names, models, strict=True)]


def _with_wilson(accuracy: float, n: float) -> tuple[float, float, float]:
    return accuracy, *metrics.wilson(accuracy, int(n))


def common_prompt_count(results: Sequence[FeatureFile]) -> int | None:
    """Return K, the number of prompts that results of `probe` share; None if they differ."""
    counts = {_prompt_count(last_entry(result).get("prompts")) for result in results}
    return counts.pop() if len(counts) == 1 else None


def _prompt_count(value: Any) -> int | None:
    """Return a count of a history, where anything may be written."""
    if not isinstance(value, int) or not 1 <= value <= MAX_PROMPTS:
        return None
    return int(value)


def accuracy_grid(result: FeatureFile, split: str | None = None) -> AccuracyGrid:
    """Arrange the accuracies of a sweep as a grid of at least two temperatures and values of C.

    Parameters
    ----------
    result : FeatureFile
        Of `probe` on logits.
    split : str, optional
        That the runs were scored on; the split with the most runs by default.
    """
    _check_sweep(result)
    if split is None:
        counts = Counter(row["eval_split"] for row in result.rows())
        split = min(counts, key=lambda name: (-counts[name], name))
    rows = _rows_on(result, split)
    classifiers = sorted({row["classifier"] for row in rows})
    if len(classifiers) > 1:
        raise ClipkitError(
            f"{result.display_name}: expected a grid of one classifier, "
            f"got {', '.join(classifiers)}"
        )
    temperatures = sorted({row["temperature"] for row in rows})
    Cs = sorted({row["C"] for row in rows if not math.isnan(row["C"])})
    cells = {(row["C"], row["temperature"]): row["acc1"] for row in rows}
    is_grid = len(rows) == len(cells) and set(cells) == set(itertools.product(Cs, temperatures))
    if not is_grid or min(len(temperatures), len(Cs)) < 2:
        raise ClipkitError(
            f"{result.display_name}: expected a grid of at least 2 temperatures x 2 C on {split}, "
            f"got {len(rows)} runs of {len(temperatures)} x {len(Cs)}",
            "make one with: clipkit probe logits.h5 -t 1,0.5,0.25 -C 1,4,16 -o grid.h5",
        )
    accuracy = np.array([[cells[C, tau] for tau in temperatures] for C in Cs])
    is_probs = last_entry(result).get("features") == "probs"
    features = "softmax(cosine / τ)" if is_probs else "cosine / τ"
    label = f"{classifiers[0]} on {features}, scored on {split}"
    return AccuracyGrid(accuracy, Cs, temperatures, label, split)


def class_means(logits: FeatureFile, split: str | None = None) -> tuple[Floats, list[str]]:
    """Return the mean cosine of each class with each prompt (C, K), and the class names (C).

    NaN stands for a class without images.
    """
    split = choose_split(logits, split)
    labels = _labels(logits, split)
    C, K = _class_count(logits, labels.max()), len(logits.texts or [])
    if C > MAX_CLASSES or C * K > MAX_MEANS:
        raise ClipkitError(
            f"{logits.display_name}: expected at most {MAX_CLASSES:,} classes and {MAX_MEANS:,} "
            f"means, got {C:,} classes x {K:,} prompts"
        )
    return similarity.class_means(logits.cosines(split), labels, C), class_names(logits, C - 1)


def cosine_lines(
    logits: FeatureFile,
    split: str | None = None,
    images: Sequence[str] = (),
    classes: Sequence[str] = (),
) -> tuple[Floats, list[str]]:
    """Select the cosines of images, and the mean cosines of classes, with each prompt.

    Parameters
    ----------
    images, classes : sequence of str
        Ids, and names; the first five classes if neither are given. If several classes have a
        name, all of them are selected.

    Returns
    -------
    cosines : array (M, K)
    labels : list of M str
    """
    split = choose_split(logits, split)
    ids = logits.splits[split].ids
    cosines = np.asarray(logits.cosines(split))
    lines, labels = [], []
    for image in images:
        if image not in ids:
            raise unknown(f"image of {split}", image, ids)
        lines.append(cosines[ids.index(image)])
        labels.append(image)
    if classes or not images:
        number_of = _labels(logits, split)
        names = class_names(logits, number_of.max())
        distinct = distinct_names(names)
        for c in _select_classes(names, classes):
            is_in_class = number_of == c
            mean = np.full(cosines.shape[1], np.nan)
            if is_in_class.any():
                mean = cosines[is_in_class].mean(axis=0, dtype=np.float64)
            lines.append(mean)
            labels.append(f"mean of {distinct[c]}")
    return np.stack(lines), labels


def choose_prompts(logits: FeatureFile, prompts: Sequence[str] = ()) -> list[int]:
    """Return the columns of prompts, given by their texts; by default all."""
    texts = logits.texts or []
    for prompt in prompts:
        if prompt not in texts:
            raise unknown(f"prompt of {logits.display_name}", prompt, texts)
    if not prompts:
        return list(range(len(texts)))
    return [texts.index(prompt) for prompt in prompts]


def _select_classes(names: Sequence[str], selected: Sequence[str]) -> list[int]:
    """Return the numbers of the classes of the selected names; by default the first five."""
    if not selected:
        return list(range(len(names)))[:5]
    numbers = []
    for name in selected:
        found = [c for c, other in enumerate(names) if other == name]
        if not found:
            raise unknown("class", name, names)
        numbers += found
    return numbers


def variance_shares(result: FeatureFile) -> dict[str, NDArray[Any]]:
    """Return the columns of a result of `variance`: shares are float, names str."""
    if "prompt" in result.runs:
        return columns_of(result, "variance", "split attribute prompt share above")
    of_controls = "control_share control_low control_high"
    return columns_of(result, "variance", f"split attribute share unique {of_controls}")


def prompts_and_attributes(result: FeatureFile) -> tuple[list[str], list[str]]:
    """Return the prompts and the attributes of a result of `variance`, a matrix row by row."""
    columns = columns_of(result, "variance", "prompt attribute")
    attributes = list(dict.fromkeys(columns["attribute"].tolist()))
    prompts = columns["prompt"].tolist()[:: len(attributes)]
    if columns["attribute"].tolist() != attributes * len(prompts):
        raise ClipkitError(
            f"{result.display_name}: expected a row for each prompt and attribute, got others"
        )
    return prompts, attributes


def attribute_recalls(result: FeatureFile) -> dict[str, NDArray[Any]]:
    """Return the columns of a result of `attributes`: `attribute` is str, all others float."""
    names = "attribute chance reach"
    for name in ("zeroshot", "random", "probe", "control"):
        names += f" {name} {name}_low {name}_high"
    return columns_of(result, "attributes", names)


def prompt_costs(result: FeatureFile) -> dict[str, NDArray[Any]]:
    """Return the columns of a result of `importance`: `name` and `split` are str, others float.

    The name is that of a prompt or of a group.
    """
    noun = "group" if "group" in result.runs else "prompt"
    columns = columns_of(result, "importance", f"{noun} split acc1 cost low high changed")
    for name in ("acc1", "cost", "low", "high"):
        _check_finite(result, name)
    columns["name"] = columns.pop(noun)
    return columns


def _check_finite(result: FeatureFile, name: str, low: float = -math.inf) -> None:
    column = result.runs[name]
    if not (np.isfinite(column) & (column >= low)).all():
        expected = "numbers" if low == -math.inf else f"numbers of at least {low:g}"
        raise ClipkitError(f"{result.display_name}: runs/{name}: expected {expected} in every row")


TEXT_COLUMNS = {"attribute", "prompt", "classifier", "split", "eval_split", "a", "b", "group"}


def columns_of(result: FeatureFile, command: str, names: str) -> dict[str, NDArray[Any]]:
    """Return the named columns of a result of a command; those of TEXT_COLUMNS are str."""
    needed = names.split()
    if not result.run_count or not set(needed) <= set(result.runs):
        raise ClipkitError(
            f"{result.display_name}: expected a result of {command}, got one of "
            f"{last_entry(result)['command']}",
            f"make one with: clipkit {command} -o FILE",
        )
    for name in needed:
        is_text = result.runs[name].dtype.kind == "U"
        if is_text != (name in TEXT_COLUMNS):
            expected = "texts" if name in TEXT_COLUMNS else "numbers"
            raise ClipkitError(
                f"{result.display_name}: runs/{name}: expected {expected}, got others"
            )
    check_run_count(result)
    return {name: result.runs[name] for name in needed}


def shot_curves(results: Sequence[FeatureFile]) -> list[ShotCurve]:
    """Collect the accuracy of few-shot probes against the labelled images per class.

    Returns
    -------
    list of ShotCurve
        One for each result, classifier, C and temperature, scored on the last split that the result
        has: the one that nothing was chosen on.
    """
    from clipkit.plots import ShotCurve  # loads matplotlib

    found: dict[tuple[int, str], dict[int, list[float]]] = {}
    for number, result in enumerate(results):
        columns = columns_of(
            result, "probe --shots", "shots classifier C temperature eval_split acc1"
        )
        _check_finite(result, "acc1")
        _check_finite(result, "shots", low=1)
        split = columns["eval_split"][-1]
        for row in result.rows():
            if row["eval_split"] == split:
                label = ", ".join([*_settings(row), f"on {split}"])
                of_label = found.setdefault((number, label), {})
                of_label.setdefault(int(row["shots"]), []).append(row["acc1"])
    numbers = [number for number, _ in found]
    labels = _tell_apart(results, numbers, [label for _, label in found])
    curves = []
    for label, of_label in zip(labels, found.values(), strict=True):
        shots = sorted(of_label)
        accuracies = [of_label[n] for n in shots]
        means = [float(np.mean(draws)) for draws in accuracies]
        curves.append(
            ShotCurve(label, shots, means, [*map(min, accuracies)], [*map(max, accuracies)])
        )
    return curves


def zeroshot_line(zeroshot: FeatureFile, probe: FeatureFile, curve: ShotCurve) -> tuple[float, str]:
    """Return the accuracy of zero-shot classification, and what it is worth in labelled images.

    That is where the curve crosses it, on a logarithmic scale of images.

    Raises
    ------
    ClipkitError
        If it is no result of `zeroshot`, or of other images than the probe's.
    """
    scored = probe.splits.get(str(probe.runs["eval_split"][-1]))
    accuracy = _accuracy_on(zeroshot, scored.ids) if scored else None
    if accuracy is None:
        raise ClipkitError(
            f"{zeroshot.display_name}: expected zero-shot predictions of the images of "
            f"{probe.display_name}, got others"
        )
    shots, means = np.asarray(curve.shots, np.float64), np.asarray(curve.mean)
    above = np.flatnonzero(means >= accuracy)
    if not len(above):
        worth = f"more than {shots[-1]:g} labelled images per class"
    elif above[0] == 0:
        worth = f"at most {shots[0]:g} labelled images per class"
    else:
        last = above[0]
        part = (accuracy - means[last - 1]) / (means[last] - means[last - 1])
        crossing = shots[last - 1] * (shots[last] / shots[last - 1]) ** part
        worth = f"{crossing:.1f} labelled images per class"
    return accuracy, f"zero-shot, {100 * accuracy:.1f} %: worth {worth}"


class Nearest(NamedTuple):
    """The rows with the highest and with the lowest cosine with a prompt, and those cosines.

    Both are (2, M): the highest M and the lowest M, each by falling cosine.
    """

    name: str
    rows: Int64
    cosines: Floats


def nearest_images(
    logits: FeatureFile,
    split: str,
    prompts: Sequence[str] = (),
    classes: Sequence[str] = (),
    count: int = 4,
) -> list[Nearest]:
    """Find the images with the highest and the lowest cosine with prompts.

    Parameters
    ----------
    logits : FeatureFile
        Of kind logits.
    split : str
    prompts, classes : sequence of str
        Prompts by their text, and classes by their name (the highest cosine among their prompts);
        by default the first four prompts.
    count : int
        M, at most as many as there are images.
    """
    texts = logits.texts or []
    names = logits.class_names or []
    cosines = np.asarray(logits.cosines(split))
    columns: list[tuple[str, Any]] = []
    if prompts or not classes:
        chosen = choose_prompts(logits, prompts or texts[:4])
        columns += [(texts[column], cosines[:, column]) for column in chosen]
    for name in classes:
        of_class = np.asarray(logits.class_index) == (names.index(name) if name in names else -2)
        if not of_class.any():
            raise unknown(f"class with prompts of {logits.display_name}", name, names)
        columns.append((name, cosines[:, of_class].max(axis=1)))
    found = []
    for name, column in columns:
        order = np.argsort(-column, kind="stable")
        M = min(count, len(order))
        rows = np.stack([order[:M], order[len(order) - M :]])
        found.append(Nearest(name, rows, column[rows]))
    return found


def prompt_spectra(texts: Sequence[FeatureFile]) -> dict[str, Floats]:
    """Compute the singular values of prompt sets, each named after its file, and its size.

    If the models differ, they stand in front. No file may be given twice.
    """
    paths = [file.display_name for file in texts]
    if len(set(paths)) < len(paths):
        names = [Path(path).stem for path in paths]
        raise UsageError(f"expected files with different names, got {', '.join(names)}")
    labels = [f"{Path(file.display_name).stem} ({len(file.features)})" for file in texts]
    models = [provenance(file).model or "no model" for file in texts]
    if len(set(models)) > 1:
        labels = [f"{model}: {label}" for model, label in zip(models, labels, strict=True)]
    if len(set(labels)) < len(labels):
        labels = _tell_apart(texts, range(len(texts)), labels)
    values = [similarity.singular_values(file.features) for file in texts]
    return dict(zip(labels, values, strict=True))
