"""Define and parse the options that commands share, and print or save their results."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from clipkit import models
from clipkit.errors import UsageError, unknown

if TYPE_CHECKING:
    from clipkit.features import FeatureFile

FeatureInput = Annotated[
    str, typer.Argument(metavar="[FILE]", help="Feature file (default: standard input).")
]
Output = Annotated[
    str,
    typer.Option("--output", "-o", metavar="FILE", help="Output file, or - for standard output."),
]
ResultOutput = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Save the result in a file for clipkit plot."
    ),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace an existing output.")]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="table|tsv|csv|json",
        help="Format of the report (default: a table on a terminal, else TSV).",
    ),
]
Temperatures = Annotated[
    list[str],
    typer.Option(
        "--temperature",
        "-t",
        metavar="TAU[,TAU...]",
        help="Divide the cosines by TAU; 'model' is the temperature that the model learned.",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|FOLDER",
        envvar="CLIPKIT_MODEL",
        help="Model: tiny, ViT-B/32, a Hugging Face id, or a folder.",
    ),
]
Untrained = Annotated[
    int | None,
    typer.Option(
        "--untrained",
        metavar="SEED",
        help="Use the same architecture at random initialisation, as a control.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device", metavar="auto|cpu|cuda|cuda:N|mps", help="Device to run the model on."
    ),
]
Precision = Annotated[
    str,
    typer.Option("--precision", metavar="auto|fp32|bf16|fp16", help="Precision to compute in."),
]
Seed = Annotated[
    int,
    # the range of numpy's RandomState
    typer.Option("--seed", metavar="N", min=0, max=2**32 - 1, help="Random seed."),
]
DEFAULT_MODEL = models.DEFAULT


def parse_numbers(values: list[str], name: str) -> list[float]:
    """Parse comma-separated positive numbers and drop repeated ones.

    >>> parse_numbers(["1,0.5", "0.07"], "temperature")
    [1.0, 0.5, 0.07]
    """
    numbers: list[float] = []
    for word in _words(values):
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number > 0):
            hint = "separate several by commas: 1,0.5,0.07"
            raise UsageError(f"{name}: expected a finite number above 0, got {word!r}", hint)
        if number not in numbers:
            numbers.append(number)
    return numbers


def parse_temperatures(values: list[str], logit_scale: float | None) -> list[float]:
    """Parse temperatures; the word `model` stands for 1 / `logit_scale`.

    Raises
    ------
    UsageError
        If a value is not a positive number, or `model` is given and there is no logit scale.
    """
    words = _words(values)
    if "model" in words:
        if logit_scale is None:
            raise UsageError(
                "temperature 'model': expected logits with a logit_scale, got none",
                "give a number: -t 0.01",
            )
        learned = repr(1 / logit_scale)
        words = [learned if word == "model" else word for word in words]
    return parse_numbers(words, "temperature")


def _words(values: list[str]) -> list[str]:
    return [word.strip() for value in values for word in value.split(",")]


def check_report_options(output: str | None, format: str | None, force: bool, *inputs: str) -> None:
    """Refuse an unknown report format or an unusable output before the command does any work."""
    from clipkit import files
    from clipkit.tables import FORMATS

    if format is not None and format not in FORMATS:
        raise unknown("format", format, FORMATS)
    if output is not None:
        files.check_feature_output(output, force=force, inputs=inputs)


def report_result(result: FeatureFile, output: str | None, format: str | None, force: bool) -> None:
    """Save a result if an output is given, and print its runs unless the result goes to stdout."""
    from clipkit import features, tables

    if output is not None:
        features.write(output, result, force=force)
    if output != "-":
        tables.emit(result.rows(), format)
