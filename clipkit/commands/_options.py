"""Define and parse the options that commands share, and print or save their results."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from clipkit import models
from clipkit.base.errors import UsageError, check_positive, unknown
from clipkit.commands import _completion as completion

if TYPE_CHECKING:
    from clipkit.analysis.ranking import Ranking
    from clipkit.base.tables import View
    from clipkit.features import FeatureFile
    from clipkit.report.command_lines import Option

OUTPUT = ("--output", "-o")
SKIPPED = 3  # exit code: done, but images or files were left out
MAX_COUNT = 2**31 - 1
LAYER_RANGE = re.compile(r"([0-9]{1,4})-([0-9]{1,4})")
LAYER = re.compile("-?[0-9]{1,4}")
WHOLE_NUMBER = re.compile("[0-9]{1,10}")


def check_output(ctx: typer.Context, output: str | None) -> str | None:
    """Refuse an unusable output when the option is parsed, before the command does any work."""
    from clipkit.base import files

    if output is not None:
        files.check_output(output, force=ctx.params["force"])
    return output


def option(metavar: str, help: str, *flags: str, **settings: Any) -> Any:
    """Return an option that takes a value. Without `flags`, the parameter's name is its flag.

    A shell completes the values that the metavar lists, such as `table|tsv`. If it lists nothing
    else, other values are refused before the command imports its libraries.
    """
    values = metavar.split("|")
    if len(values) > 1 and all(map(completion.FIXED_VALUE.fullmatch, values)):
        settings["callback"] = _one_of(values)
    settings.setdefault("autocompletion", completion.of_metavar(metavar))
    return typer.Option(*flags, metavar=metavar, help=help, **settings)


def split_option(help: str, *flags: str) -> Any:
    """Return an option that names a split."""
    return option("NAME", help, *flags, autocompletion=completion.splits)


def options_with_value(command: Any) -> set[str]:
    """Return the options of a command, or of all commands of a sub-app, that take a value."""
    names: set[str] = set()
    for one in [command, *getattr(command, "commands", {}).values()]:
        for parameter in one.params:
            if parameter.param_type_name == "option" and not parameter.is_flag:
                names.update(parameter.opts)
    return names


def option_table(app: Any) -> dict[str, dict[str, Option]]:
    """Return the options of each command, by the names of their parameters."""
    from clipkit.report.command_lines import Option

    table: dict[str, dict[str, Option]] = {}
    for name, command in app.commands.items():
        table[name] = {}
        for parameter in command.params:
            if parameter.param_type_name == "option":
                flag = max(parameter.opts, key=len)
                off = "".join(parameter.secondary_opts)
                has_lists = "," in (parameter.metavar or "")
                repeats = parameter.multiple and not has_lists
                option = Option(flag, off, not parameter.is_flag, repeats)
                table[name][parameter.name] = option
    return table


def parse_layers(text: str | None) -> list[int] | Literal["all"] | None:
    """Return the numbers of a list of layers such as `0,4-6,-1`, or "all".

    Raises
    ------
    UsageError
        If a part is no number and no range.
    """
    if text is None:
        return None
    if text == "all":
        return "all"
    numbers: list[int] = []
    for part in text.split(","):
        bounds = LAYER_RANGE.fullmatch(part.strip())
        if bounds and int(bounds[1]) < int(bounds[2]):
            numbers += range(int(bounds[1]), int(bounds[2]) + 1)
        elif LAYER.fullmatch(part.strip()):
            numbers.append(int(part))
        else:
            raise UsageError(f"layer: expected numbers such as 4 or 0,4-6,-1, got {part!r}")
    return numbers


def _one_of(values: Sequence[str]) -> Callable[..., Any]:
    def check(param: typer.CallbackParam, value: str | None) -> str | None:
        if value is not None and value not in values:
            raise unknown(param.opts[0].lstrip("-"), value, values)
        return value

    return check


def _check_columns(ctx: typer.Context, values: list[str] | None) -> list[str] | None:
    """Refuse columns that no report has; `info` may print a result of another program."""
    from clipkit.base.tables import COLUMNS, SCORE

    for name in split_words(values or []):
        if name not in COLUMNS and not name.startswith(SCORE) and ctx.info_name != "info":
            raise unknown("column", name, COLUMNS)
    return values or None


FeatureInput = Annotated[
    str, typer.Argument(metavar="[FILE]", help="Feature file (default: standard input).")
]
PathColumn = Annotated[
    str | None, option("NAME", "Column of a manifest that names the image files (default: path).")
]
LabelColumn = Annotated[
    str | None, option("NAME", "Column of a manifest with the labels (default: label, if present).")
]
SplitColumn = Annotated[
    str | None, option("NAME", "Column of a manifest with the splits (default: split, if present).")
]
Output = Annotated[str, option("FILE", "Output file, or - for standard output.", *OUTPUT)]
ResultOutput = Annotated[
    str | None, option("FILE", "Save the result in a file for clipkit plot.", *OUTPUT)
]
Force = Annotated[
    bool,
    # eager, since check_output needs it
    typer.Option("--force", "-f", is_eager=True, help="Replace an existing output."),
]
Format = Annotated[
    str | None,
    option(
        "table|tsv|csv|json",
        "Format of the report (default: a table on a terminal, else TSV).",
    ),
]
ReportColumns = Annotated[
    list[str] | None,
    option(
        "NAME[,NAME...]",
        "Columns to print, in this order; also model, dataset, prompts, shots.",
        "--columns",
        callback=_check_columns,
    ),
]
NoHeader = Annotated[bool, typer.Option("--no-header", help="Leave out the header line.")]
PerClass = Annotated[
    bool,
    typer.Option("--per-class", help="Print precision, recall and F1 per class of each run."),
]
Temperatures = Annotated[
    list[str],
    option(
        "TAU[,TAU...]",
        "Divide the cosines by TAU; 'model' is the temperature that the model learned.",
        "--temperature",
        "-t",
    ),
]
Model = Annotated[
    str,
    option(
        "NAME|FOLDER",
        "Model: tiny, ViT-B/32, a Hugging Face id, or a folder.",
        "--model",
        "-m",
        envvar="CLIPKIT_MODEL",
        autocompletion=completion.models,
    ),
]
Untrained = Annotated[
    int | None,
    option(
        "SEED",
        "Use the same architecture at random initialisation, as a control.",
        min=0,
        max=2**63 - 1,  # what PyTorch takes
    ),
]
Layers = Annotated[
    str | None,
    option(
        "L[,L...]",
        "Write hidden states instead of embeddings: 0 is the input of the first layer, -1 the "
        "output of the last; also a range such as 0-12, or all.",
        "--layers",
        "--layer",
    ),
]
Norm = Annotated[bool, typer.Option("--norm", help="With --layer: apply the model's final norm.")]
Device = Annotated[
    str,
    option(
        "auto|cpu|cuda|cuda:N|mps",
        "Device to run the model on.",
        callback=lambda name: models.check_device(name),
    ),
]
Precision = Annotated[
    str,
    option(
        "auto|fp32|bf16|fp16",
        "Precision to compute in (auto: fp32 for texts, the device's fastest for images).",
    ),
]
# the range of numpy's RandomState
Seed = Annotated[int, option("N", "Random seed.", min=0, max=2**32 - 1)]
Table = Annotated[
    str | None,
    option(
        "TABLE|DATASET",
        "Attributes of the images: a .csv, .tsv, .jsonl or .parquet file, or shapes.",
        autocompletion=completion.of_metavar("TABLE|shapes"),
    ),
]
Attribute = Annotated[
    str | None, option("NAME", "Use this attribute of TABLE as labels; A*B combines two.")
]
Attributes = Annotated[
    list[str], option("NAME", "Use only this attribute; A*B is an interaction; repeatable.")
]
# Command -> earlier names of its options, which still work
EARLIER_NAMES = {
    "report": {"--untrained": "--control"},
    "attributes": {"--attributes": "--table", "--column": "--attribute"},
    "variance": {"--attributes": "--table", "--column": "--attribute"},
    "compare": {"--by": "--table", "--column": "--attribute"},
    "relabel": {"--column": "--attribute"},
    "split": {"--attributes": "--table", "--group-column": "--attribute"},
}
Controls = Annotated[
    list[str],
    option("IMAGES", "The same images, embedded by an untrained control; repeatable."),
]
PerImage = Annotated[
    bool, typer.Option("--per-image", help="Print a row per image: prediction, score, runner-up.")
]
Top = Annotated[int, option("K", "Print K rows per image: its best classes.", min=1)]
Scores = Annotated[
    bool, typer.Option("--scores", help="Print a row per image, with the scores of all classes.")
]
DEFAULT_MODEL = models.DEFAULT


def parse_numbers(values: list[str], name: str) -> list[float]:
    """Parse comma-separated positive numbers and drop repeated ones.

    >>> parse_numbers(["1,0.5", "0.07"], "temperature")
    [1.0, 0.5, 0.07]
    """
    numbers: list[float] = []
    for word in split_words(values):
        number = check_positive(name, word)
        if number not in numbers:
            numbers.append(number)
    return numbers


def parse_counts(values: list[str], name: str) -> list[int]:
    """Parse comma-separated whole numbers, sorted, without repeats.

    >>> parse_counts(["4,1", "4"], "shots")
    [1, 4]
    """
    counts = set()
    for word in split_words(values):
        if not WHOLE_NUMBER.fullmatch(word) or not 0 < int(word) <= MAX_COUNT:
            expected = f"whole numbers between 1 and {MAX_COUNT}"
            raise UsageError(f"{name}: expected {expected}, got {word!r}")
        counts.add(int(word))
    return sorted(counts)


def parse_fractions(values: list[str]) -> dict[str, float]:
    """Parse new splits with their fractions.

    >>> parse_fractions(["test=0.2", "val=0.1"])
    {'test': 0.2, 'val': 0.1}
    """
    fractions: dict[str, float] = {}
    for word in split_words(values):
        name, _, text = word.rpartition("=")
        try:
            fraction = float(text)
        except ValueError:
            name = ""
        if not name or name in fractions:
            expected = "different splits with their fractions, such as test=0.2"
            raise UsageError(f"split-off: expected {expected}, got {', '.join(values)!r}")
        fractions[name] = fraction
    return fractions


def parse_temperatures(values: list[str], logit_scale: float | None) -> list[float]:
    """Parse temperatures; the word `model` stands for 1 / `logit_scale`.

    Raises
    ------
    UsageError
        If a value is not a positive number, or `model` is given and there is no logit scale.
    """
    words = split_words(values)
    if "model" in words:
        if logit_scale is None:
            raise UsageError(
                "temperature 'model': expected logits with a logit_scale, got none",
                "give a number: -t 0.01",
            )
        learned = repr(1 / logit_scale)
        words = [learned if word == "model" else word for word in words]
    return parse_numbers(words, "temperature")


def split_words(values: list[str]) -> list[str]:
    """Split comma-separated values into words."""
    return [word.strip() for value in values for word in value.split(",")]


def check_result_output(output: str | None, force: bool, *inputs: str | None) -> None:
    """Refuse an unusable output of a result before the command does any work."""
    from clipkit.base import files

    if output is not None:
        files.check_feature_output(output, force=force, inputs=inputs)


def report_result(
    result: FeatureFile,
    output: str | None,
    view: View | str | None,
    force: bool,
    rows: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Save a result if an output is given, and print its runs unless the result goes to stdout.

    Parameters
    ----------
    view : View or str, optional
        What to print; a format alone stands for all columns.
    rows : sequence of mappings, optional
        Printed in place of the runs.
    """
    from clipkit import features
    from clipkit.base import tables

    if not isinstance(view, tables.View):
        view = tables.View(view)
    if output is not None:
        features.write(output, result, force=force)
    if output != "-":
        tables.emit(report_rows(result, view, rows), view)


def report_rows(
    result: FeatureFile, view: View, rows: Sequence[Mapping[str, Any]] | None = None
) -> Sequence[Mapping[str, Any]]:
    """Return the rows of a result's report: its runs or, if given, other rows about it.

    If columns are named, the rows also have the columns of `provenance`.
    """
    from clipkit.analysis.results import rows_for_people
    from clipkit.features.provenance import add_provenance

    if rows is None:
        rows = rows_for_people(result) if view.is_for_people else result.rows()
    if view.columns is not None:
        return list(add_provenance(rows, result))
    return rows


def check_row_options(per_class: bool, *per_image: bool) -> None:
    """Refuse rows of classes together with an option that prints rows of images."""
    if per_class and any(per_image):
        raise UsageError(
            "expected rows of classes or of images, got --per-class and an option for images",
            "leave out --per-class, or --per-image, --top and --scores",
        )


def report_images(
    result: FeatureFile,
    rankings: Mapping[str, Ranking],
    top: int,
    output: str | None,
    view: View,
    force: bool,
) -> None:
    """Save a result if an output is given, and print its images unless it goes to stdout.

    If columns are named, the rows also have the columns of `provenance`.
    """
    from clipkit import features
    from clipkit.analysis import ranking
    from clipkit.base import tables
    from clipkit.features.provenance import add_provenance

    if output is not None:
        features.write(output, result, force=force)
    if output != "-":
        rows: Iterable[Mapping[str, Any]] = ranking.image_rows(result, rankings, top)
        if view.columns is not None:
            rows = add_provenance(rows, result)
        tables.emit_many(rows, view)


def has_labels(file: FeatureFile, splits: Sequence[str]) -> bool:
    """Whether a split has labels. Of the others, note how to get their predictions."""
    from clipkit.base import console

    without = [name for name in splits if file.splits[name].labels is None]
    if without and len(without) < len(splits):
        names = ", ".join(without)
        console.note(f"{names} has no labels: print its predictions with --per-image")
    return len(without) < len(splits)
