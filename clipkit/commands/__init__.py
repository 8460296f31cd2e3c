"""One module a command, named as the command: options, one call, one report. What several of them share stands here."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipkit.errors import UsageError

if TYPE_CHECKING:
    from clipkit.store import FeatureFile, History

FeatureInput = Annotated[
    str, typer.Argument(metavar="[FILE]", help="Feature file; standard input if left out or -.")
]
Output = Annotated[
    str,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Where the feature file goes; - is standard output."
    ),
]
ResultOutput = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Keep the result in a file that clipkit plot reads."
    ),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace an existing output.")]
Format = Annotated[
    str | None,
    typer.Option("--format", metavar="table|tsv|csv|json", help="How the report is printed."),
]
Temperatures = Annotated[
    list[str],
    typer.Option(
        "--temperature",
        "-t",
        metavar="TAU[,TAU...]",
        help="Divides the cosine; 'model' is what the model learned.",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|FOLDER",
        envvar="CLIPKIT_MODEL",
        help="tiny, ViT-B/32, a Hugging Face id, or a folder.",
    ),
]
Untrained = Annotated[
    int | None,
    typer.Option(
        "--untrained",
        metavar="SEED",
        help="The same architecture with fresh weights: the control of a probe.",
    ),
]
Device = Annotated[
    str, typer.Option("--device", metavar="auto|cpu|cuda|cuda:N|mps", help="Where the model runs.")
]
Precision = Annotated[
    str,
    typer.Option("--precision", metavar="auto|fp32|bf16|fp16", help="What the model computes in."),
]
Seed = Annotated[int, typer.Option("--seed", help="For everything that is drawn.")]
DEFAULT_MODEL = "openai/clip-vit-base-patch32"


def numbers(values: list[str], what: str) -> list[float]:
    """Parse comma lists of positive numbers.

    >>> numbers(["1,0.5", "0.07"], "temperature")
    [1.0, 0.5, 0.07]
    """
    found = []
    for word in (word.strip() for value in values for word in value.split(",")):
        try:
            number = float(word)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number > 0):
            raise UsageError(
                f"{what} must be a finite number above 0; got {word!r}",
                "separate several by commas: 1,0.5,0.07",
            )
        if number not in found:
            found.append(number)
    return found


def temperatures(values: list[str], logit_scale: float | None) -> list[float]:
    """Parse temperatures; the word `model` stands for 1 / `logit_scale`."""
    words = [word.strip() for value in values for word in value.split(",")]
    if "model" in words and logit_scale is None:
        raise UsageError(
            "temperature 'model' needs features that know their model's logit_scale; these do not"
        )
    return numbers(
        [repr(1 / (logit_scale or 1)) if word == "model" else word for word in words], "temperature"
    )


def check_format(format: str | None) -> None:
    """Refuse an unknown report format before any work is done."""
    from clipkit.errors import unknown
    from clipkit.tables import FORMATS

    if format is not None and format not in FORMATS:
        raise unknown("format", format, FORMATS)


def entry(command: str, **parameters: Any) -> dict[str, Any]:
    """An entry of a file's history; parameters that are None say nothing."""
    from clipkit import __version__

    return {"command": command, "clipkit": __version__} | {
        k: v for k, v in parameters.items() if v is not None
    }


def model_of(history: History) -> dict[str, Any] | None:
    """The model that a history's features came from."""
    return next((item["model"] for item in history if isinstance(item.get("model"), dict)), None)


def finish(
    rows: list[dict[str, Any]],
    result: FeatureFile,
    output: str | None,
    force: bool,
    format: str | None,
) -> None:
    """Keep a result if an output is named, and print its report; the report makes room on a piped standard output."""
    import numpy as np

    from clipkit import store, tables

    if output is not None:
        result.runs = {name: np.asarray([_stored(row[name]) for row in rows]) for name in rows[0]}
        store.write(output, result, force=force)
    if output != "-":
        tables.emit(rows, format)


def _stored(value: Any) -> Any:
    return math.nan if value is None else int(value) if isinstance(value, bool) else value
