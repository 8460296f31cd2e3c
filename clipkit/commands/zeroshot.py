"""`clipkit zeroshot`: classify images by their most similar prompt."""

from __future__ import annotations

from typing import Annotated

from clipkit.commands._options import (
    Attribute,
    FeatureInput,
    Force,
    Format,
    NoHeader,
    PerClass,
    PerImage,
    ReportColumns,
    ResultOutput,
    Scores,
    Table,
    Top,
    check_result_output,
    check_row_options,
    has_labels,
    report_images,
    report_result,
    split_option,
)


def zeroshot(
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
    output: ResultOutput = None,
    format: Format = None,
    columns: ReportColumns = None,
    no_header: NoHeader = False,
    force: Force = False,
) -> None:
    """Report zero-shot accuracy: each image gets the class of its most similar prompt.

    Make the prompts with `textembed --classes`, which also averages templates. Images without
    labels give a row per image: the prediction, its cosine and the runner-up.

    Example: clipkit textembed --classes img.h5 | clipkit logits img.h5 - | clipkit zeroshot
    """
    from clipkit import features
    from clipkit.analysis import relabeling
    from clipkit.analysis.results import per_class_rows
    from clipkit.analysis.zeroshot import evaluate, rank_images
    from clipkit.base.tables import View

    check_result_output(output, force, file, table)
    check_row_options(per_class, per_image, top > 1, scores)
    view = View(format, columns, no_header)
    with features.open_file(file, kinds=["logits"]) as source:
        logits = relabeling.label_by_attribute(source, table, attribute, needs_prompts=True)
        result = evaluate(logits, split)
        is_labelled = has_labels(logits, list(result.splits))
        if per_image or top > 1 or scores or not (is_labelled or per_class):
            rankings = rank_images(logits, split, top, scores)
            report_images(result, rankings, top, output, view, force)
            return
    rows = per_class_rows(result) if per_class else None
    report_result(result, output, view, force, rows)
