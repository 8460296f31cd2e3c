"""`clipkit retrieve`: image-text retrieval."""

from __future__ import annotations

from typing import Annotated

from clipkit.base.options import ROWS_PANEL, flag, option, split_words
from clipkit.commands._options import (
    Cluster,
    Common,
    Controls,
    ControlTexts,
    FirstSplit,
    Images,
    Report,
    Table,
    Texts,
    parse_counts,
    read_controls,
)


def retrieve(
    report: Report,
    images: Images,
    texts: Texts = "-",
    split: FirstSplit = None,
    k: Annotated[list[str], option("N", "Value of k for recall@k; or a list.", "-k")] = ["1,5,10"],  # noqa: B006
    control: Controls = [],  # noqa: B006
    control_texts: ControlTexts = [],  # noqa: B006
    same_rows: Annotated[
        bool, flag("--same-rows", "Text i belongs to image i.", panel=ROWS_PANEL)
    ] = False,
    common: Common = True,
    gap: Annotated[bool, flag("--gap", "Add the modality gap and the hubness.")] = False,
    table: Table = None,
    cluster: Cluster = None,
) -> None:
    """Report whether an image finds its captions, and a caption its image.

    `image_retrieval` ranks all images for each text, `text_retrieval` all texts for each image.
    `recall` is the share of queries with a right candidate among the first k. Chance is exact.
    Make the texts with `textembed --captions`. `compare` pairs two results by query.

    Example: clipkit textembed --captions captions.tsv | clipkit retrieve img.h5 -
    """
    from clipkit import features
    from clipkit.analysis import retrieval

    report.check_output(images, texts, *control, *control_texts, table)
    result = retrieval.retrieve(
        features.read(images, kinds=["images"], swapped=(texts, ["texts"])),
        features.read(texts, kinds=["texts"]),
        split,
        k=parse_counts(split_words(k), "-k"),
        controls=read_controls(control, control_texts),
        same_rows=same_rows,
        common=common,
        gap=gap,
        table=table,
        cluster=cluster,
    )
    report.show(result)
