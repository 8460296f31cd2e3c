"""`clipkit cluster`: k-means clusters, compared with the classes."""

from __future__ import annotations

from typing import Annotated

import typer

from clipkit.commands._options import (
    Attribute,
    FeatureInput,
    Force,
    Format,
    NoHeader,
    ReportColumns,
    ResultOutput,
    Seed,
    Table,
    check_result_output,
    report_result,
    split_option,
)


def cluster(
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
    output: ResultOutput = None,
    format: Format = None,
    columns: ReportColumns = None,
    no_header: NoHeader = False,
    force: Force = False,
) -> None:
    """Cluster embeddings or logits by k-means, and report purity, NMI and ARI.

    Example: clipkit cluster img.h5
    """
    from clipkit import features
    from clipkit.analysis import clustering, relabeling
    from clipkit.base.tables import View

    check_result_output(output, force, file, table)
    with features.open_file(file, kinds=["images", "logits"]) as source:
        labelled = relabeling.label_by_attribute(source, table, attribute)
        result = clustering.cluster(labelled, split, k, seed)
    report_result(result, output, View(format, columns, no_header), force)
