"""How often an image's most similar prompt names its class."""

from __future__ import annotations

from clipkit.analysis.accuracy import accuracy_claims, accuracy_findings
from clipkit.analysis.options import (
    Attribute,
    Cluster,
    Common,
    Cut,
    LogitsFile,
    Rows,
    Splits,
    Table,
    read_cut,
)
from clipkit.analysis.question import Analysis, Answer
from clipkit.analysis.sections import RIGHT
from clipkit.features.columns import (
    ACC1,
    ACC1_ANSWERED,
    ACC5,
    CHANCE,
    CLASS,
    CLASS_SCORE,
    CLUSTERS,
    COVERAGE,
    F1,
    ID,
    LABEL,
    MAJORITY,
    MEAN_PER_CLASS_RECALL,
    PRECISION,
    PREDICTION,
    RANK,
    RECALL,
    RECALL_CHANCE,
    RUNNER_UP,
    RUNNER_UP_SCORE,
    SUPPORT,
)


def zeroshot(
    file: LogitsFile,
    split: Splits = None,
    table: Table = None,
    attribute: Attribute = None,
    cluster: Cluster = None,
    common: Common = False,
    threshold: Cut = None,
    rows: Rows = Rows(),  # noqa: B008
) -> Answer:
    """Report zero-shot accuracy: each image gets the class of its most similar prompt.

    Make the prompts with `textembed --classes`, which also averages templates. Images without
    labels give a row per image: the prediction, its cosine and the runner-up. With --threshold,
    images without a similar prompt get the class 'none of these'.

    Example: clipkit zeroshot img.h5 classes.h5
    """
    from clipkit.analysis import relabeling, row_clusters
    from clipkit.analysis.threshold import thresholds
    from clipkit.analysis.zeroshot.classification import evaluate, rank_images
    from clipkit.features.matching import choose_splits

    cut = read_cut(threshold)
    labels = table if attribute or cluster is None else None
    logits = relabeling.label_by_attribute(
        file, labels, attribute, common=common, needs_prompts=True
    )
    logits, splits = choose_splits(logits, split)
    clusters = row_clusters.read_clusters(logits, table, cluster, splits, common=common)
    result = evaluate(logits, splits)
    are_images = rows.are_images(logits, result.splits)
    rankings = {}
    if are_images or cut is not None:
        rankings = rank_images(logits, splits, rows.top, rows.scores)
    if cut is not None:
        result, rankings = thresholds.answer(logits, result, rankings, cut)
    result = row_clusters.count_by_cluster(result, logits, clusters)
    return rows.answer(result, rankings, are_images)


COLUMNS = (
    CLASS,
    CLUSTERS,
    SUPPORT,
    ACC1,
    ACC5,
    MEAN_PER_CLASS_RECALL,
    RECALL_CHANCE,
    CHANCE,
    MAJORITY,
    COVERAGE,
    ACC1_ANSWERED,
    PRECISION,
    RECALL,
    F1,
    ID,
    LABEL,
    RANK,
    PREDICTION,
    CLASS_SCORE,
    RUNNER_UP,
    RUNNER_UP_SCORE,
)


ANALYSIS = Analysis(
    "zeroshot",
    "How often is the most similar prompt the right one?",
    zeroshot,
    columns=COLUMNS,
    section=RIGHT,
    claims=accuracy_claims,
    findings=accuracy_findings,
    needs="acc1 acc1_low acc1_high",
    null="labels",
)
