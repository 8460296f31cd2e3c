"""`clipkit zeroshot`: classify images by their most similar prompt."""

from __future__ import annotations

from typing import Annotated

from clipkit.commands._options import (
    FeatureInput,
    Force,
    Format,
    NoHeader,
    PerClass,
    ReportColumns,
    ResultOutput,
    check_result_output,
    option,
    report_result,
)


def zeroshot(
    file: FeatureInput = "-",
    split: Annotated[
        list[str] | None, option("NAME", "Evaluate only this split; repeatable.")
    ] = None,
    per_class: PerClass = False,
    output: ResultOutput = None,
    format: Format = None,
    columns: ReportColumns = None,
    no_header: NoHeader = False,
    force: Force = False,
) -> None:
    """Report zero-shot accuracy: each image gets the class of its most similar prompt.

    Make the prompts with `textembed --classes`, which also averages templates. Images without
    labels get predictions (saved with -o) but no accuracy.

    Example: clipkit textembed --classes img.h5 | clipkit logits img.h5 - | clipkit zeroshot
    """
    from clipkit import features
    from clipkit.per_class import per_class_rows
    from clipkit.tables import View
    from clipkit.zeroshot import evaluate

    check_result_output(output, force, file)
    with features.open_file(file, kinds=["logits"]) as logits:
        result = evaluate(logits, split)
    rows = per_class_rows(result) if per_class else None
    report_result(result, output, View(format, columns, no_header), force, rows)
