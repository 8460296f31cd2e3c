"""Arrange what results and logits hold as curves, grids and means for pictures.

Functions raise `UsageError` for a split, image or class that does not exist, and `ClipkitError` for
a file that does not hold what they need.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipkit import metrics, similarity
from clipkit.errors import ClipkitError, UsageError, unknown
from clipkit.features import FeatureFile, Int64
from clipkit.features.provenance import provenance
from clipkit.results import (
    MAX_CLASSES,
    MAX_NAME,
    NAMED_PROMPTS,
    Row,
    check_finite,
    check_run_count,
    choose_split,
    class_count,
    class_names,
    columns_of,
    join_names,
    labels_of,
    last_entry,
    prompt_count,
    run_settings,
    scored_runs,
    source_label,
)
from clipkit.tables import distinct_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from clipkit.plots import ShotCurve, Sweep

Floats = NDArray[np.float64]

MAX_MEANS = 1 << 24  # of classes x prompts: 128 MiB
MAX_CURVES = 100
SWEEP_COLUMNS = ("classifier", "C", "temperature", "eval_split", "acc1", "mean_entropy")


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
    return list(map(_sweep, [results[number] for number in numbers], labels, curves.values()))


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
    label = ", ".join([*run_settings(row, numbers=["C"]), row["eval_split"]])
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
    sources = [provenance(file) for file in results]
    sources = [source._replace(model=source.model or "no model") for source in sources]
    differs = [len(set(names)) > 1 for names in zip(*sources, strict=True)]
    return [", ".join(filter(None, itertools.compress(source, differs))) for source in sources]


def _accuracy_on(result: FeatureFile, ids: Sequence[str]) -> float | None:
    """Return the accuracy of the first run on some images; None if no split holds all of them."""
    for split in result.splits.values():
        row_of = {row_id: row for row, row_id in enumerate(split.ids)}
        if split.labels is None or split.predicted is None or not row_of.keys() >= set(ids):
            continue
        rows = [row_of[row_id] for row_id in ids]
        return metrics.accuracy(split.labels[rows], split.predicted[0, rows])
    return None


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
    check_finite(result, "rows", low=1)
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
    accuracy = [_accuracies(firsts, "acc_a")]
    difference = []
    label = names[0]
    if len(names) > 1:
        label += f" against {', '.join(names[1:])}"
        for number in range(pairs):
            of_pair = rows[number::pairs]
            accuracy.append(_accuracies(of_pair, "acc_b"))
            difference.append([(row["difference"], row["low"], row["high"]) for row in of_pair])
    entry = last_entry(result)
    groups: list[str] = []
    null5 = [np.nan] * len(names)
    if worst:
        label += f", by {entry.get('column', 'group')}"
        groups = [row["group"] for row in firsts]
        null5 = [row["null5"] for row in worst]
    models = _texts_of(entry, "models")
    on_data = [join_names(models) or "no model", provenance(result).dataset]
    facts = [" on ".join(filter(None, on_data)), rows[0]["split"]]
    facts.append(f"{int(sum(row['rows'] for row in firsts)):,} images")
    prompts = join_names(_texts_of(entry, "prompts"))
    if prompts:
        facts.append(NAMED_PROMPTS + prompts)
    return ComparisonPanels(
        _with_models(names, models),
        groups,
        np.array(accuracy),
        np.array(difference).reshape(-1, len(firsts), 3),
        np.array(null5),
        label,
        ", ".join(facts),
    )


def _texts_of(entry: Row, name: str) -> list[str]:
    """Return a list of texts of a history, where anything may be written."""
    value = entry.get(name)
    if not isinstance(value, list):
        return []
    return [str(text)[:MAX_NAME] for text in value]


def _with_models(names: Sequence[str], models: Sequence[str]) -> list[str]:
    """Add the models of results to their names, if the models differ."""
    if len(models) != len(names) or len(set(models)) == 1:
        return list(names)
    return [f"{name} ({model})" for name, model in zip(names, models, strict=True)]


def _accuracies(rows: Sequence[Row], column: str) -> list[tuple[float, float, float]]:
    """Return the accuracies of rows with the ends of Wilson's 95 % interval."""
    return [(row[column], *metrics.wilson(row[column], int(row["rows"]))) for row in rows]


def common_prompt_count(results: Sequence[FeatureFile]) -> int | None:
    """Return K, the number of prompts that results of `probe` share; None if they differ."""
    counts = {prompt_count(last_entry(result).get("prompts")) for result in results}
    return counts.pop() if len(counts) == 1 else None


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
    labels = labels_of(logits, split)
    C, K = class_count(logits, int(labels.max())), len(logits.texts or [])
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
        number_of = labels_of(logits, split)
        names = class_names(logits, int(number_of.max()))
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
        of_name = [c for c, other in enumerate(names) if other == name]
        if not of_name:
            raise unknown("class", name, names)
        numbers += of_name
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


def draw_attributes(result: FeatureFile, title: str | None = None) -> tuple[Figure, str]:
    """Draw a result of `attributes`; return the figure and what it is of, for a subtitle."""
    from clipkit import plots  # loads matplotlib

    columns = attribute_recalls(result)
    legend = {
        "zeroshot": "zero-shot, by words",
        "probe": "probe",
        "random": "random directions",
        "control": "untrained control",
    }
    series = {
        label: plots.Dots(columns[name], columns[f"{name}_low"], columns[f"{name}_high"])
        for name, label in legend.items()
    }
    figure = plots.attributes(
        columns["attribute"].tolist(),
        columns["chance"],
        series,
        columns["reach"],
        title=title or "Recall of each attribute",
    )
    return figure, source_label(result, str(last_entry(result).get("eval_split")))


def prompt_costs(result: FeatureFile) -> dict[str, NDArray[Any]]:
    """Return the columns of a result of `importance`: `name` and `split` are str, others float.

    The name is that of a prompt or of a group.
    """
    noun = "group" if "group" in result.runs else "prompt"
    columns = columns_of(result, "importance", f"{noun} split acc1 cost low high changed")
    for name in ("acc1", "cost", "low", "high"):
        check_finite(result, name)
    columns["name"] = columns.pop(noun)
    return columns


def shot_curves(results: Sequence[FeatureFile]) -> list[ShotCurve]:
    """Collect the accuracy of few-shot probes against the labelled images per class.

    Returns
    -------
    list of ShotCurve
        One for each result, classifier, C and temperature, scored on the last split that the result
        has: the one that nothing was chosen on.
    """
    from clipkit.plots import ShotCurve  # loads matplotlib

    draws: dict[tuple[int, str], dict[int, list[float]]] = {}  # of (result, label): by shots
    for number, result in enumerate(results):
        columns_of(result, "probe --shots", "shots classifier C temperature eval_split acc1")
        check_finite(result, "acc1")
        check_finite(result, "shots", low=1)
        split = result.runs["eval_split"][-1]
        for row in result.runs_on(split):
            label = ", ".join([*run_settings(row), f"on {split}"])
            of_label = draws.setdefault((number, label), {})
            of_label.setdefault(int(row["shots"]), []).append(row["acc1"])
    numbers = [number for number, _ in draws]
    labels = _tell_apart(results, numbers, [label for _, label in draws])
    curves = []
    for label, of_label in zip(labels, draws.values(), strict=True):
        shots, accuracies = zip(*sorted(of_label.items()), strict=True)
        means = [float(np.mean(of_shots)) for of_shots in accuracies]
        lowest, highest = list(map(min, accuracies)), list(map(max, accuracies))
        curves.append(ShotCurve(label, list(shots), means, lowest, highest))
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
    return [nearest_rows(name, column, count) for name, column in columns]


def nearest_rows(name: str, cosines: Floats, count: int) -> Nearest:
    """Return the rows with the highest and the lowest of some cosines (N), at most `count` each."""
    order = np.argsort(-cosines, kind="stable")
    M = min(count, len(order))
    rows = np.stack([order[:M], order[len(order) - M :]])
    return Nearest(name, rows, cosines[rows])


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
