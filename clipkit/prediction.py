"""Apply a kept probe to other images: the same columns, of the same model and prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from clipkit import console, metrics, probes, similarity
from clipkit.errors import ClipkitError
from clipkit.features import FeatureFile, Int64, Split
from clipkit.ranking import Ranking, rank

# What decides an embedding besides the model, by the command that records it.
EMBEDDING_SETTINGS = ("normalize",)
PROMPT_SETTINGS = {
    "textembed": ("templates", "readable"),
    "logits": ("whiten", "random", "seed"),
}


class Predicted(NamedTuple):
    """A result, and by split the best classes of its images with their scores."""

    result: FeatureFile
    rankings: dict[str, Ranking]


def predict(
    probe: FeatureFile,
    file: FeatureFile,
    splits: Sequence[str] | None = None,
    top: int = 2,
    keep_scores: bool = False,
) -> Predicted:
    """Predict the classes of images with a kept probe: what `clipkit predict` reports.

    Parameters
    ----------
    probe : FeatureFile
        Of kind probe.
    file : FeatureFile
        Of kind images, or logits if the probe was fitted on logits, of the same model and prompts.
        Logits may have another temperature.
    splits : sequence of str, optional
        All by default.
    top : int
        Number of classes that are ranked for each image, at least 2.
    keep_scores : bool
        Keep the scores of all classes.

    Returns
    -------
    Predicted
        Its result has one run per split: `split`, `acc1`, `mean_per_class_recall`, `acc1_low` and
        `acc1_high` (NaN without labels), and the predictions. Classes have the numbers of `file`,
        and those that only the probe has follow.

    Raises
    ------
    ClipkitError
        If the kind, the model, the prompts or the width differ, or the class names do not match.

    Warns
    -----
    On standard error: if images have labels that the probe does not know. They count as wrong.
    """
    check_fit(probe, file)
    names = file.choose_splits(splits)
    fitted = probes.FittedProbe.from_arrays(probe.fitted)
    class_names, number_of_class = match_classes(probe, file, names, fitted.classes)
    history = file.extended_history(
        "predict",
        splits=names,
        classifier=fitted.classifier,
        features=fitted.input,
        temperature=fitted.temperature,
        standardize=fitted.standardized,
        inputs={"probe": probe.digest, "features": file.digest},
    )
    result = FeatureFile("result", history, class_names=class_names)
    result.display_name = file.display_name
    rankings = {}
    rows = []
    for name in names:
        split = file.splits[name]
        ranking = _rank(fitted, file, name, number_of_class, max(2, top), keep_scores)
        predicted = ranking.classes[:, 0]
        rankings[name] = ranking
        result.splits[name] = Split(None, split.labels, split.ids, predicted[None])
        row = {"split": name, **metrics.accuracies(split.labels, predicted)}
        row["acc1_low"], row["acc1_high"] = metrics.accuracy_interval(split.labels, predicted)
        rows.append(row)
        warn_of_unknown_classes(probe, result, name, number_of_class)
    result.set_rows(rows)
    return Predicted(result, rankings)


def check_fit(probe: FeatureFile, file: FeatureFile) -> None:
    """Check that a probe can read a file: its kind, model, prompts and width.

    Raises
    ------
    ClipkitError
        Naming both files and what differs.
    """
    both = f"{probe.display_name} and {file.display_name}"
    kind = "images" if probe.fitted["input"][0] == "embeddings" else "logits"
    if file.kind != kind:
        make = "embed" if kind == "images" else "logits"
        raise ClipkitError(
            f"{both}: expected {kind}, as the probe was fitted on, got {file.kind}",
            f"make them with: clipkit {make}",
        )
    if probe.model() is None and file.model() is None:
        console.warn(f"{both} do not name their models: they may differ")
    else:
        similarity.common_logit_scale(probe, file)
    if kind == "images":
        _check_settings(both, probe, file, "embed", EMBEDDING_SETTINGS)
        _check_width(both, probe, file)
    else:
        _check_prompts(both, probe, file)


def _check_width(both: str, probe: FeatureFile, file: FeatureFile) -> None:
    width = probes.FittedProbe.from_arrays(probe.fitted).width
    for split in file.splits.values():
        if split.features.shape[1] != width:
            got = split.features.shape[1]
            raise ClipkitError(f"{both}: expected {width} columns, got {got}")


def _check_prompts(both: str, probe: FeatureFile, file: FeatureFile) -> None:
    ours, theirs = probe.texts or [], file.texts or []
    hint = "make the logits with the prompts of the probe, in their order"
    if len(ours) != len(theirs):
        raise ClipkitError(f"{both}: expected {len(ours)} prompts, got {len(theirs)}", hint)
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True), 1):
        if a != b:
            message = f"prompt {number}: expected {a[:60]!r}, got {b[:60]!r}"
            raise ClipkitError(f"{both} have different prompts: {message}", hint)
    for command, names in PROMPT_SETTINGS.items():
        _check_settings(both, probe, file, command, names)
    # all whitened prompts have the same names
    is_whitened = _last_entry(probe, "logits").get("whiten")
    if is_whitened and _texts_digest(probe) != _texts_digest(file):
        raise ClipkitError(f"{both} have the directions of different prompts", hint)


def _check_settings(
    both: str, probe: FeatureFile, file: FeatureFile, command: str, names: Sequence[str]
) -> None:
    """Check that a command was run with the same settings, if both files record it."""
    a, b = _last_entry(probe, command), _last_entry(file, command)
    if not a or not b:
        return
    for name in names:
        if a.get(name) != b.get(name):
            values = f"{str(a.get(name))[:60]}, got {str(b.get(name))[:60]}"
            raise ClipkitError(
                f"{both}: expected {name} of {command} to be {values}",
                f"run clipkit {command} again as for the probe",
            )


def _texts_digest(logits: FeatureFile) -> Any:
    inputs = _last_entry(logits, "logits").get("inputs")
    return inputs.get("texts") if isinstance(inputs, dict) else None


def _last_entry(file: FeatureFile, command: str) -> dict[str, Any]:
    """Return the history's last entry of a command, or an empty one."""
    for entry in reversed(file.history):
        if entry["command"] == command:
            return entry
    return {}


def match_classes(
    probe: FeatureFile, file: FeatureFile, splits: Sequence[str], classes: Int64
) -> tuple[list[str] | None, Int64]:
    """Match the classes of a probe to those of a file by their names.

    Returns
    -------
    class_names : list of str, or None
        Of the result: those of the file, and then the others that the probe predicts.
    numbers : array (n,)
        The number there of each class of the probe.
    """
    ours, theirs = probe.class_names, file.class_names
    is_labelled = any(file.splits[name].labels is not None for name in splits)
    if ours == theirs or not is_labelled:
        return ours, classes
    both = f"{probe.display_name} and {file.display_name}"
    if not ours or not theirs:
        without = file if ours else probe
        raise ClipkitError(
            f"{both}: expected class names to match the labels by, got none in "
            f"{without.display_name}",
        )
    used = [ours[number] for number in classes.tolist()]
    for names in (used, theirs):
        repeated, count = Counter(names).most_common(1)[0]
        if count > 1:
            raise ClipkitError(
                f"{both}: expected different class names to match, got {count} called {repeated!r}"
            )
    numbers = {name: number for number, name in enumerate(theirs)}
    for name in used:
        numbers.setdefault(name, len(numbers))
    return list(numbers), np.array([numbers[name] for name in used])


def _rank(
    fitted: probes.FittedProbe,
    file: FeatureFile,
    name: str,
    numbers: Int64,
    top: int,
    keep_scores: bool,
) -> Ranking:
    cosines = np.asarray(file.cosines(name))  # image embeddings have no temperature to undo
    try:
        scores = fitted.scores(cosines)
    except ClipkitError as error:
        message = f"{file.display_name}: {name}: {error.message}"
        raise ClipkitError(message, error.hint) from None
    return rank(scores, numbers, top, fitted.confidences(scores), keep_scores)


def warn_of_unknown_classes(
    probe: FeatureFile, file: FeatureFile, name: str, numbers: Int64
) -> None:
    """Warn if images of a split have labels other than `numbers`, the classes of the probe."""
    labels = file.splits[name].labels
    if labels is None:
        return
    unknown = ~np.isin(labels, numbers)
    if unknown.any():
        first = int(labels[unknown][0])
        example = file.class_names[first] if file.class_names else first
        classes = len(np.unique(labels[unknown]))
        console.warn(
            f"{probe.display_name} does not know {classes} of the classes of {name} (for example "
            f"{example}), so their {unknown.sum()} images count as wrong"
        )
