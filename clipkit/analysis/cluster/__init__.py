"""Whether k-means clusters of the images are their classes."""

from __future__ import annotations

from typing import Annotated, Any

from clipkit.analysis.options import Attribute, Common, LabelledFile, Seeds, Table
from clipkit.analysis.question import Analysis, Claim, FeatureFile
from clipkit.base.options import option, parse_counts, split_option
from clipkit.features.columns import AMI, ARI, NMI, PURITY, SEED, K


def _check_counts(_: Any, values: list[str] | None) -> list[str] | None:
    """Refuse numbers of clusters, before the command does any work."""
    if values:
        parse_counts(values, "-k", 2)
    return values


def cluster(
    file: LabelledFile,
    split: Annotated[
        list[str] | None,
        split_option("Split to cluster, or a,b or all as one (default: test); repeatable."),
    ] = None,
    k: Annotated[
        list[str] | None,
        option(
            "N[,N...]",
            "Numbers of clusters (default: as many as classes).",
            "-k",
            has_commas=True,
            check=_check_counts,
        ),
    ] = None,
    table: Table = None,
    attribute: Attribute = None,
    common: Common = False,
    seed: Seeds = 42,
) -> FeatureFile:
    """Cluster embeddings or logits by k-means, and report purity, NMI and ARI.

    `ari` and `ami` are 1 if clusters are classes, and 0 on average for permuted labels, with the
    standard deviations `ari_sd` and `ami_sd`. `purity_chance` and `nmi_chance` are what permuted
    labels give. The verdict holds `ari` against 150 permutations.

    Example: clipkit cluster img.h5; clipkit cluster img.h5 txt.h5
    """
    from clipkit.analysis.relabeling import label_by_attribute

    labelled = label_by_attribute(file, table, attribute, common=common)
    from clipkit.analysis.cluster import clustering  # loads scikit-learn, once the input is read

    counts = parse_counts(k, "-k", 2) if k else None
    return clustering.cluster(labelled, split, counts, seed)


COLUMNS = (
    K,
    SEED,
    PURITY,
    NMI,
    ARI,
    AMI,
)


def _claim(result: FeatureFile) -> list[Claim]:
    """Hold the ARI of each run against chance; images without labels have no classes."""
    from clipkit.analysis.cluster.clustering import ari_by_chance
    from clipkit.statistics.claims import of_draws

    found = []
    counts = result.runs["k"].tolist()
    for name, split in result.splits.items():
        if split.labels is None or split.predicted is None:
            continue
        for run, assignments in zip(result.numbers_on(name), split.predicted, strict=False):
            ari, drawn = ari_by_chance(split.labels, assignments, split.cluster)
            subject = f"ARI of classes and {counts[run]:.0f} clusters of {name}:"
            found.append(of_draws(subject, ari, 0.0, drawn, len(assignments), "", run))
    return found


ANALYSIS = Analysis(
    "cluster",
    "Are clusters of the images their classes?",
    cluster,
    columns=COLUMNS,
    needs="split k ari",
    claims=_claim,
    topic="Clusters",
    null="labels",
)
