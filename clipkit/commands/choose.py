"""`clipkit choose`: whether a model tells the right text or image from hard negatives."""

from __future__ import annotations

import shlex
from pathlib import Path

from clipkit.base.errors import UsageError
from clipkit.commands._options import (
    Cluster,
    Common,
    Controls,
    ControlTexts,
    FirstSplit,
    Images,
    ItemTables,
    Report,
    Table,
    Texts,
    read_controls,
)


def choose(
    report: Report,
    images: Images,
    texts: Texts = "-",
    items: ItemTables = None,
    split: FirstSplit = None,
    control: Controls = [],  # noqa: B006
    control_texts: ControlTexts = [],  # noqa: B006
    common: Common = False,
    table: Table = None,
    cluster: Cluster = None,
) -> None:
    """Report whether the right text is chosen for an image, and the right image for a text.

    An item is an image with texts of which one is right, or two images with a text each. Beside
    `accuracy` stand `shuffled`, what the texts alone give; `angle`, what random directions give;
    and `ceiling`, what a model that ignores the order of words cannot exceed. Items that share an
    image are counted together.

    Example: clipkit textembed --items shapes | clipkit choose img.h5 - --items shapes
    """
    from clipkit import features
    from clipkit.analysis import choices

    if not items:
        raise _no_items(images, texts)
    report.check_output(images, texts, *control, *control_texts, *items, table)
    image_file = features.read(images, kinds=["images"], swapped=(texts, ["texts"]))
    result = choices.choose(
        image_file,
        features.read(texts, kinds=["texts"]),
        items,
        split,
        controls=read_controls(control, control_texts),
        common=common,
        table=table,
        cluster=cluster,
    )
    report.show(result)


def _no_items(images: str, texts: str) -> UsageError:
    """Return the error for items that are not named, or that stand in the place of their texts."""
    from clipkit.features.endings import CAPTION_TABLES

    hint = "--items shapes has bundled ones"
    if Path(texts).suffix.lower() in CAPTION_TABLES:
        table = shlex.quote(texts)
        make = f"clipkit textembed --items {table}"
        hint = f"{make} | clipkit choose {shlex.quote(images)} - --items {table}"
    return UsageError("expected --items, got none", hint)
