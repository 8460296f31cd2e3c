"""Read what results predict for each image, how sure they are, and which result is a control."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipkit.analysis import results as result_files
from clipkit.analysis.class_scores import check_prompts, iter_class_scores
from clipkit.analysis.predict import prediction
from clipkit.base import console
from clipkit.base.errors import ClipkitError
from clipkit.base.matrices import Int64
from clipkit.base.names import distinct_names
from clipkit.features.compatibility import matching_split
from clipkit.features.matching import choose_split
from clipkit.features.model import FeatureFile
from clipkit.features.provenance import is_untrained, provenance
from clipkit.probes import classifiers
from clipkit.probes.classifiers import PROBABILITY
from clipkit.report.steps import settings
from clipkit.statistics import links

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Names = NDArray[np.str_]


@dataclass(frozen=True)
class ImagePredictions:
    """The predictions of one run of a result for N images of a split.

    Names of classes are printable and distinct.
    """

    file: FeatureFile  # the result
    split: str
    label: str  # the settings of the run
    ids: list[str]
    true: Names | None  # (N); None without labels
    predicted: Names  # (N)
    scores: Floats  # (N), how sure each prediction is; NaN if the files do not say
    score_name: str = ""
    independent: float = 1.0  # see results.Predictions

    def take(self, rows: Int64) -> ImagePredictions:
        """Return the predictions for the given rows (n,)."""
        return replace(
            self,
            ids=[self.ids[row] for row in rows],
            true=None if self.true is None else self.true[rows],
            predicted=self.predicted[rows],
            scores=self.scores[rows],
        )

    def true_class(self, row: int) -> str | None:
        """Return the class of an image; None without labels."""
        return None if self.true is None else str(self.true[row])

    def score(self, row: int) -> float | None:
        """Return how sure a prediction is; None if the files do not say."""
        score = float(self.scores[row])
        return None if math.isnan(score) else score

    def score_text(self, row: int) -> str:
        """Return a score for people, such as `93 %` or `97 votes`, or ""."""
        score = self.score(row)
        if score is None:
            return ""
        if self.score_name.startswith(PROBABILITY):
            return f"{100 * score:.0f} %"
        return f"{score:.3g} {self.score_name.partition(' ')[0]}"


@dataclass(frozen=True)
class Sources:
    """The files of an album: the result `main` that it is about, all results, and controls."""

    main: FeatureFile
    results: list[FeatureFile]
    controls: list[FeatureFile]


def choose_sources(
    files: Sequence[FeatureFile],
    controls: Sequence[FeatureFile],
    main: FeatureFile | None = None,
) -> Sources:
    """Choose the files of an album about a result, by default the first with predicted classes.

    A result without a test of its accuracy is chosen only if there is no other. Results of
    untrained models are controls, unless no other result has predictions.
    """
    trained = [file for file in files if not is_untrained(file)]
    results, controls = list(files), list(controls)
    if any(map(has_predictions, trained)):
        results, controls = trained, [*controls, *filter(is_untrained, files)]
    candidates = list(filter(has_predictions, results))
    if not candidates:
        raise ClipkitError(
            "expected a result with predicted classes for an album of images, got none",
            "make one by zeroshot or probe with -o",
        )
    for file in candidates:
        if not result_files.untestable(file, choose_split(file)[1]):
            return Sources(main or file, results, controls)
    return Sources(main or candidates[0], results, controls)


def has_predictions(file: FeatureFile) -> bool:
    """Whether a file has predicted classes of images."""
    has_classes = file.is_result and result_files.holds_classes(file)
    return has_classes and any(len(split) for split in file.splits.values())


def _command(file: FeatureFile) -> str:
    return str(result_files.newest_entry(file)["command"])


def read_predictions(
    result: FeatureFile, split: str | None = None, sources: Iterable[FeatureFile] = ()
) -> ImagePredictions:
    """Read the predictions of a result on a split, by default of its most accurate run.

    There are scores if the files from which the result was made are among `sources`.
    """
    _, split = choose_split(result, split)
    scored_split = result.splits[split]
    labels = scored_split.labels
    independent = 1.0
    if labels is None:
        assert scored_split.predicted is not None  # a result's split without predictions is invalid
        predicted, label = scored_split.predicted[0], f"{_command(result)}, on {split}"
        class_names = result_files.class_names(result, predicted.max())
    else:
        run = result_files.predictions(result, split)
        predicted, label, class_names = run.predicted, run.label, run.class_names
        independent = run.independent
        runs = len(result_files.scored_runs(result, split).rows)
        if runs > 1:
            label += f", the most accurate of {runs:,} runs on {split}"
    names = np.array(distinct_names(list(map(console.escaped, class_names))))
    true = None if labels is None else names[labels]
    scores, score_name = _scores(result, split, predicted, sources)
    return ImagePredictions(
        result,
        split,
        label,
        scored_split.ids,
        true,
        names[predicted],
        scores,
        score_name,
        independent,
    )


def _scores(
    result: FeatureFile, split: str, predicted: Int64, files: Iterable[FeatureFile]
) -> tuple[Floats, str]:
    """Return the score (N) of each predicted class, and what it is; NaN and "" without any."""
    unknown = np.full(len(predicted), np.nan), ""
    inputs = result_files.newest_entry(result).inputs.values()
    sources = {file.kind: file for file in files if file.digest in inputs}
    probe = result if result.kind == "probe" else sources.get("probe")
    features = sources.get("logits") or sources.get("images")
    if features is None or split not in features.splits:
        return unknown
    if _command(result) == "zeroshot":
        classes, scores, name = _zeroshot_scores(features, split)
    elif probe is not None:
        ranking = prediction.predict(probe, features, [split]).rankings[split]
        classes = ranking.classes[:, 0]
        scores = np.asarray(ranking.scores[:, 0], np.float64)
        classifier = classifiers.find(probe.fitted["classifier"][0])
        name = classifier.score_name(len(probe.fitted["classes"]))
    else:
        return unknown
    if not np.array_equal(classes, predicted):
        return unknown  # a probe keeps one of several runs, perhaps not the most accurate
    return scores, name


def _zeroshot_scores(logits: FeatureFile, split: str) -> tuple[Int64, Floats, str]:
    """Return the classes of zero-shot classification (N), their probabilities, and their name."""
    check_prompts(logits)
    tau = logits.default_temperature
    if logits.logit_scale:
        tau = 1 / logits.logit_scale
    link = links.distribution(logits.history)
    classes = []
    probabilities = []
    for scores in iter_class_scores(logits, logits.splits[split].features):
        classes.append(scores.argmax(axis=1))
        of_block = link.probabilities(logits.as_cosines(split, scores), tau)
        probabilities.append(of_block.max(axis=1))
    name = f"{PROBABILITY}, the {link.name} over the classes at temperature {tau:.3g}"
    return np.concatenate(classes), np.concatenate(probabilities), name


def choose_control(
    main: ImagePredictions, results: Iterable[FeatureFile], controls: Iterable[FeatureFile]
) -> ImagePredictions | None:
    """Return the predictions that stand beside a result, or None without any.

    It is the first of `controls` that was made as the result was. Without one, it is another of
    `results`: a probe on the embeddings of the same model if possible, else the first.
    """
    made = settings(main.file)

    def rank(file: FeatureFile) -> tuple[bool, bool]:
        source = provenance(file)
        return source.model != _model(main), bool(source.prompts)

    candidates = []
    if made:
        candidates = [file for file in controls if settings(file) == made]
    candidates += sorted(filter(has_predictions, results), key=rank)
    return next(read_others(main, candidates), None)


def read_others(main: ImagePredictions, files: Iterable[FeatureFile]) -> Iterator[ImagePredictions]:
    """Yield the predictions of other results for the same images with the same classes."""
    for file in filter(has_predictions, files):
        split = matching_split(file, main.file, main.split)
        if split is None or file.digest == main.file.digest:
            continue
        try:
            other = read_predictions(file, split)
        except ClipkitError:  # its runs and predictions contradict each other
            continue
        if _has_same_classes(main, other):
            yield other


def _has_same_classes(main: ImagePredictions, other: ImagePredictions) -> bool:
    """Whether two results share images, with the same classes in both."""
    if main.true is None or other.true is None:
        return main.true is other.true and not set(main.ids).isdisjoint(other.ids)
    class_of = dict(zip(other.ids, other.true, strict=True))
    pairs = zip(main.ids, main.true, strict=True)
    shared = [class_of[row_id] == name for row_id, name in pairs if row_id in class_of]
    return bool(shared) and all(shared)


def distinguish(main: ImagePredictions, control: ImagePredictions | None) -> tuple[str, str]:
    """Name a result and its control by what differs: models, kinds, settings or files."""
    if control is None:
        return _model(main) or main.label, ""
    for name in (_model, _kind, lambda one: one.label, _file_name):
        names = name(main), name(control)
        if all(names) and names[0] != names[1]:
            return names
    return main.file.display_name, control.file.display_name


def _model(predictions: ImagePredictions) -> str:
    return provenance(predictions.file).model


def _kind(predictions: ImagePredictions) -> str:
    classifiers = predictions.file.runs.get("classifier", ())
    return str(next(iter(classifiers), _command(predictions.file)))


def _file_name(predictions: ImagePredictions) -> str:
    return Path(predictions.file.display_name).name
