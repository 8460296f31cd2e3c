"""How much of the embeddings' variance attributes explain."""

from __future__ import annotations

from typing import Annotated

from clipkit.analysis.options import (
    Attributes,
    Common,
    Controls,
    FirstSplit,
    Seed,
    StreamedImages,
    Table,
)
from clipkit.analysis.question import UNDERSTAND, Analysis, FeatureFile, Input
from clipkit.base.options import CONTROLS_PANEL, flag, option

TEXTS = Input(
    "TEXTS", "Feature file of texts: report what the cosines with each prompt measure.", ("texts",)
)


def variance(
    images: StreamedImages,
    texts: Annotated[FeatureFile | None, TEXTS] = None,
    table: Table = None,
    attribute: Attributes = [],
    control: Controls = [],
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
) -> FeatureFile:
    """Report how much of the embeddings' variance each attribute explains (adjusted R squared).

    With TEXTS, report how much of the variance of each prompt's cosines it explains, compared with
    random directions and unrelated attributes. The format `table` shows the three largest shares of
    each prompt.

    Example: clipkit variance img.h5 --table shapes --control control.h5
    """
    from clipkit.analysis.variance import shares

    return shares.decompose(
        images,
        texts,
        table=table,
        columns=attribute,
        controls=control,
        numbers=numbers,
        null=null,
        split=split,
        common=common,
        seed=seed,
    )


ANALYSIS = Analysis(
    "variance", "How much of the variance does each attribute explain?", variance, panel=UNDERSTAND
)
