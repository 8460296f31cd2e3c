"""`clipkit predict`: apply a kept probe to other images."""

from __future__ import annotations

from typing import Annotated

import typer

from clipkit.commands._options import FeatureInput, Report, Rows, Splits


def predict(
    rows: Rows,
    report: Report,
    probe: Annotated[str, typer.Argument(metavar="PROBE", help="Probe from clipkit probe --keep.")],
    file: FeatureInput = "-",
    split: Splits = None,
) -> None:
    """Predict the classes of images with a probe that `probe --keep` stored.

    Images must come from the probe's model, and logits also from its prompts. Labelled images give
    a row per split with the accuracy, and unlabelled ones a row per image. Labels are matched to
    the probe's classes by name.

    Example: clipkit probe img.h5 --keep -o p.h5; clipkit embed photos/ | clipkit predict p.h5
    """
    from clipkit import features
    from clipkit.analysis import prediction

    report.check_output(probe, file)
    fitted = features.read(probe, kinds=["probe"])
    with features.open_file(file, kinds=["images", "logits"]) as source:
        predicted = prediction.predict(fitted, source, split, rows.top, rows.scores)
        are_images = rows.are_images(source, predicted.rankings)
    if are_images:
        report.show_images(predicted.result, predicted.rankings, rows.top)
    else:
        report.show(predicted.result, per_class=rows.per_class)
