"""Which prompts tell groups of images from the others."""

from __future__ import annotations

from typing import Annotated, Any

from clipkit.analysis.options import Cluster, Common, FirstSplit, Seed, Table
from clipkit.analysis.question import UNDERSTAND, Analysis, Claim, FeatureFile, Input
from clipkit.base.errors import UsageError
from clipkit.base.options import CONTROLS_PANEL, attribute_option, option
from clipkit.features.columns import (
    CLUSTERS,
    GROUP,
    LABELS,
    NOTHING,
    NUMBER,
    P_MIN,
    PROMPT,
    ROW_COUNT,
    TEXT,
    Column,
    P,
)

LOGITS = Input("FILE", "Feature file (default: standard input).", ("logits",), is_piped=True)


def describe(
    logits: Annotated[FeatureFile, LOGITS],
    table: Table = None,
    attribute: Annotated[
        str | None,
        attribute_option("The groups are the values of this attribute.", member="column"),
    ] = None,
    result: Annotated[
        FeatureFile | None,
        option(
            "RESULT",
            "The groups are clusters of this result, or the errors of its run.",
            kinds=("result",),
        ),
    ] = None,
    run: Annotated[int | None, option("N", "Run of RESULT, counted from 0.", min=0)] = None,
    control: Annotated[
        list[FeatureFile],
        option(
            "LOGITS",
            "Logits of the same images and prompts by an untrained model; repeatable.",
            kinds=("logits",),
            panel=CONTROLS_PANEL,
        ),
    ] = [],
    top: Annotated[int, option("K", "Number of prompts for each group.", min=1)] = 5,
    split: FirstSplit = None,
    common: Common = False,
    seed: Seed = 42,
    cluster: Cluster = None,
) -> FeatureFile:
    """Report which prompts tell groups of images from the others: classes, clusters, errors.

    `difference` is the mean cosine of a group minus the mean of all other images. `t` is the
    difference in standard errors. `p_adjusted` accounts for all prompts and groups that were tried;
    it is empty for clusters, which are made from the images. It is at most 0.05 above `t_null95`,
    and at least `p_min`. The verdict asks for 0.025, and for a t that differs from the control's.

    Example: clipkit describe img.h5 txt.h5 --result zeroshot.h5
    """
    from clipkit.analysis.describe import description

    _check(table=table, attribute=attribute, result=result, run=run, cluster=cluster)
    return description.describe(
        logits,
        table=table,
        column=attribute,
        result=result,
        run=run,
        split=split,
        common=common,
        controls=control,
        top=top,
        seed=seed,
        cluster=cluster,
    )


def _check(*, table: Any, attribute: Any, result: Any, run: Any, cluster: Any, **_: Any) -> None:
    """Refuse groups that are given twice, and a run of no result."""
    is_of_table = attribute is not None or (table is not None and cluster is None)
    if result is not None and is_of_table:
        raise UsageError("expected groups from --result or from --table and --attribute, got both")
    if run is not None and result is None:
        raise UsageError("expected --run with --result, got it alone")


COLUMNS = (
    GROUP,
    Column("untested", TEXT, NOTHING),
    PROMPT,
    ROW_COUNT,
    CLUSTERS,
    Column("difference", NUMBER, LABELS, relatives="control"),
    P_MIN,
    Column("p_adjusted", P, LABELS, least_p="p_min"),
    Column("t", NUMBER, LABELS, relatives="control null95"),
)

EXPLANATION = (
    "*Difference* is the mean similarity of a group minus the mean of all others, and *t* is the "
    "difference in standard errors. *p adjusted* accounts for all prompts and groups that were "
    "tried. Clusters are made from the images themselves, and have no p."
)


def _claim(result: FeatureFile) -> list[Claim]:
    from clipkit.statistics.claims import description_claims

    found = []
    for run, row in enumerate(result.rows()):
        found += description_claims(row, run)
    return found


def _find(result: FeatureFile) -> list[str]:
    """Say in which prompt each group differs most; a note says it of clusters of the images."""
    from clipkit.analysis.verdicts import claims_of
    from clipkit.statistics.claims import description_sentences

    if "untested" in result.runs:
        return []
    return description_sentences(result.rows(), claims_of(result))


ANALYSIS = Analysis(
    "describe",
    "Which prompts tell groups of images apart?",
    describe,
    columns=COLUMNS,
    check=_check,
    needs="group prompt rows t t_null95 p_adjusted",
    claims=_claim,
    findings=_find,
    topic="Groups",
    panel=UNDERSTAND,
    explanation=EXPLANATION,
    null="attributes",
)
