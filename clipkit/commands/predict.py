"""`clipkit predict`: apply a kept probe to other images."""

from __future__ import annotations

from typing import Annotated

import typer

from clipkit.base.errors import UsageError
from clipkit.base.options import option
from clipkit.commands._options import FeatureInput, Report, Rows, Splits, read_cut


def predict(
    rows: Rows,
    report: Report,
    probe: Annotated[str, typer.Argument(metavar="PROBE", help="Probe from clipkit probe --keep.")],
    file: FeatureInput = "-",
    split: Splits = None,
    threshold: Annotated[
        str | None,
        option("SCORE", "Predict 'none of these' unless the highest score is above SCORE."),
    ] = None,
) -> None:
    """Predict the classes of images with a probe that `probe --keep` stored.

    Images must come from the probe's model, and logits also from its prompts. Labelled images give
    a row per split with the accuracy, and unlabelled ones a row per image. Labels are matched to
    the probe's classes by name.

    Example: clipkit embed photos/ | clipkit predict probe.h5
    """
    from clipkit import features
    from clipkit.analysis import prediction
    from clipkit.analysis.ranking import answer_above
    from clipkit.features.matching import choose_splits

    report.check_output(probe, file)
    cut = read_cut(threshold)
    if cut is not None and not isinstance(cut, float):
        raise UsageError(
            f"--threshold: expected a score, got {threshold!r}",
            "a result of clipkit threshold is for clipkit zeroshot",
        )
    fitted = features.read(probe, kinds=["probe"], swapped=(file, ["images", "logits"]))
    with features.open_file(file, kinds=["images", "logits"]) as opened:
        source, names = choose_splits(opened, split)
        result, rankings = prediction.predict(fitted, source, names, rows.top, rows.scores)
        are_images = rows.are_images(source, rankings)
    if cut is not None:
        result, rankings = answer_above(result, rankings, cut)
    if are_images:
        report.show_images(result, rankings, rows.top)
    else:
        report.show(result, per_class=rows.per_class)
