"""`clipkit cluster`: k-means clusters, compared with the classes."""

from __future__ import annotations

from typing import Annotated

import typer

from clipkit.commands._options import (
    FeatureInput,
    Force,
    Format,
    NoHeader,
    ReportColumns,
    ResultOutput,
    Seed,
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
    from clipkit import clustering, features
    from clipkit.tables import View

    check_result_output(output, force, file)
    with features.open_file(file, kinds=["images", "logits"]) as source:
        result = clustering.cluster(source, split, k, seed)
    report_result(result, output, View(format, columns, no_header), force)
