"""Apply a kept probe to other images: the same columns, of the same model and prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipkit.analysis.ranking import Ranking, join, rank
from clipkit.analysis.results import Caveat, find_caveats, make_result
from clipkit.analysis.row_clusters import count_by_cluster, read_clusters
from clipkit.base import console
from clipkit.base.errors import ClipkitError
from clipkit.base.matrices import BlockMatrix, Int64
from clipkit.base.names import class_name, positions
from clipkit.features import compatibility
from clipkit.features.arguments import Features, Several, as_file, as_list, checked
from clipkit.features.matching import choose_splits, count_shared_rows
from clipkit.features.model import FeatureFile, Split
from clipkit.features.provenance import shots
from clipkit.probes.fitted import FittedProbe
from clipkit.statistics import metrics

EMBEDDING_SETTINGS = ("normalize",)  # what decides an embedding besides the model
MAX_SCORES = 1 << 22  # in memory at a time, in several arrays of 32 MiB


class Predicted(NamedTuple):
    """A result, and by split the best classes of its images with their scores."""

    result: FeatureFile
    rankings: dict[str, Ranking]


@checked
def predict(
    probe: Features,
    file: Features,
    splits: Several[str] | None = None,
    top: int = 2,
    keep_scores: bool = False,
) -> Predicted:
    """Predict the classes of images with a kept probe: what `clipkit predict` reports.

    Parameters
    ----------
    probe : Features
        Of kind probe.
    file : Features
        Of kind images, or logits if the probe was fitted on logits, of the same model and prompts.
        Logits may have another temperature.
    splits : str or sequence of str, optional
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
    On standard error: if the probe was fitted on images of a split, which the history then says,
    or if images have labels that the probe does not know. They count as wrong.
    """
    probe, file = as_file(probe, "probe"), as_file(file, "file", "images logits")
    splits = as_list(splits, "splits", str)
    check_fit(probe, file)
    file, names = choose_splits(file, splits)
    fitted = FittedProbe.from_arrays(probe.fitted)
    class_names, number_of_class = match_classes(probe, file, names, fitted.classes)
    known = fitted_split(probe, file)
    rankings = {}
    rows = []
    scored = {}
    caveats: list[Caveat] = []
    for name in names:
        split = file.splits[name]
        where = f"{file.display_name}: {name}"
        matrix = file.cosines(name)  # image embeddings have no temperature to undo
        caveats += find_fitted(fitted, name, matrix, is_known=name == known)
        blocks = []
        with console.progress(f"predicting {name}") as report_progress:
            for X in matrix.iter_rows(MAX_SCORES // len(fitted.classes)):
                blocks.append(_rank(fitted, where, X, number_of_class, top, keep_scores))
                report_progress(sum(len(block.classes) for block in blocks), len(matrix))
        ranking = join(blocks)
        predicted = ranking.classes[:, 0]
        rankings[name] = ranking
        scored[name] = Split(None, split.labels, split.ids, predicted[None])
        rows.append({"split": name, **metrics.scores(split.labels, predicted)})
        warn_of_unknown_classes(probe, split, name, class_names, number_of_class)
    history = file.extended_history(
        "predict",
        splits=names,
        classifier=fitted.classifier,
        features=fitted.input,
        temperature=fitted.temperature,
        standardize=fitted.standardized,
        shots=shots(probe),
        caveats=caveats or None,
        inputs={"probe": probe.digest, "features": file.digest},
    )
    result = make_result(
        history, rows, splits=scored, class_names=class_names, display_name=file.display_name
    )
    result = count_by_cluster(result, file, read_clusters(file, None, None, names))
    return Predicted(result, rankings)


def find_fitted(
    fitted: FittedProbe, split: str, X: NDArray[Any] | BlockMatrix, is_known: bool
) -> list[Caveat]:
    """Warn if a probe was fitted on rows (N, D) of a split: on all of them, if `is_known`."""
    count = len(X) if is_known else 0
    if fitted.row_hashes is not None:
        count = count_shared_rows(fitted.row_hashes, X) or count
    return find_caveats("fitted", split, count, len(X))


def fitted_split(probe: FeatureFile, file: FeatureFile) -> str | None:
    """Return the split of a file on which a probe was fitted; None if that was another file."""
    entry = probe.last_entry("probe")
    if file.digest not in entry.inputs.values():
        return None
    return str(entry.get("fit_split"))


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
        compatibility.common_logit_scale(probe, file)
    if kind == "images":
        compatibility.check_same_settings(probe, file, "embed", EMBEDDING_SETTINGS)
    else:
        compatibility.check_same_prompts(probe, file)
    width = FittedProbe.from_arrays(probe.fitted).width
    for split in file.splits.values():
        got = split.features.shape[1]
        if got != width:
            raise ClipkitError(f"{both}: expected {width} columns, got {got}")


def match_classes(
    probe: FeatureFile, file: FeatureFile, splits: Sequence[str], classes: Int64
) -> tuple[list[str] | None, Int64]:
    """Match the classes of a probe to the classes of a file by their names.

    Return the class names of the result (None without names), and the number of each class (n,) of
    the probe among them. The names of the file come first, followed by further ones that the probe
    predicts.
    """
    probe_names, file_names = probe.class_names, file.class_names
    is_labelled = any(file.splits[name].labels is not None for name in splits)
    if probe_names == file_names or not is_labelled:
        return probe_names, classes
    both = f"{probe.display_name} and {file.display_name}"
    if not probe_names or not file_names:
        without = file if probe_names else probe
        raise ClipkitError(
            f"{both}: expected class names in both, got none in {without.display_name}"
        )
    used = [probe_names[number] for number in classes.tolist()]
    _check_differ(used, both)
    _check_differ(file_names, both)
    numbers = positions(file_names)
    for name in used:
        numbers.setdefault(name, len(numbers))
    return list(numbers), np.array([numbers[name] for name in used])


def _check_differ(names: Sequence[str], where: str) -> None:
    """Refuse a class name that occurs several times."""
    repeated, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise ClipkitError(
            f"{where}: expected each class name once, got {repeated!r} {count} times"
        )


def _rank(
    fitted: FittedProbe,
    where: str,
    X: NDArray[Any],
    numbers: Int64,
    top: int,
    keep_scores: bool,
) -> Ranking:
    try:
        scores = fitted.scores(X)
    except ClipkitError as error:
        raise ClipkitError(f"{where}: {error.message}", error.hint) from None
    return rank(scores, numbers, max(2, top), fitted.confidences(scores), keep_scores)


def warn_of_unknown_classes(
    probe: FeatureFile, split: Split, name: str, class_names: list[str] | None, numbers: Int64
) -> None:
    """Warn if the images of a split have labels that are not among the probe's (n,) `numbers`."""
    labels = split.labels
    if labels is None:
        return
    unknown = labels[~np.isin(labels, numbers)]
    if len(unknown):
        classes = len(np.unique(unknown))
        console.warn(
            f"{probe.display_name} does not know {classes} of the classes of {name} (for example "
            f"{class_name(class_names, unknown[0])}), so that {console.count(len(unknown), 'row')} "
            "can only be wrong"
        )
