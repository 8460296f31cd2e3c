"""`clipkit info`: describe a feature file or a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clipkit import console
from clipkit.commands._options import Format, check_report_options


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
    from clipkit import features, tables
    from clipkit.features.describe import describe

    check_report_options(None, format, False)
    if what == "-" or (Path(what).exists() and not Path(what).is_dir()):
        with features.open_file(what) as file:
            rows = describe(file)
    else:
        from clipkit import models

        with console.progress("reading the weights"):
            rows = _flatten(models.describe_model(what))
    tables.emit(rows, format)


def _flatten(sizes: dict[str, Any], prefix: str = "") -> list[dict[str, Any]]:
    """Return nested sizes as rows of field and value."""
    rows = []
    for key, value in sizes.items():
        field = f"{prefix} {key}".strip()
        if isinstance(value, dict):
            rows += _flatten(value, field)
        else:
            rows.append({"field": field, "value": value})
    return rows
