"""Whether k-means clusters of the images are their classes."""

from __future__ import annotations

from typing import Annotated

from clipkit.analysis.options import Attribute, Common, LabelledFile, Seeds, Table
from clipkit.analysis.question import Analysis, FeatureFile
from clipkit.base.options import option, split_option
from clipkit.features.columns import AMI, ARI, NMI, PURITY, SEED, K


def cluster(
    file: LabelledFile,
    split: Annotated[
        list[str] | None,
        split_option("Split to cluster, or a,b or all as one (default: test); repeatable."),
    ] = None,
    k: Annotated[
        list[int] | None,
        option("N", "Number of clusters (default: as many as classes); repeatable.", "-k", min=2),
    ] = None,
    table: Table = None,
    attribute: Attribute = None,
    common: Common = False,
    seed: Seeds = 42,
) -> FeatureFile:
    """Cluster embeddings or logits by k-means, and report purity, NMI and ARI.

    Example: clipkit cluster img.h5
    """
    from clipkit.analysis.relabeling import label_by_attribute

    labelled = label_by_attribute(file, table, attribute, common=common)
    from clipkit.analysis.cluster import clustering  # loads scikit-learn, once the input is read

    return clustering.cluster(labelled, split, k, seed)


COLUMNS = (
    K,
    SEED,
    PURITY,
    NMI,
    ARI,
    AMI,
)

ANALYSIS = Analysis(
    "cluster", "Are clusters of the images their classes?", cluster, columns=COLUMNS
)
