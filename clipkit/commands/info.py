"""`clipkit info`: describe a feature file or a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipkit import console
from clipkit.commands._options import Format


def info(
    what: Annotated[
        str,
        typer.Argument(
            metavar="[FILE|MODEL]", help="Feature file or model (default: standard input)."
        ),
    ] = "-",
    format: Format = None,
) -> None:
    """Describe the content and the history of a feature file, or the sizes of a model.

    The command reads the whole file and checks it against its digests.

    Example: clipkit info img.h5
    """
    from clipkit import features, files, tables
    from clipkit.features.describe import abridge, describe, flatten

    path = Path(what)
    is_file = path.exists() and not path.is_dir()
    if what == "-" or is_file or path.suffix.lower() in files.KNOWN_ENDINGS:
        with features.open_file(what) as file:
            rows = describe(file)
        if format != "json":
            rows = abridge(rows)
    else:
        from clipkit import models

        with console.progress("reading the weights"):
            sizes = flatten(models.describe_model(what), " ")
        rows = [{"field": field, "value": value} for field, value in sizes.items()]
    tables.emit(rows, format)
