"""`clipkit nearest`: the most similar images of prompts or images, and the prompts of images."""

from __future__ import annotations

from typing import Annotated

import typer

from clipkit.base.errors import UsageError
from clipkit.base.options import option
from clipkit.commands._options import FirstSplit, Report


def nearest(
    report: Report,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Feature file of images or texts to search, or logits (default: standard input).",
        ),
    ] = "-",
    queries: Annotated[
        str | None,
        typer.Argument(
            metavar="QUERIES",
            help="Feature file of texts or images that search FILE (default: its own rows).",
        ),
    ] = None,
    query: Annotated[
        list[str],
        option(
            "TEXT", "Search for this text, with the model of FILE; repeatable.", "--query", "-q"
        ),
    ] = [],  # noqa: B006
    k: Annotated[int, option("N", "Rows to list for each query.", "-k", min=1)] = 10,
    split: FirstSplit = None,
) -> None:
    """List the nearest images of each prompt or image, or the nearest prompts of each image.

    In logits, each prompt searches the images. Of equal cosines, the first row of FILE comes first.

    Example: clipkit nearest img.h5 -q "a red car" --columns id --no-header
    """
    from clipkit import features
    from clipkit.analysis import neighbours

    if query and queries is not None:
        raise UsageError(f"expected {queries} or --query, got both")
    report.check_output(file, queries)
    with features.open_file(file, kinds=["images", "texts", "logits"]) as source:
        if query:
            from clipkit import embedding

            if source.kind == "logits":
                message = f"{file}: expected images or texts with --query, got logits"
                raise UsageError(message, "search the images that the logits were made of")
            others = embedding.embed_queries(query, source)
        elif queries is not None:
            others = features.read(queries, kinds=["images", "texts"])
        else:
            others = None
        result = neighbours.nearest(source, others, split, k=k)
    report.show(result)
