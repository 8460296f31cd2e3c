"""`clipkit retrieve`: image-text retrieval."""

from __future__ import annotations

from typing import Annotated

import typer

from clipkit.commands._options import FirstSplit, Report, flag, option, parse_counts


def retrieve(
    report: Report,
    images: Annotated[
        str,
        typer.Argument(metavar="IMAGES", help="Feature file of images, or - for standard input."),
    ],
    texts: Annotated[
        str,
        typer.Argument(metavar="[TEXTS]", help="Feature file of texts (default: standard input)."),
    ] = "-",
    split: FirstSplit = None,
    k: Annotated[
        list[str], option("K", "Number of candidates among which a partner must be; a list.", "-k")
    ] = ["1,5,10"],  # noqa: B006
    control: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="IMAGES TEXTS",
            help="The same images and texts, embedded by an untrained model.",
        ),
    ] = None,
    same_rows: Annotated[bool, flag("--same-rows", "Text i belongs to image i.")] = False,
    strict: Annotated[
        bool, flag("--strict", "Refuse images without text, and texts without image.")
    ] = False,
) -> None:
    """Report whether an image finds its captions, and a caption its image.

    `image_retrieval` ranks all images for each text, `text_retrieval` all texts for each image.
    `recall` is the share of queries with a right candidate among the first k. Chance is exact.
    Make the texts with `textembed --captions`. `compare` pairs two results by query.

    Example: clipkit textembed --captions captions.tsv | clipkit retrieve img.h5 -
    """
    from clipkit import features
    from clipkit.analysis import retrieval

    report.check_output(images, texts, *(control or ()))
    files = None
    if control is not None:
        files = (
            features.read(control[0], kinds=["images"]),
            features.read(control[1], kinds=["texts"]),
        )
    result = retrieval.retrieve(
        features.read(images, kinds=["images"]),
        features.read(texts, kinds=["texts"]),
        split,
        k=parse_counts(k, "-k"),
        control=files,
        same_rows=same_rows,
        strict=strict,
    )
    report.show(result)
