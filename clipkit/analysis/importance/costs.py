"""Measure which prompts a kept probe relies on: the cost of permuting a prompt, and its weights.

Permutation importance (Breiman 2001) gives each image another image's cosine with one prompt, and
measures the accuracy that is lost. It says what this probe uses, not what a prompt could do: if two
prompts have equal cosines, either can replace the other, so permuting one of them may cost nothing.
Groups of prompts are permuted together, which shows what they contribute together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clipkit.analysis.predict import prediction
from clipkit.analysis.relabeling import groups_digest
from clipkit.analysis.results import Row, labels_of, make_result, read_group_lines
from clipkit.analysis.row_clusters import own_clusters
from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError, shorten
from clipkit.base.matrices import Int64
from clipkit.base.names import class_name
from clipkit.features.arguments import Features, as_file, checked
from clipkit.features.matching import choose_split
from clipkit.features.model import FeatureFile
from clipkit.features.provenance import shots
from clipkit.probes.fitted import FittedProbe
from clipkit.probes.sweep_context import Workers
from clipkit.statistics import metrics
from clipkit.statistics.dependence import permute

REPEAT, MAX_REPEAT = 5, 1000
SEED = 42


@checked
def prompt_importance(
    probe: Features,
    logits: Features,
    *,
    split: str | None = None,
    repeat: int = REPEAT,
    seed: int = SEED,
    groups: str | None = None,
) -> FeatureFile:
    """Measure the accuracy that permuting each prompt costs: what `clipkit importance` reports.

    Parameters
    ----------
    probe : Features
        Of kind probe, fitted on logits.
    logits : Features
        Of kind logits, with labels, of the same model and prompts.
    split : str, optional
        Split to score; by default `test`, else the first.
    repeat : int
        Permutations of the images, the same for all prompts. The cost is a mean over them.
    seed : int
    groups : str, optional
        A file of lines prompt TAB group. The prompts of a group are permuted together; see
        `read_prompt_groups`.

    Returns
    -------
    FeatureFile
        A result with a run per prompt (or group), by falling cost: `split`, `acc1` without
        permutation, `prompt` (or `group`, and its number of `prompts`), the `cost` in accuracy with
        its 95 % interval `low` to `high`, the fraction `changed` of predictions that a permutation
        changes, and the number of scored `rows`. The interval is for another draw of the images,
        both those that get a cosine and those that give it; see `metrics.exchange_interval`.

    Raises
    ------
    UsageError
        If the split is unknown or `repeat` is out of range.
    ClipkitError
        If the probe was not fitted on logits, the files do not belong together, there are no
        labels, or the file of groups is not valid.
    """
    probe, logits = as_file(probe, "probe"), as_file(logits, "logits")
    if not 1 <= repeat <= MAX_REPEAT:
        raise UsageError(f"repeat: expected 1 to {MAX_REPEAT}, got {repeat}")
    _check_reads_prompts(probe)
    prediction.check_fit(probe, logits)
    logits, name = choose_split(logits, split)
    rows = logits.splits[name]
    labels = labels_of(logits, name)
    texts = logits.texts or []
    inputs = {"probe": probe.digest, "features": logits.digest}
    group_of: list[Any] = list(range(len(texts)))  # without groups, each prompt is one
    if groups is not None:
        group_of = read_prompt_groups(groups, logits)
        inputs["groups"] = groups_digest(group_of)
    fitted = FittedProbe.from_arrays(probe.fitted)
    class_names, numbers = prediction.match_classes(probe, logits, [name], fitted.classes)
    if not np.isin(labels, numbers).any():  # no prompt could cost any accuracy
        raise ClipkitError(
            f"{probe.display_name} knows none of the classes of {logits.display_name}, {name}",
            "fit the probe on the same classes, or rename them: clipkit relabel --groups",
        )
    prediction.warn_of_unknown_classes(probe, rows, name, class_names, numbers)
    X = np.asarray(logits.cosines(name))
    is_known = name == prediction.fitted_split(probe, logits)
    caveats = prediction.find_fitted(fitted, name, X, is_known)
    columns: dict[Any, list[int]] = {}
    for number, group in enumerate(group_of):
        columns.setdefault(group, []).append(number)
    members = list(map(np.array, columns.values()))
    rng = np.random.RandomState(seed)  # the same draws in every version of NumPy
    clusters = own_clusters(logits, name)
    orders = np.array([permute(rng, len(X), clusters) for _ in range(repeat)])
    costs = _permute(fitted, X, numbers, labels, members, orders, clusters)
    runs = []
    for group, member, cost in zip(columns, members, costs, strict=True):
        what: Row = {"prompt": texts[member[0]]}
        if groups is not None:
            what = {"group": group, "prompts": len(member)}
        runs.append({"split": name, "acc1": cost.pop("acc1"), **what, **cost, "rows": len(X)})
    runs = [runs[place] for place in metrics.falling_order([row["cost"] for row in runs])]
    history = logits.extended_history(
        "importance",
        classifier=fitted.classifier,
        shots=shots(probe),
        split=name,
        repeat=repeat,
        seed=seed,
        caveats=caveats or None,
        inputs=inputs,
    )
    return make_result(history, runs)


def _check_reads_prompts(probe: FeatureFile) -> None:
    if probe.fitted["input"][0] == "embeddings":
        raise ClipkitError(
            f"{probe.display_name}: expected a probe of logits, got one of image embeddings, which "
            "has no prompts",
            "fit one with: clipkit probe logits.h5 --keep -o p.h5",
        )


def _permute(
    fitted: FittedProbe,
    X: Any,
    numbers: Int64,
    labels: Int64,
    columns: Sequence[Int64],
    orders: Int64,
    clusters: Int64 | None,
) -> list[Row]:
    """Return accuracy, cost, interval and changed predictions for each group of columns."""
    is_softmax = fitted.input == "probs"  # which mixes the columns
    rows = X if is_softmax else fitted.prepare(X)

    def predict(rows: Any) -> Int64:
        return fitted.model.predict(fitted.prepare(rows) if is_softmax else rows)

    with console.progress("permuting prompts", "permutations") as progress:
        before = predict(rows)
        was_right = (numbers[before] == labels).astype(np.int8)
        with Workers(progress) as workers:
            report_progress = workers.progress(len(columns) * len(orders))

            def measure(group: Int64) -> Row:
                lost = np.empty(orders.shape, np.int8)  # 1 where a right row becomes wrong
                changed = 0
                permuted = rows.copy()
                for number, order in enumerate(orders):
                    permuted[:, group] = rows[np.ix_(order, group)]
                    predicted = predict(permuted)
                    lost[number] = was_right - (numbers[predicted] == labels)
                    changed += int((predicted != before).sum())
                    report_progress(1)
                low, high = metrics.exchange_interval(lost, orders, clusters)
                return {
                    "acc1": float(was_right.mean()),
                    "cost": float(lost.mean()),
                    "low": low,
                    "high": high,
                    "changed": changed / lost.size,
                }

            return workers.map(measure, columns)


def read_prompt_groups(path: str, logits: FeatureFile) -> list[str]:
    """Read the group of each prompt (K) from lines of prompt TAB group.

    Prompts that no line names stay alone, under their own text. If no line names a prompt, the
    lines may be class TAB group, and a prompt belongs to the group of its class. A line without a
    group or with an unknown name is an error.
    """
    group_of = read_group_lines(path, "prompt")
    for name, group in group_of.items():
        if not group:
            raise ClipkitError(f"{path}: expected lines of prompt TAB group, got {shorten(name)!r}")
    names = [text.strip() for text in logits.texts or []]
    if not set(names) & set(group_of):
        names = _classes_of_prompts(logits) or names
    others = sorted(set(group_of) - set(names) - set(logits.class_names or []))
    if not set(names) & set(group_of):
        others = [*group_of]
    if others:
        raise ClipkitError(
            f"{path}: expected prompts of {logits.display_name}, got {shorten(others[0])!r}",
            "write each prompt as in the prompt file",
        )
    return [group_of.get(name, name) for name in names]


def _classes_of_prompts(logits: FeatureFile) -> list[str] | None:
    """Return the class of each prompt, or None unless every prompt has one."""
    index, names = logits.class_index, logits.class_names
    if index is None or names is None or (np.asarray(index) < 0).any():
        return None
    return [names[number] for number in index]


@checked
def largest_weights(probe: Features, count: int = 5) -> FeatureFile:
    """List the `count` prompts with the largest weights for each class, of either sign.

    The probe must be linear and fitted on logits. The result has runs `class`, `prompt`, `weight`
    and `unit`. The weight is what a unit of the prompt's similarity (or probability) adds to the
    class's score. For logreg, the score is the logit; for svm, the mean of the margins against all
    other classes. If the probe standardises, the unit is a standard deviation over the fitted
    images.
    """
    probe = as_file(probe, "probe")
    _check_reads_prompts(probe)
    fitted = FittedProbe.from_arrays(probe.fitted)
    weights = np.asarray(fitted.weights(), np.float64)  # (n, K)
    texts = probe.texts or []
    unit = probe.similarity_name
    if fitted.input == "probs":
        unit = "probability"
    if fitted.standardized:
        unit = "deviation"
    runs: list[Row] = []
    for number, class_weights in zip(fitted.classes.tolist(), weights, strict=True):
        name = class_name(probe.class_names, number)
        for column in metrics.falling_order(np.abs(class_weights))[:count].tolist():
            weight = float(class_weights[column])
            runs.append({"class": name, "prompt": texts[column], "weight": weight, "unit": unit})
    history = probe.extended_history(
        "importance", shots=shots(probe), weights=count, inputs={"probe": probe.digest}
    )
    return make_result(history, runs)
