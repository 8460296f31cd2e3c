"""`clipkit zeroshot`: classify images by their most similar prompt."""

from __future__ import annotations

from typing import Annotated

from clipkit.commands._options import (
    Attribute,
    FeatureInput,
    PerClass,
    PerImage,
    Report,
    Scores,
    Table,
    Top,
    check_row_options,
    has_labels,
    reports,
    split_option,
)


@reports
def zeroshot(
    report: Report,
    file: FeatureInput = "-",
    split: Annotated[
        list[str] | None, split_option("Evaluate only this split; repeatable.")
    ] = None,
    table: Table = None,
    attribute: Attribute = None,
    per_class: PerClass = False,
    per_image: PerImage = False,
    top: Top = 1,
    scores: Scores = False,
) -> None:
    """Report zero-shot accuracy: each image gets the class of its most similar prompt.

    Make the prompts with `textembed --classes`, which also averages templates. Images without
    labels give a row per image: the prediction, its cosine and the runner-up.

    Example: clipkit textembed --classes img.h5 | clipkit logits img.h5 - | clipkit zeroshot
    """
    from clipkit import features
    from clipkit.analysis import relabeling
    from clipkit.analysis.zeroshot import evaluate, rank_images

    report.check_output(file, table)
    check_row_options(per_class, per_image, top > 1, scores)
    with features.open_file(file, kinds=["logits"]) as source:
        logits = relabeling.label_by_attribute(source, table, attribute, needs_prompts=True)
        result = evaluate(logits, split)
        is_labelled = has_labels(logits, list(result.splits))
        if per_image or top > 1 or scores or not (is_labelled or per_class):
            rankings = rank_images(logits, split, top, scores)
            report.show_images(result, rankings, top)
            return
    report.show(result, per_class=per_class)
