"""How similarly two models represent the same images."""

from __future__ import annotations

from typing import Annotated

from clipkit.analysis.options import Cluster, Common, FirstSplit, SameRows, Seed, Table
from clipkit.analysis.question import Analysis, Claim, FeatureFile, Input
from clipkit.base.options import option
from clipkit.features.columns import (
    CLUSTERS,
    HIGHER,
    ID,
    MEASURE,
    NUMBER,
    OTHER,
    P_MIN,
    P_VALUE,
    ROW_COUNT,
    ROWS,
    A,
    B,
    Column,
    K,
)

FILES = Input("FILE", "Feature files of images or texts.", ("images", "texts"))


def align(
    files: Annotated[list[FeatureFile], FILES],
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
) -> FeatureFile:
    """Report how similarly two models represent the same images, or one images and their texts.

    `mutual_knn` is the share of common nearest neighbours, and `cka` the unbiased linear CKA. With
    more files, all layers of the first model are compared with all others. With --cluster, one
    image of each value is compared at a time. `calibrated` is how much of the way from
    `similarity_null95`, which 5 % of permutations reach, to 1 the similarity is. The verdict asks
    for a `p` of at most 0.025.

    Example: clipkit align img.h5 untrained.h5
    """
    from clipkit.analysis.align import alignment

    return alignment.align(
        files,
        split,
        k=k,
        blind=blind,
        same_rows=same_rows,
        common=common,
        seed=seed,
        table=table,
        cluster=cluster,
    )


COLUMNS = (
    K,
    MEASURE,
    A,
    B,
    ROW_COUNT,
    CLUSTERS,
    OTHER,
    P_VALUE,
    P_MIN,
    Column("similarity", NUMBER, ROWS, better=HIGHER, relatives="null null95"),
    Column("calibrated", NUMBER, ROWS, better=HIGHER),
    Column("rank_b", NUMBER, ROWS),
    Column("cosine_a", NUMBER, ROWS),
    Column("cosine_b", NUMBER, ROWS),
    Column("blind", NUMBER, ROWS, relatives="null"),
    ID,
)

EXPLANATION = (
    "*mutual_knn* is the share of nearest neighbours that are the same in both files, and *cka* "
    "the centred kernel alignment. 5 % of permutations reach *similarity null95*. *Calibrated* is "
    "how much of the way from there to 1 the similarity is."
)


def _claim(result: FeatureFile) -> list[Claim]:
    """Hold each similarity against permuted rows; lists of pairs claim nothing."""
    from clipkit.statistics.claims import alignment_claim

    if "similarity" not in result.runs:
        return []
    return [alignment_claim(row, run) for run, row in enumerate(result.rows())]


ANALYSIS = Analysis(
    "align",
    "How similarly do two models represent the same images?",
    align,
    columns=COLUMNS,
    needs="measure a b rows similarity similarity_null p",
    claims=_claim,
    topic="Models",
    explanation=EXPLANATION,
    null="pairs",
)
