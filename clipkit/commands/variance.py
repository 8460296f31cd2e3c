"""`clipkit variance`: the variance that attributes explain, of embeddings and of cosines."""

from __future__ import annotations

from typing import Annotated

import typer

from clipkit.base.options import CONTROLS_PANEL, flag, option
from clipkit.commands._options import (
    Attributes,
    Common,
    Controls,
    FirstSplit,
    ImageInput,
    Report,
    Seed,
    Table,
)


def variance(
    report: Report,
    images: ImageInput = "-",
    texts: Annotated[
        str | None,
        typer.Argument(
            metavar="TEXTS",
            help="Feature file of texts: report what the cosines with each prompt measure.",
        ),
    ] = None,
    table: Table = None,
    attribute: Attributes = [],  # noqa: B006
    control: Controls = [],  # noqa: B006
    numbers: Annotated[bool, flag("--numbers", "Treat 3 to 20 numbers as numbers, too.")] = False,
    null: Annotated[
        int,
        option(
            "N",
            "Number of random directions to compare prompts with.",
            min=1,
            max=100_000,
            panel=CONTROLS_PANEL,
        ),
    ] = 1000,
    split: FirstSplit = None,
    common: Common = False,
    seed: Seed = 42,
) -> None:
    """Report how much of the embeddings' variance each attribute explains (adjusted R squared).

    With TEXTS, report how much of the variance of each prompt's cosines it explains, compared with
    random directions and unrelated attributes. The format `table` shows the three largest shares of
    each prompt.

    Example: clipkit variance img.h5 --table shapes --control control.h5
    """
    from clipkit import features
    from clipkit.analysis import variance

    report.check_output(images, texts, *control)
    controls = features.read_all(control, kinds=["images"])
    prompts = None
    if texts is not None:
        prompts = features.read(texts, kinds=["texts"], swapped=(images, ["images"]))
    with features.open_file(images, kinds=["images"]) as opened:
        result = variance.decompose(
            opened,
            prompts,
            table=table,
            columns=attribute,
            controls=controls,
            numbers=numbers,
            null=null,
            split=split,
            common=common,
            seed=seed,
        )
    report.show(result)
