"""How much of the embeddings' variance attributes explain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from clipkit.analysis.layout import Columns, Layout, Row, number
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
from clipkit.base.pictures import Dots, Matrix
from clipkit.features.columns import (
    ATTRIBUTE,
    COUNT,
    FLAG,
    LABELS,
    PROMPT,
    ROW_COUNT,
    ROWS,
    SHARE,
    VALUES,
    Column,
)

SHOWN = 3  # attributes of each prompt
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


COLUMNS = (
    ATTRIBUTE,
    PROMPT,
    VALUES,
    ROW_COUNT,
    Column("unique_rows", COUNT, ROWS),
    Column("null95", SHARE, LABELS),
    Column(
        "share",
        SHARE,
        LABELS,
        reference="null95",
        reference_name="95 % of unrelated attributes",
        control="control_share",
    ),
    Column("unique", SHARE, LABELS, relatives="null95"),
    Column("random99", SHARE, LABELS),
    Column("embedding", SHARE, LABELS),
    Column("above", FLAG, LABELS),
    Column(
        "control_share",
        SHARE,
        LABELS,
        interval=("control_low", "control_high"),
        is_relative=True,
    ),
)

SHARES = (
    "The share of the variance of the embeddings that an attribute explains (adjusted R²). "
    "*Unique* is what the regression on all attributes loses without it. 95 % of unrelated "
    "attributes have a share below *null95*."
)


def _explain(result: FeatureFile) -> str:
    """Say what the shares are or, of prompts, how many are above by chance."""
    if "prompt" not in result.runs:
        return SHARES
    count = sum(not math.isnan(number(row, "share")) for row in result.rows())
    return f"About {0.01 * count:.2g} of the {count:,} cells are above by chance (1 %)."


def _largest_shares(rows: Sequence[Row], columns: Columns) -> list[Row]:
    """Return, for each prompt, the rows of the SHOWN largest shares; without prompts, all rows."""
    from clipkit.statistics.metrics import falling_order

    if "prompt" not in rows[0]:
        return list(rows)
    of_prompt: dict[str, list[Row]] = {}
    for row in rows:
        of_prompt.setdefault(row["prompt"], []).append(row)
    largest: list[Row] = []
    for group in of_prompt.values():
        shares = [number(row, "share") for row in group]
        order = falling_order([0.0 if math.isnan(share) else share for share in shares])
        largest += [group[place] for place in order[:SHOWN]]
    return largest


def _find(result: FeatureFile) -> list[str]:
    """Name the attributes that explain more than unrelated ones, or count the cells of prompts."""
    from clipkit.analysis.verdicts import claims_of
    from clipkit.statistics.claims import explained_sentence

    if "above" in result.runs:
        above = sum(bool(row["above"]) for row in result.rows())
        count = sum(not math.isnan(number(row, "share")) for row in result.rows())
        by_chance = f"{0.01 * count:.2g} by chance"
        return [f"{above:,} of {count:,} cells are above both nulls; {by_chance}"]
    claims = claims_of(result)
    return [explained_sentence(claims)] if claims else []


ANALYSIS = Analysis(
    "variance",
    "How much of the variance does each attribute explain?",
    variance,
    columns=COLUMNS,
    layout=Layout(arrange=_largest_shares),
    findings=_find,
    topic="Variance",
    null="attributes",
    explanation=_explain,
    picture=(
        Matrix(
            "prompt",
            "attribute",
            "share",
            "above",
            title="the share of the variance of each prompt's similarities that attributes explain "
            "(numbers: above both nulls)",
        ),
        Dots(
            "attribute",
            ("share", "unique", "control_share"),
            "null95",
            is_sorted=True,
            axis="share of the variance",
            title="the share of the embeddings' variance that attributes explain (adjusted R²), "
            "and what is lost without each (unique; of images that have all attributes)",
        ),
    ),
    panel=UNDERSTAND,
)
