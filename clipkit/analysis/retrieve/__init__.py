"""Whether an image finds its captions, and a caption its image."""

from __future__ import annotations

from typing import Annotated

from clipkit.analysis.layout import Layout, row_per_measure
from clipkit.analysis.options import (
    Cluster,
    Common,
    Controls,
    ControlTexts,
    FirstSplit,
    Images,
    Table,
    Texts,
    check_controls,
    pair_controls,
)
from clipkit.analysis.question import Analysis, Claim, FeatureFile
from clipkit.analysis.retrieve.rank_metrics import METRICS
from clipkit.analysis.sections import CAPTIONS
from clipkit.base.options import ROWS_PANEL, flag, option, parse_counts, split_words
from clipkit.features.columns import (
    CLUSTERS,
    CONTROL_P,
    COUNT,
    LABELS,
    LOWER,
    NUMBER,
    P_MIN,
    RECALL,
    ROWS,
    Column,
    K,
    P,
)


def retrieve(
    images: Images,
    texts: Texts,
    split: FirstSplit = None,
    k: Annotated[list[str], option("N", "Value of k for recall@k; or a list.", "-k")] = ["1,5,10"],
    control: Controls = [],
    control_texts: ControlTexts = [],
    same_rows: Annotated[
        bool, flag("--same-rows", "Text i belongs to image i.", panel=ROWS_PANEL)
    ] = False,
    common: Common = True,
    gap: Annotated[bool, flag("--gap", "Add the modality gap and the hubness.")] = False,
    table: Table = None,
    cluster: Cluster = None,
) -> FeatureFile:
    """Report whether an image finds its captions, and a caption its image.

    `image_retrieval` ranks all images for each text, `text_retrieval` all texts for each image.
    `recall` is the share of queries with a right candidate among the first k. Chance is exact.
    Make the texts with `textembed --captions`. `compare` pairs two results by query.

    Example: clipkit textembed --captions captions.tsv | clipkit retrieve img.h5 -
    """
    from clipkit.analysis.retrieve import retrieval

    return retrieval.retrieve(
        images,
        texts,
        split,
        k=parse_counts(split_words([str(count) for count in k]), "-k"),
        controls=pair_controls(control, control_texts),
        same_rows=same_rows,
        common=common,
        gap=gap,
        table=table,
        cluster=cluster,
    )


COLUMNS = (
    K,
    CLUSTERS,
    Column("queries", COUNT, ROWS),
    Column("candidates", COUNT, ROWS),
    RECALL,
    *(metric.column for metric in METRICS),
    Column(
        "gap",
        NUMBER,
        ROWS,
        decimals=4,
        reference="gap_null",
        relatives="within_one_side control",
    ),
    Column("gap_null", NUMBER, LABELS, decimals=4, p="gap_p", is_relative=True),
    Column("gap_p", P, LABELS, least_p="p_min"),
    Column("relative_gap", NUMBER, LABELS, decimals=4, relatives="null control"),
    Column("relative_gap_within_one_side", NUMBER, ROWS, is_relative=True),
    Column(
        "hubness",
        NUMBER,
        ROWS,
        better=LOWER,
        decimals=4,
        relatives="null within_one_side control",
    ),
    P_MIN,
    CONTROL_P,
)


def _claim(result: FeatureFile) -> list[Claim]:
    from clipkit.statistics.claims import retrieval_claims

    return [claim for run, row in enumerate(result.rows()) for claim in retrieval_claims(row, run)]


def _find(result: FeatureFile) -> list[str]:
    from clipkit.analysis.retrieve.retrieval import first_rows
    from clipkit.statistics import claims

    return [claims.retrieval_sentence(first_rows(result))]


ANALYSIS = Analysis(
    "retrieve",
    "Do images find their captions, and captions their images?",
    retrieve,
    columns=COLUMNS,
    section=CAPTIONS,
    layout=Layout(
        needed="split k recall queries candidates",
        titles={"split": "task"},
        arrange=row_per_measure,
    ),
    claims=_claim,
    findings=_find,
    needs="split k recall queries recall_null",
    topic="Captions",
    check=check_controls,
    null="pairs",
)
