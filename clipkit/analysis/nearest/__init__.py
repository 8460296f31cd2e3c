"""The most similar images of prompts or images, and the prompts of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from clipkit.analysis.options import FirstSplit
from clipkit.analysis.question import Analysis, FeatureFile, Input
from clipkit.base import console, suggestions
from clipkit.base.errors import UsageError
from clipkit.base.options import option
from clipkit.features.columns import ID, LABEL, NUMBER, PROMPT, RANK, ROWS, TEXT, Column

FILE = Input(
    "FILE",
    "Feature file of images or texts to search, or logits (default: standard input).",
    ("images", "texts", "logits"),
    is_piped=True,
    is_streamed=True,
)
QUERIES = Input(
    "QUERIES",
    "Feature file of texts or images that search FILE (default: its own rows).",
    ("images", "texts"),
    text_option="-q",
)


def nearest(
    file: Annotated[FeatureFile, FILE],
    queries: Annotated[FeatureFile | None, QUERIES] = None,
    query: Annotated[
        list[str],
        option(
            "TEXT", "Search for this text, with the model of FILE; repeatable.", "--query", "-q"
        ),
    ] = [],
    k: Annotated[int, option("N", "Rows to list for each query.", "-k", min=1)] = 10,
    split: FirstSplit = None,
) -> FeatureFile:
    """List the nearest images of each prompt or image, or the nearest prompts of each image.

    In logits, each prompt searches the images. Of equal cosines, the first row of FILE comes first.
    Some row is always the nearest; `threshold` says which cosine is a match. If a file with classes
    searches itself, the verdict holds the neighbours of the same class against permuted classes. If
    texts of classes search it, it holds those of the asked class.

    Example: clipkit nearest img.h5 -q "a red car" --columns id --no-header
    """
    from clipkit.analysis.nearest import neighbours

    if query and queries is not None:
        raise UsageError(f"expected {queries.display_name} or --query, got both")
    if query:
        from clipkit.embedding.textembed import embed_queries

        if file.kind == "logits":
            message = f"{file.display_name}: expected images or texts with --query, got logits"
            raise UsageError(message, "search the images that the logits were made of")
        for text in query:
            if Path(text).is_file():
                typed = suggestions.command("-q", text)
                console.warn(f"{typed}: the nearest of this text are listed, not of the file")
        queries = embed_queries(query, file)
    return neighbours.nearest(file, queries, split, k=k)


COLUMNS = (
    Column("query", TEXT, ROWS),
    PROMPT,
    ID,
    LABEL,
    RANK,
    Column("cosine", NUMBER, ROWS),
)


ANALYSIS = Analysis(
    "nearest",
    "Which images are most similar to a prompt or an image?",
    nearest,
    columns=COLUMNS,
    topic="Neighbours",
    null="labels",
)
