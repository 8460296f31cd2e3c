"""`clipkit cluster`: k-means clusters, compared with the classes."""

from __future__ import annotations

from typing import Annotated

import typer

from clipkit.commands._options import Attribute, FeatureInput, Report, Seed, Table, split_option


def cluster(
    report: Report,
    file: FeatureInput = "-",
    split: Annotated[
        list[str] | None, split_option("Split to cluster (default: test); repeatable.")
    ] = None,
    k: Annotated[
        list[int] | None,
        typer.Option(
            "-k", min=2, help="Number of clusters (default: as many as classes); repeatable."
        ),
    ] = None,
    table: Table = None,
    attribute: Attribute = None,
    seed: Seed = 42,
) -> None:
    """Cluster embeddings or logits by k-means, and report purity, NMI and ARI.

    Example: clipkit cluster img.h5
    """
    from clipkit import features
    from clipkit.analysis import clustering, relabeling

    report.check_output(file, table)
    with features.open_file(file, kinds=["images", "logits"]) as source:
        labelled = relabeling.label_by_attribute(source, table, attribute)
        result = clustering.cluster(labelled, split, k, seed)
    report.show(result)
