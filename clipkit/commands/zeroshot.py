"""`clipkit zeroshot`: classify images by their most similar prompt."""

from __future__ import annotations

from typing import Annotated

from clipkit.commands._options import (
    FeatureInput,
    Force,
    Format,
    ResultOutput,
    check_result_output,
    report_result,
    split_option,
)


def zeroshot(
    file: FeatureInput = "-",
    split: Annotated[
        list[str] | None, split_option("Evaluate only this split; repeatable.")
    ] = None,
    output: ResultOutput = None,
    format: Format = None,
    force: Force = False,
) -> None:
    """Report zero-shot accuracy: each image gets the class of its most similar prompt.

    Make the prompts with `textembed --classes`, which also averages templates. Images without
    labels get predictions (saved with -o) but no accuracy.

    Example: clipkit textembed --classes img.h5 | clipkit logits img.h5 - | clipkit zeroshot
    """
    from clipkit import features
    from clipkit.zeroshot import evaluate

    check_result_output(output, force, file)
    with features.open_file(file, kinds=["logits"]) as logits:
        result = evaluate(logits, split)
    report_result(result, output, format, force)
