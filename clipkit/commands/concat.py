"""`clipkit concat`: join feature files."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from clipkit.analysis.options import Splits
from clipkit.base.options import flag
from clipkit.commands._options import Force, Output


def concat(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help="Feature files; one may be - for standard input."),
    ],
    prefix: Annotated[bool, flag("--prefix", "Put the name of its file before each id.")] = False,
    keep_apart: Annotated[
        bool, flag("--keep-apart", "Name each split after its file instead of joining splits.")
    ] = False,
    split: Splits = None,
    output: Output = "-",
    force: Force = False,
) -> None:
    """Join images, texts or logits of one model.

    Splits of the same name are joined, and others are kept. Classes are matched by name. With
    --split, the splits of one file can be joined: --split all.

    Example: clipkit concat a.h5 b.h5 -o img.h5
    """
    from clipkit import features
    from clipkit.features import concatenation, endings

    endings.check_feature_output(output, force=force, inputs=inputs)
    with contextlib.ExitStack() as stack:
        parts = []
        for source in inputs:
            file = features.open_file(source, kinds=["images", "texts", "logits"])
            parts.append(stack.enter_context(file))
        joined = concatenation.concat(parts, prefix=prefix, keep_apart=keep_apart, splits=split)
        features.write(output, joined, force=force)
