"""`clipkit cluster`: k-means clusters, compared with the classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from clipkit.base.options import option, split_option
from clipkit.commands._options import (
    Attribute,
    Common,
    FeatureInput,
    Report,
    Seeds,
    Table,
    open_labelled,
    parse_seeds,
)

if TYPE_CHECKING:
    from clipkit.features.model import FeatureFile


def cluster(
    report: Report,
    file: FeatureInput = "-",
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
    seed: Seeds = ["42"],  # noqa: B006
) -> None:
    """Cluster embeddings or logits by k-means, and report purity, NMI and ARI.

    Example: clipkit cluster img.h5
    """
    seeds = parse_seeds(seed)
    report.check_output(file, table, seeds=seeds)

    def cluster_each() -> Iterator[FeatureFile]:
        for number, source in open_labelled(file, seeds, table, attribute, common=common):
            from clipkit.analysis import clustering  # loads scikit-learn, once the input is read

            yield clustering.cluster(source, split, k, number)

    report.show_seeds(seeds, cluster_each())
