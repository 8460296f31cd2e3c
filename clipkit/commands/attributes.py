"""`clipkit attributes`: the recall of each attribute by probes and by words."""

from __future__ import annotations

from typing import Annotated

import typer

from clipkit.commands._options import (
    Attributes,
    Controls,
    Force,
    Format,
    NoHeader,
    ReportColumns,
    ResultOutput,
    Seed,
    Table,
    check_result_output,
    option,
    report_result,
    split_option,
)


def attributes(
    images: Annotated[
        str,
        typer.Argument(
            metavar="[IMAGES]", help="Feature file of images (default: standard input)."
        ),
    ] = "-",
    words: Annotated[
        str | None,
        typer.Argument(
            metavar="[WORDS]", help="Feature file of texts with classes 'attribute: value'."
        ),
    ] = None,
    table: Table = None,
    attribute: Attributes = [],  # noqa: B006
    control: Controls = [],  # noqa: B006
    random_sets: Annotated[
        int, option("N", "Number of sets of random directions.", min=0, max=1000)
    ] = 5,
    regularization: Annotated[
        float,
        option("C", "Inverse strength of the probe's regularisation.", "--regularization", "-C"),
    ] = 1.0,
    fit_split: Annotated[str, split_option("Split to fit the probes on.")] = "train",
    eval_split: Annotated[str, split_option("Split to score.")] = "test",
    seed: Seed = 42,
    output: ResultOutput = None,
    format: Format = None,
    columns: ReportColumns = None,
    no_header: NoHeader = False,
    force: Force = False,
) -> None:
    """Report for each attribute whether a probe recognises it, and whether words do.

    The columns are mean recalls per value. `zeroshot` uses WORDS alone. The others are of probes:
    `names` on the cosines with WORDS, `random` on as many random directions, `probe` on the whole
    embedding, `control` on each --control. `reach` is (zeroshot - chance) / (probe - chance).

    Example: clipkit attributes img.h5 words.h5 --table shapes --control control.h5
    """
    from clipkit import features
    from clipkit.analysis import attributes as library
    from clipkit.base import files
    from clipkit.base.tables import View

    named = [file for file in (words, *control) if file is not None]
    files.check_one_stream([images, *named])
    check_result_output(output, force, images, *named)
    result = library.measure(
        features.read(images, kinds=["images"]),
        None if words is None else features.read(words, kinds=["texts"]),
        table=table,
        columns=attribute,
        controls=[features.read(file, kinds=["images"]) for file in control],
        random=random_sets,
        C=regularization,
        fit_split=fit_split,
        eval_split=eval_split,
        seed=seed,
    )
    report_result(result, output, View(format, columns, no_header), force)
