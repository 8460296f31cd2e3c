"""`clipkit predict`: apply a kept probe to other images."""

from __future__ import annotations

from typing import Annotated

import typer

from clipkit.commands._options import (
    FeatureInput,
    Force,
    Format,
    NoHeader,
    PerClass,
    PerImage,
    ReportColumns,
    ResultOutput,
    Scores,
    Top,
    check_result_output,
    check_row_options,
    has_labels,
    report_images,
    report_result,
    split_option,
)


def predict(
    probe: Annotated[str, typer.Argument(metavar="PROBE", help="Probe from clipkit probe --keep.")],
    file: FeatureInput = "-",
    split: Annotated[list[str] | None, split_option("Predict only this split; repeatable.")] = None,
    per_class: PerClass = False,
    per_image: PerImage = False,
    top: Top = 1,
    scores: Scores = False,
    output: ResultOutput = None,
    format: Format = None,
    columns: ReportColumns = None,
    no_header: NoHeader = False,
    force: Force = False,
) -> None:
    """Predict the classes of images with a probe that `probe --keep` stored.

    Images must come from the probe's model, and logits also from its prompts. Labelled images give
    a row per split with the accuracy, and unlabelled ones a row per image. Labels are matched to
    the probe's classes by name.

    Example: clipkit probe img.h5 --keep -o p.h5; clipkit embed photos/ | clipkit predict p.h5
    """
    from clipkit import features
    from clipkit.analysis import prediction
    from clipkit.analysis.results import per_class_rows
    from clipkit.base import files
    from clipkit.base.tables import View

    check_row_options(per_class, per_image, top > 1, scores)
    view = View(format, columns, no_header)
    files.check_one_stream([probe, file])
    check_result_output(output, force, probe, file)
    fitted = features.read(probe, kinds=["probe"])
    with features.open_file(file, kinds=["images", "logits"]) as source:
        predicted = prediction.predict(fitted, source, split, top, scores)
        is_labelled = has_labels(source, list(predicted.rankings))
    if per_image or top > 1 or scores or not (is_labelled or per_class):
        report_images(predicted.result, predicted.rankings, top, output, view, force)
    else:
        rows = per_class_rows(predicted.result) if per_class else None
        report_result(predicted.result, output, view, force, rows)
