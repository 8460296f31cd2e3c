"""`clipkit zeroshot`: classify images by their most similar prompt."""

from __future__ import annotations

from clipkit.commands._options import (
    Attribute,
    Cluster,
    Common,
    Cut,
    FeatureInput,
    Report,
    Rows,
    Splits,
    Table,
    read_cut,
)


def zeroshot(
    rows: Rows,
    report: Report,
    file: FeatureInput = "-",
    split: Splits = None,
    table: Table = None,
    attribute: Attribute = None,
    cluster: Cluster = None,
    common: Common = False,
    threshold: Cut = None,
) -> None:
    """Report zero-shot accuracy: each image gets the class of its most similar prompt.

    Make the prompts with `textembed --classes`, which also averages templates. Images without
    labels give a row per image: the prediction, its cosine and the runner-up. With --threshold,
    images without a similar prompt get the class 'none of these'.

    Example: clipkit logits img.h5 classes.h5 | clipkit zeroshot
    """
    from clipkit import features
    from clipkit.analysis import relabeling, row_clusters, thresholds
    from clipkit.analysis.zeroshot import evaluate, rank_images
    from clipkit.features.matching import choose_splits

    report.check_output(file, table)
    cut = read_cut(threshold)
    labels = table if attribute or cluster is None else None
    with features.open_file(file, kinds=["logits"]) as source:
        logits = relabeling.label_by_attribute(
            source, labels, attribute, common=common, needs_prompts=True
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
    if are_images:
        report.show_images(result, rankings, rows.top)
    else:
        report.show(result, per_class=rows.per_class)
