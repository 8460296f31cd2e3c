"""`clipkit predict`: apply a kept probe to other images."""

from __future__ import annotations

from typing import Annotated

import typer

from clipkit.commands._options import (
    FeatureInput,
    PerClass,
    PerImage,
    Report,
    Scores,
    Top,
    check_row_options,
    has_labels,
    reports,
    split_option,
)


@reports
def predict(
    report: Report,
    probe: Annotated[str, typer.Argument(metavar="PROBE", help="Probe from clipkit probe --keep.")],
    file: FeatureInput = "-",
    split: Annotated[list[str] | None, split_option("Predict only this split; repeatable.")] = None,
    per_class: PerClass = False,
    per_image: PerImage = False,
    top: Top = 1,
    scores: Scores = False,
) -> None:
    """Predict the classes of images with a probe that `probe --keep` stored.

    Images must come from the probe's model, and logits also from its prompts. Labelled images give
    a row per split with the accuracy, and unlabelled ones a row per image. Labels are matched to
    the probe's classes by name.

    Example: clipkit probe img.h5 --keep -o p.h5; clipkit embed photos/ | clipkit predict p.h5
    """
    from clipkit import features
    from clipkit.analysis import prediction

    check_row_options(per_class, per_image, top > 1, scores)
    report.check_output(probe, file)
    fitted = features.read(probe, kinds=["probe"])
    with features.open_file(file, kinds=["images", "logits"]) as source:
        predicted = prediction.predict(fitted, source, split, top, scores)
        is_labelled = has_labels(source, list(predicted.rankings))
    if per_image or top > 1 or scores or not (is_labelled or per_class):
        report.show_images(predicted.result, predicted.rankings, top)
    else:
        report.show(predicted.result, per_class=per_class)
