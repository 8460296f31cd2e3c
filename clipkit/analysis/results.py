"""Read what results hold: runs, predictions, counts per class, columns and where they come from.

Functions raise `UsageError` for a split or run that does not exist, and
`ClipkitError` for a file that does not hold what they need.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipkit.base import console, files
from clipkit.base.errors import ClipkitError, UsageError, shorten
from clipkit.base.matrices import Int64
from clipkit.base.names import differing, distinct_labels, distinct_names
from clipkit.features.arrays import missing_labels
from clipkit.features.columns import SETTINGS, TEXT, columns_of_command
from clipkit.features.history import Entry, History, as_object
from clipkit.features.matching import choose_split
from clipkit.features.model import FeatureFile
from clipkit.features.provenance import provenance
from clipkit.features.validation import MAX_COUNTED
from clipkit.prompts import bundled
from clipkit.prompts import texts as prompts
from clipkit.statistics import main_number, metrics
from clipkit.statistics.main_number import RECALL_CHANCE, RECALL_COLUMN, MainNumber

Row = dict[str, Any]
Caveat = dict[str, Any]  # an object of a history that limits what an accuracy says

MAX_RUNS = 10_000  # of a result that is drawn or reported
MAX_ROWS = 1 << 20  # of runs and classes
RUN_SETTINGS = {*SETTINGS, "fit_split", "eval_split", "split"}  # columns that distinguish runs
RECALLS = (RECALL_COLUMN, f"{RECALL_COLUMN}_low", f"{RECALL_COLUMN}_high", RECALL_CHANCE)
FEW_ROWS = 5  # of a value
FEW_SCORED = f"a value has fewer than {FEW_ROWS} scored images, which say little"
FEW = 0.01  # of a split's images may have a caveat, and its accuracy is still tested
MAX_LABEL = 48  # characters of a curve's label
NAMED_PROMPTS = "prompts: "
NONE = "none of these"  # the class of images without an answer


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
    result's. Images with the same number in `clusters` (N) depend on each other. For groups of
    classes, `class_accuracy` is the accuracy by class, and `kept_by_chance` the share of errors
    that would keep the group by chance. `run` is the number of the run in the result, or -1.
    """

    ids: list[str]
    labels: Int64
    predicted: Int64
    class_names: list[str]
    label: str
    display_name: str
    class_accuracy: float | None = None
    kept_by_chance: float = math.nan
    clusters: Int64 | None = None
    run: int = -1

    @property
    def right(self) -> NDArray[np.bool_]:
        """Which images (N) are right."""
        return np.asarray(self.predicted == self.labels)

    @property
    def independent(self) -> float:
        """How many independent images tell as much as one of these; see `effective_share`."""
        return metrics.effective_share(self.right, self.clusters)


@dataclass(frozen=True)
class ClassCounts:
    """Images of each class (row) in each predicted class or cluster (column) of a run.

    `counts` is (C, K) int64; see `Predictions` for the others.
    """

    counts: Int64
    class_names: list[str]
    label: str
    class_accuracy: float | None = None


def make_result(history: History, rows: Sequence[Row], **content: Any) -> FeatureFile:
    """Return a result with one run per row, and other content as `FeatureFile` takes it."""
    result = FeatureFile("result", history, **content)
    result.set_rows(rows)
    return result


def as_result(probe: FeatureFile) -> FeatureFile:
    """Return the runs and predictions of a probe, also in its history, without what was fitted."""
    history = History(probe.history)
    if history:
        history[-1].pop("kept", None)
    return replace(probe.as_result(), history=history)


def column(rows: Iterable[Row], name: str) -> list[Any]:
    """Return what rows hold under a name."""
    return [row[name] for row in rows]


def newest_entry(result: FeatureFile) -> Entry:
    """Return the history's entry about the command that made a result."""
    return result.history[-1] if result.history else Entry(command="an unknown command")


def is_retrieval(result: FeatureFile) -> bool:
    """Whether the predictions are images that were retrieved, and not classes."""
    return bool(newest_entry(result)["command"] == "retrieve")


def holds_classes(result: FeatureFile) -> bool:
    """Whether a result has predicted classes, and not clusters, images, texts or ranks."""
    others = ("cluster", "retrieve", "choose", "attributes")
    return bool(result.splits) and newest_entry(result)["command"] not in others


def find_caveats(
    kind: str, split: str, count: int, rows: int, attributes: Sequence[str] = ()
) -> list[Caveat]:
    """Warn that some of a split's scored rows were `fitted` or `chosen` with; [] if none were.

    The kind `known` counts unknown images that are known ones, too. The kind `few` counts
    attributes instead: the named ones have a value with few scored rows.
    """
    if not count:
        return []
    caveat = {"kind": kind, "split": split, "count": count, "rows": rows}
    if attributes:
        caveat["attributes"] = list(attributes)
    console.warn(describe_caveat(caveat))
    return [caveat]


def describe_caveat(caveat: Caveat) -> str:
    """State in a sentence, without a full stop, what an accuracy does not show."""
    if caveat["kind"] == "few":
        names = join_names([shorten(name) for name in caveat["attributes"]])
        return f"{names}: {FEW_SCORED}"
    split, count, rows = caveat["split"], caveat["count"], caveat["rows"]
    if caveat["kind"] == "known":
        return f"{count:,} of {rows:,} unknown images are also known: they are no unknown images"
    were = f"{count:,} of {rows:,} images of {split} were also"
    if "result" in caveat:
        were = f"{caveat['result']}: {were}"
    if caveat["kind"] == "chosen":
        return f"{were} used to choose: the accuracy on them is optimistic"
    return f"{were} fitted: the accuracy on them says nothing about other images"


def caveats(result: FeatureFile, split: str | None = None) -> list[Caveat]:
    """Return the caveats of a result's accuracies on a split, or on all: see docs/format.md."""
    for entry in reversed(result.history):
        if isinstance(entry.get("caveats"), list):
            known = filter(_is_caveat, entry["caveats"])
            return [caveat for caveat in known if split in (None, caveat["split"])]
    return []


def _is_caveat(value: Any) -> bool:
    """Return whether an object of a history, in which anything may be written, is a caveat."""
    types = {"kind": str, "split": str, "count": int, "rows": int}
    caveat = as_object(value)
    if caveat.get("kind") == "few":
        types["attributes"] = list
    return all(isinstance(caveat.get(name), kind) for name, kind in types.items())


def caveat_note(result: FeatureFile, split: str | None = None) -> str:
    """State what the accuracies of a result do not show, on a split or all; "" without caveats."""
    notes = [f"{describe_caveat(caveat)}." for caveat in caveats(result, split)]
    return " ".join(filter(None, [*notes, cluster_note(result)]))


def cluster_note(result: FeatureFile) -> str:
    """Say which images the intervals of a result count together; "" for none."""
    entry = newest_entry(result)
    if "cluster" not in entry:
        return ""
    shared = shorten(f"Images with the same {entry['cluster']}")
    if any(split.cluster is not None for split in result.splits.values()):
        return f"{shared} are counted together."
    return (
        f"{shared} are counted together by {entry.command}, and one by one by other commands "
        "without --cluster."
    )


def caveat_notes(named: Mapping[str, FeatureFile], split: str | None = None) -> list[str]:
    """Return the notes of results with caveats, behind their names."""
    notes = []
    for name, result in named.items():
        note = caveat_note(result, split)
        if note:
            notes.append(f"{name}: {note}")
    return notes


def is_testable(caveats: Iterable[Caveat]) -> bool:
    """Return True if few images of the split have a caveat, so that a test means something."""
    for caveat in caveats:
        if caveat["kind"] != "few" and caveat["count"] > FEW * caveat["rows"]:
            return False
    return True


def untestable(result: FeatureFile, split: str) -> str:
    """Say why the accuracy of a result on a split is not tested; "" if it is."""
    if is_testable(caveats(result, split)):
        return ""
    return caveat_note(result, split)


def scored_runs(result: FeatureFile, split: str) -> ScoredRuns:
    """Return the runs scored on a split, with a row of predictions for each."""
    if split not in result.splits:
        raise ClipkitError(f"{result.display_name}: expected predictions of {split}, got none")
    scored = result.splits[split]
    labels = labels_of(result, split)
    assert scored.predicted is not None  # a result's split without predictions is invalid
    check_run_count(result)
    rows = result.rows()
    if any(result.split_of_runs):
        rows = result.runs_on(split)
    elif not result.runs:
        rows = [{} for _ in scored.predicted]
    if result.holds_choices:
        rows = rows[:1]  # the first is about all items, the others about their categories
    if len(rows) != len(scored.predicted):
        raise ClipkitError(
            f"{result.display_name}: expected a row of predictions for each of {len(rows)} runs "
            f"on {split}, got {len(scored.predicted)}"
        )
    return ScoredRuns(split, rows, scored.ids, labels, scored.predicted)


def check_run_count(result: FeatureFile) -> None:
    """Refuse a result with more runs than a picture can show."""
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


def run_settings(row: Row, numbers: Sequence[str] = ("C", "temperature")) -> list[str]:
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
    """Return the true and the predicted classes of a run of `probe` or `zeroshot`.

    `run` counts from 0 among the runs on the split (see `matching.choose_split`); by default it is
    the most accurate.
    """
    check_predicted_classes(result)
    _, split = choose_split(result, split)
    scored = scored_runs(result, split)
    check_run(scored, run)
    chosen = ""
    if run is None:
        of_runs = main_number.values_of(scored.labels, scored.predicted == scored.labels)
        run = int(of_runs.argmax())  # of equals, the first
        if len(scored.rows) > 1:
            chosen = f", the most accurate of {len(scored.rows):,} runs"
    predicted = scored.predicted[run]
    number = next(iter(result.numbers_on(split)[run:]), -1)
    names = class_names(result, max(scored.labels.max(), predicted.max()))
    label = run_label(result, scored, run) + chosen
    return Predictions(
        scored.ids,
        scored.labels,
        predicted,
        names,
        label,
        result.display_name,
        clusters=result.splits[split].cluster,
        run=number,
    )


def check_predicted_classes(result: FeatureFile) -> None:
    """Refuse a result that does not hold predicted classes."""
    command = newest_entry(result)["command"]
    if not result.splits or command in ("cluster", "attributes"):
        raise ClipkitError(
            f"{result.display_name}: expected predicted classes, got a result of {command}",
            "keep them with: clipkit probe -o, or clipkit zeroshot -o",
        )


def has_several_shots(result: FeatureFile) -> bool:
    """Whether runs differ in their number of labelled images, so that they are a curve."""
    shots = np.asarray(result.runs.get("shots", []))
    return shots.dtype.kind in "if" and len(np.unique(shots[np.isfinite(shots)])) > 1


def run_label(result: FeatureFile, scored: ScoredRuns, run: int) -> str:
    """Name a run by its settings: `probe, svm, C 1, temperature 0.07, on test`."""
    command = newest_entry(result)["command"]
    row = scored.rows[run]
    settings = run_settings(row, ("C", "temperature", "k", "shots", "draw"))
    if "recall" in row:
        settings = [f"recall@{row['k']:g}"]
    return ", ".join([command, *settings, f"on {scored.split}"])


def count(predictions: Predictions) -> ClassCounts:
    """Count true against predicted classes (C, C) of at most 5,000 classes."""
    C = len(predictions.class_names)
    if C > MAX_COUNTED:
        raise ClipkitError(
            f"{predictions.display_name}: expected at most {MAX_COUNTED:,} classes to count, "
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
    command = newest_entry(result)["command"]
    if command != "cluster":
        raise ClipkitError(
            f"{result.display_name}: expected clusters, got a result of {command}",
            "keep them with: clipkit cluster img.h5 -o clusters.h5",
        )
    _, split = choose_split(result, split)
    scored = scored_runs(result, split)
    check_run(scored, run)
    clusters = scored.predicted[run]
    C, K = class_count(result, int(scored.labels.max())), int(clusters.max()) + 1
    if max(C, K) > MAX_COUNTED:
        raise ClipkitError(
            f"{result.display_name}: expected at most {MAX_COUNTED:,} classes and clusters to "
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


def labels_of(file: FeatureFile, split: str) -> Int64:
    """Return the labels (N,) of a split, which must have some."""
    labels = file.splits[split].labels
    if labels is None:
        raise missing_labels(file, f"expected labels in {split}, got none")
    return labels


def majority(labels: Int64 | None) -> float:
    """Return the share of the most frequent class among labels (N,); NaN without labels."""
    if labels is None or not len(labels):
        return math.nan
    return float(np.bincount(labels).max() / len(labels))


def chance(labels: Int64, predicted: Int64) -> float:
    """Return the mean accuracy of predictions (N,) if they are permuted over the rows.

    That is the sum over classes of the share of the labels times that of the predictions. For
    classes of one size it is 1 / C, whatever is predicted, and never above `majority`.

    >>> chance(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]))
    0.5
    """
    size = 1 + int(max(labels.max(initial=0), predicted.max(initial=0)))
    of_labels = np.bincount(labels[labels >= 0], minlength=size)
    of_predictions = np.bincount(predicted[predicted >= 0], minlength=size)
    # Counts are multiplied as integers, so that equal classes give the same float for all runs
    return float(of_labels @ of_predictions / (len(labels) * len(predicted)))


def chances_of_runs(result: FeatureFile) -> list[float]:
    """Return `chance` of each run; NaN without labels or predicted classes."""
    chances = [math.nan] * result.run_count
    for name, split in result.splits.items():
        if split.labels is None or split.predicted is None or not len(split.labels):
            continue
        for run, predicted in zip(result.numbers_on(name), split.predicted, strict=False):
            chances[run] = chance(split.labels, predicted)
    return chances


def recalls_of_runs(result: FeatureFile, *, of_equal: bool = False) -> list[Row]:
    """Return the numbers by which unequal classes are judged, for each run; nothing of equal ones.

    These are `mean_per_class_recall` with its interval, `recall_chance` (1 / K) and `majority`; see
    `main_number`. `of_equal` also returns them for equal classes.
    """
    found: list[Row] = [{} for _ in range(result.run_count)]
    for name, split in result.splits.items():
        labels = split.labels
        if labels is None or split.predicted is None or not len(labels):
            continue
        if not (of_equal or main_number.is_unequal(labels)):
            continue
        for run, predicted in zip(result.numbers_on(name), split.predicted, strict=False):
            recall = main_number.mean_recall(labels, predicted == labels, split.cluster)
            numbers = dict(zip(RECALLS, recall, strict=True))
            found[run] = numbers | {main_number.MAJORITY: majority(labels)}
    return found


def main_numbers(result: FeatureFile, split: str) -> tuple[str, list[MainNumber]]:
    """Return the main number of each run on a split, and what it is called.

    It is the accuracy with Wilson's interval and `chance` or, of unequal classes, the mean recall;
    see `main_number`.
    """
    scored, clusters = scored_runs(result, split), result.splits[split].cluster
    labels, numbers = scored.labels, []
    if main_number.is_unequal(labels):
        for predicted in scored.predicted:
            numbers.append(main_number.mean_recall(labels, predicted == labels, clusters))
        return main_number.MEAN_RECALL, numbers
    for predicted in scored.predicted:
        value, low, high = metrics.share("acc1", predicted == labels, clusters).values()
        numbers.append(MainNumber(value, low, high, chance(labels, predicted)))
    return main_number.ACCURACY, numbers


def name_of_numbers(scored: Iterable[tuple[FeatureFile, str]]) -> str:
    """Return what the main numbers of results on splits are: accuracies, mean recalls, or both."""
    names = {main_number.name_of(scored_runs(file, split).labels) for file, split in scored}
    return " or ".join(sorted(names))


def class_count(file: FeatureFile, largest: int) -> int:
    """Return C; without class names, the classes are the numbers up to the largest."""
    return len(file.class_names) if file.class_names else int(largest) + 1


def class_names(file: FeatureFile, largest: int) -> list[str]:
    """Return the classes' names; the numbers up to the largest where the file has no names."""
    return file.class_names or list(map(str, range(int(largest) + 1)))


def read_groups(path: str, class_names: Sequence[str]) -> list[str]:
    """Read the group of each class (C) from lines of class TAB group; each must have one.

    Images without an answer are a group by default. The path may be the name of bundled groups,
    such as ``shapes-outlines``.
    """
    group_of = {NONE: NONE} | read_group_lines(path)
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
    names, index = np.unique(groups, return_inverse=True)
    return replace(
        predictions,
        labels=index[predictions.labels],
        predicted=index[predictions.predicted],
        class_names=names.tolist(),
        class_accuracy=metrics.accuracy(predictions.labels, predictions.predicted),
        kept_by_chance=metrics.kept_by_chance(predictions.labels, predictions.predicted, index),
    )


def source_label(file: FeatureFile, split: str = "") -> str:
    """Name what a file is about: `tiny on shapes, test, prompts: generic32.txt`."""
    return sources_label([file], [split])


def labels_suffix(file: FeatureFile) -> str:
    """Return how a heading names labels that `relabel` made: `; labels: colour, shuffled`."""
    label = ""
    for entry in file.history:
        if entry["command"] != "relabel":
            continue
        if "column" in entry:
            label = shorten(entry["column"])
        label = label or "classes"
        shuffled = ", shuffled"
        if "groups" in entry.inputs:
            label, shuffled = f"groups of {label}", ", dealt at random"
        if entry.get("shuffle"):
            label += shuffled
    if not label:
        return ""
    return f"; labels: {label}"


def name_curves(files: Sequence[FeatureFile], curves: Sequence[tuple[int, str]]) -> list[str]:
    """Return the labels of curves, given with the numbers of their files, so that no two are equal.

    If the files differ in model, data set or prompts, these stand in front. Otherwise equal labels
    get the file's name, with its folder if need be.
    """
    parts = []
    stems = []
    with_folders = []
    for file in files:
        source = provenance(file)
        parts.append(source._replace(model=source.model or "no model")._asdict())
        path = Path(file.display_name).with_suffix("")
        stems.append(path.name)
        with_folders.append("/".join(path.parts[-2:]))
    sources = [", ".join(filter(None, part.values())) for part in differing(parts)]
    labels = [label for _, label in curves]
    if not any(sources) and len(set(labels)) == len(labels):
        return labels
    return distinct_labels(curves, (sources, stems, with_folders), MAX_LABEL - 1)


def sources_label(files: Sequence[FeatureFile], splits: Sequence[str] = ()) -> str:
    """Name what files are about: `tiny and untrained tiny on shapes, test, 32 prompts`.

    Each model, data set and set of prompts is named once, a missing model is `no model`, and what
    else is missing is left out. The caveats of results on the splits follow: see `caveat_note`.
    """
    sources = list(map(provenance, files))
    models = join_names([source.model or "no model" for source in sources])
    datasets = join_names([source.dataset for source in sources])
    labels = list(map(prompts_label, files))
    prompts = join_names([label.removeprefix(NAMED_PROMPTS) for label in labels])
    if any(label.startswith(NAMED_PROMPTS) for label in labels):
        prompts = NAMED_PROMPTS + prompts
    on_data = " on ".join(filter(None, [models, datasets]))
    label = ", ".join(filter(None, [on_data, join_names(splits), prompts]))
    notes: dict[str, None] = {}
    for file, split in itertools.product(files, filter(None, splits)):
        notes[caveat_note(file, split)] = None
    return ". ".join([label, *filter(None, notes)])


def prompts_label(file: FeatureFile) -> str:
    """Name a file's prompts: `prompts: generic32.txt`, or `32 prompts` if it does not name them."""
    entry = newest_entry(file).get("prompts")
    name = provenance(file).prompts
    if not name and isinstance(entry, str):
        name = shorten(entry)
    if name:
        return NAMED_PROMPTS + name
    count = len(file.texts or []) or prompt_count(entry)
    if not count:
        return ""
    return console.count(count, "prompt")


def join_names(names: Sequence[str]) -> str:
    """Join different names: `a`, `a and b`, `a, b and c`, `a, b, c and 2 more`."""
    distinct = [name for name in dict.fromkeys(names) if name]
    if len(distinct) > 3:
        distinct[3:] = [f"{len(distinct) - 3} more"]
    if len(distinct) < 2:
        return "".join(distinct)
    return f"{', '.join(distinct[:-1])} and {distinct[-1]}"


def prompt_count(value: Any) -> int | None:
    """Return a count from a history, in which anything may be written."""
    if not isinstance(value, int) or not 1 <= value <= prompts.MAX_PROMPTS:
        return None
    return int(value)


def check_finite(result: FeatureFile, name: str, low: float = -math.inf) -> None:
    """Check that a column of a result has numbers in every row, of at least `low`."""
    column = result.runs[name]
    if not (np.isfinite(column) & (column >= low)).all():
        expected = "numbers" if low == -math.inf else f"numbers of at least {low:g}"
        raise ClipkitError(f"{result.display_name}: runs/{name}: expected {expected} in every row")


def columns_of(result: FeatureFile, command: str, names: str) -> dict[str, NDArray[Any]]:
    """Return the named columns of a result of a command; those of texts hold str."""
    needed = names.split()
    if not result.run_count or not set(needed) <= set(result.runs):
        raise ClipkitError(
            f"{result.display_name}: expected a result of {command}, got one of "
            f"{newest_entry(result)['command']}",
            f"make one with: clipkit {command} -o FILE",
        )
    known = columns_of_command(command)
    columns = {}
    for name in needed:
        columns[name] = result.runs[name]
        is_text = known[name].unit is TEXT
        if is_text != (columns[name].dtype.kind == "U"):
            expected = "texts" if is_text else "numbers"
            raise ClipkitError(
                f"{result.display_name}: runs/{name}: expected {expected}, got others"
            )
    check_run_count(result)
    return columns


def attribute_recalls(result: FeatureFile) -> dict[str, NDArray[Any]]:
    """Return the columns of a result of `attributes`: `attribute` is str, all others float."""
    names = "attribute chance reach other_words other_words95"
    for name in ("zeroshot", "probe", "random", "control"):
        names += f" {name} {name}_low {name}_high"
    if "null5" in result.runs:
        what = "expected shares, got errors in the unit of each column"
        raise ClipkitError(f"{result.display_name}: {what}", "measure with --metric r2")
    return columns_of(result, "attributes", names)


def per_class_rows(result: FeatureFile) -> list[dict[str, Any]]:
    """Return precision, recall and F1 of each class in each run of a result.

    There is a row per run and class: the settings of the run, `class`, `precision`, `recall`, `f1`
    and `support`, the number of images of the class. As in scikit-learn with `zero_division=0`, a
    ratio is 0 if it has no images. Images without an answer have no row. Splits without labels are
    left out. A number distinguishes classes of one name. Without class names, only the classes that
    occur are listed.
    """
    check_predicted_classes(result)
    labelled = [name for name, split in result.splits.items() if split.labels is not None]
    rows: list[dict[str, Any]] = []
    for name in labelled or result.splits:  # without any labels, `scored_runs` says so
        scored = scored_runs(result, name)
        names = _numbered_names(result, scored)
        if len(rows) + len(names) * len(scored.rows) > MAX_ROWS:
            raise ClipkitError(
                f"{result.display_name}: expected at most {MAX_ROWS:,} rows of runs and classes, "
                f"got {len(names):,} classes in {len(scored.rows):,} runs",
                "use fewer temperatures, values of C or draws",
            )
        for run, predicted in zip(scored.rows, scored.predicted, strict=True):
            settings = {key: value for key, value in run.items() if key in RUN_SETTINGS}
            if "eval_split" not in settings:
                settings["split"] = name
            scores = metrics.class_scores(scored.labels, predicted, max(names) + 1)
            for number, class_name in names.items():
                values = {key: ratios[number].item() for key, ratios in scores.items()}
                if class_name != NONE or values["support"]:  # unless it is the label of images
                    rows.append({**settings, "class": class_name, **values})
    return rows


def _numbered_names(result: FeatureFile, scored: ScoredRuns) -> dict[int, str]:
    """Return the name of each class by its number."""
    if result.class_names:
        return dict(enumerate(distinct_names(result.class_names)))
    present = np.union1d(scored.labels, scored.predicted)
    return {number: str(number) for number in present.tolist()}
