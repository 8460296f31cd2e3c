"""`clipkit align`: how similarly two models represent the same images."""

from __future__ import annotations

from typing import Annotated

import typer

from clipkit.base.options import option
from clipkit.commands._options import (
    Cluster,
    Common,
    FirstSplit,
    Report,
    SameRows,
    Seed,
    Table,
)


def align(
    report: Report,
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="Feature files of images or texts.")
    ],
    split: FirstSplit = None,
    k: Annotated[int, option("N", "Number of nearest neighbours.", "-k", min=1)] = 10,
    blind: Annotated[
        int | None,
        option(
            "N", "List N pairs that are close in the first file and far apart in the second.", min=1
        ),
    ] = None,
    same_rows: SameRows = False,
    common: Common = True,
    seed: Seed = 42,
    table: Table = None,
    cluster: Cluster = None,
) -> None:
    """Report how similarly two models represent the same images, or one images and their texts.

    `mutual_knn` is the share of common nearest neighbours, and `cka` the unbiased linear CKA. With
    more files, all layers of the first model are compared with all others. With --cluster, one
    image of each value is compared at a time.

    Example: clipkit align img.h5 untrained.h5
    """
    from clipkit import features
    from clipkit.analysis import alignment

    report.check_output(*files, table)
    inputs = features.read_all(files, kinds=["images", "texts"])
    result = alignment.align(
        inputs,
        split,
        k=k,
        blind=blind,
        same_rows=same_rows,
        common=common,
        seed=seed,
        table=table,
        cluster=cluster,
    )
    report.show(result)
