"""The classes of other images, by a kept probe."""

from __future__ import annotations

from typing import Annotated

from clipkit.analysis.accuracy import accuracy_claims
from clipkit.analysis.options import LabelledFile, Rows, Splits, read_cut
from clipkit.analysis.question import Analysis, Answer, FeatureFile, Input
from clipkit.analysis.sections import RIGHT
from clipkit.base.errors import UsageError
from clipkit.base.options import option
from clipkit.features.columns import (
    ACC1,
    ACC1_ANSWERED,
    CHANCE,
    CLASS,
    CLASS_SCORE,
    CLUSTERS,
    COVERAGE,
    F1,
    ID,
    LABEL,
    MAJORITY,
    MEAN_PER_CLASS_RECALL,
    PRECISION,
    PREDICTION,
    RANK,
    RECALL,
    RECALL_CHANCE,
    RUNNER_UP,
    RUNNER_UP_SCORE,
    SUPPORT,
)

PROBE = Input("PROBE", "Probe from clipkit probe --keep.", ("probe",))


def predict(
    probe: Annotated[FeatureFile, PROBE],
    file: LabelledFile,
    split: Splits = None,
    threshold: Annotated[
        str | None,
        option("SCORE", "Predict 'none of these' unless the highest score is above SCORE."),
    ] = None,
    rows: Rows = Rows(),  # noqa: B008
) -> Answer:
    """Predict the classes of images with a probe that `probe --keep` stored.

    Images must come from the probe's model, and logits also from its prompts. Labelled images give
    a row per split with the accuracy, and unlabelled ones a row per image. Labels are matched to
    the probe's classes by name.

    Example: clipkit embed photos/ | clipkit predict probe.h5
    """
    from clipkit.analysis.predict import prediction
    from clipkit.analysis.ranking import answer_above
    from clipkit.features.matching import choose_splits

    cut = read_cut(threshold)
    if cut is not None and not isinstance(cut, float):
        raise UsageError(
            f"--threshold: expected a score, got {threshold!r}",
            "a result of clipkit threshold is for clipkit zeroshot",
        )
    source, names = choose_splits(file, split)
    result, rankings = prediction.predict(probe, source, names, rows.top, rows.scores)
    are_images = rows.are_images(source, rankings)
    if cut is not None:
        result, rankings = answer_above(result, rankings, cut)
    return rows.answer(result, rankings, are_images)


COLUMNS = (
    CLASS,
    CLUSTERS,
    SUPPORT,
    ACC1,
    MEAN_PER_CLASS_RECALL,
    RECALL_CHANCE,
    CHANCE,
    MAJORITY,
    COVERAGE,
    ACC1_ANSWERED,
    PRECISION,
    RECALL,
    F1,
    ID,
    LABEL,
    RANK,
    PREDICTION,
    CLASS_SCORE,
    RUNNER_UP,
    RUNNER_UP_SCORE,
)


ANALYSIS = Analysis(
    "predict",
    "Which class does a kept probe give other images?",
    predict,
    columns=COLUMNS,
    section=RIGHT,
    claims=accuracy_claims,
    null="labels",
    needs="acc1",
)
