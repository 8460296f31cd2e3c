"""Whether a model tells the right text or image from hard negatives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipkit.analysis.layout import Layout
from clipkit.analysis.options import (
    Cluster,
    Common,
    Controls,
    ControlTexts,
    FirstSplit,
    Images,
    ItemTables,
    Table,
    Texts,
    check_controls,
    pair_controls,
)
from clipkit.analysis.question import Analysis, Claim, FeatureFile
from clipkit.analysis.sections import CAPTIONS
from clipkit.base import suggestions
from clipkit.base.errors import UsageError
from clipkit.features.columns import (
    CLUSTERS,
    CONTROL_P,
    COUNT,
    HIGHER,
    LABELS,
    NOTHING,
    ROWS,
    SHARE,
    TEXT,
    Column,
)


def choose(
    images: Images,
    texts: Texts,
    items: ItemTables = None,
    split: FirstSplit = None,
    control: Controls = [],
    control_texts: ControlTexts = [],
    common: Common = False,
    table: Table = None,
    cluster: Cluster = None,
) -> FeatureFile:
    """Report whether the right text is chosen for an image, and the right image for a text.

    An item is an image with texts of which one is right, or two images with a text each. Beside
    `accuracy` stand `shuffled`, what the texts alone give; `angle`, what random directions give;
    and `ceiling`, what a model that ignores the order of words cannot exceed. Items that share an
    image are counted together.

    Example: clipkit textembed --items shapes | clipkit choose img.h5 - --items shapes
    """
    from clipkit.analysis.choose import choices

    if not items:
        raise UsageError("expected --items, got none", "--items shapes has bundled ones")
    return choices.choose(
        images,
        texts,
        items,
        split,
        controls=pair_controls(control, control_texts),
        common=common,
        table=table,
        cluster=cluster,
    )


def _check(images: str, texts: str, items: list[str] | None, **values: Any) -> None:
    """Refuse items that are not named, or that stand in the place of their texts."""
    from clipkit.features.endings import CAPTION_TABLES

    if items:
        check_controls(**values)
        return
    hint = "--items shapes has bundled ones"
    if Path(texts).suffix.lower() in CAPTION_TABLES:
        table = suggestions.command(suggestions.path(texts))
        make = f"clipkit textembed --items {table}"
        choose = suggestions.command("clipkit", "choose", suggestions.path(images), "-")
        hint = f"{make} | {choose} --items {table}"
    raise UsageError("expected --items, got none", hint)


COLUMNS = (
    Column("category", TEXT, NOTHING),
    CLUSTERS,
    Column("items", COUNT, ROWS),
    Column(
        "accuracy",
        SHARE,
        LABELS,
        title="right",
        better=HIGHER,
        decimals=1,
        has_interval=True,
        reference="shuffled",
        reference_name="images shuffled",
        relatives="control",
    ),
    Column(
        "shuffled",
        SHARE,
        LABELS,
        title="images shuffled",
        decimals=1,
        beside="shuffled95",
        relatives="control",
    ),
    Column("shuffled95", SHARE, LABELS, decimals=1),
    Column("angle", SHARE, ROWS, title="by angle", decimals=1),
    Column("ceiling", SHARE, LABELS, title="blind to order", decimals=1),
    CONTROL_P,
)

EXPLANATION = (
    "*Right* is the share of right choices. *Images shuffled* is this share for permuted images, "
    "and shows what the texts alone give. *By angle* is what random directions give. A model that "
    "ignores the order of words cannot exceed *blind to order*."
)


def _claim(result: FeatureFile) -> list[Claim]:
    from clipkit.statistics.claims import choice_claims

    return [claim for run, row in enumerate(result.rows()) for claim in choice_claims(row, run)]


def _find(result: FeatureFile) -> list[str]:
    from clipkit.statistics import claims

    return [claims.choices_sentence(result.rows())]


LAYOUT = Layout(
    needed="accuracy",
    columns="split category items accuracy shuffled angle ceiling accuracy_control control_p",
    hidden="clusters shuffled_control",
    titles={"split": "measure", "accuracy_control": "control"},
)


ANALYSIS = Analysis(
    "choose",
    "Is the right text told from similar wrong ones?",
    choose,
    columns=COLUMNS,
    section=CAPTIONS,
    layout=LAYOUT,
    claims=_claim,
    findings=_find,
    needs="split category accuracy_low shuffled shuffled95 ceiling",
    topic="Texts",
    explanation=EXPLANATION,
    check=_check,
    null="images",
)
