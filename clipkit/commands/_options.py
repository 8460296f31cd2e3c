"""Define and parse the options that commands share, and print or save their results."""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

import typer

from clipkit.base.errors import UsageError, unknown
from clipkit.base.options import (
    OUTPUT_PANEL,
    SEED_FIELD,
    Option,
    expand_groups,
    flag,
    option,
    options_of,
    split_words,
)
from clipkit.commands import _completion as completion
from clipkit.features import model_settings

if TYPE_CHECKING:
    from clipkit.analysis.question import Answer
    from clipkit.base.tables import View
    from clipkit.features.columns import Column
    from clipkit.features.model import FeatureFile

    # What would decide what a result leaves open; see `claims.with_steps`
    Steps = Callable[[FeatureFile], Mapping[str, str]]

T = TypeVar("T")
OUTPUT = ("--output", "-o")
SKIPPED = 3  # exit code: done, but images or files were left out
MOST_MEANS = 20  # lines that state a mean over seeds


def check_output(ctx: typer.Context, output: str | None) -> str | None:
    """Refuse an unusable output when the option is parsed, before the command does any work."""
    from clipkit.base import files

    if output is not None:
        files.check_output(output, force=ctx.params["force"])
    return output


def _check_columns(ctx: typer.Context, values: list[str] | None) -> list[str] | None:
    """Return the names of columns that the command's reports may have; refuse others."""
    from clipkit.features.columns import SCORE, find_column

    own = getattr(getattr(ctx.command, "function", None), "analysis", None)
    is_own = hasattr(own, "file")
    has_scores = any(parameter.name == "scores" for parameter in ctx.command.params)
    names = []
    for word in values or []:
        if own is not None and is_own:
            titles = {column.heading.title: column.name for column in own.columns}
            names.append(titles.get(word, word))
        elif has_scores and word.startswith(SCORE):
            names.append(word)
        else:
            names.append(find_column(str(ctx.info_name), word))
    return names or None


def option_table(app: Any) -> dict[str, dict[str, Option]]:
    """Return the options of each command, by the names of their parameters."""
    table: dict[str, dict[str, Option]] = {}
    for name, command in app.commands.items():
        table[name] = {}
        if hasattr(command, "function"):  # a group of commands has none
            table[name] = options_of(expand_groups(with_settings(command.function)))
    return table


def with_settings(command: Callable[..., T]) -> Callable[..., T]:
    """Give a function with ``**settings`` the options of models, behind --model."""
    signature = inspect.signature(command, eval_str=True)
    if "settings" not in signature.parameters:
        return command
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            parameters.append(parameter)
        if name == "model":
            parameters += _setting_parameters(has_texts=command.__name__ == "textembed")

    @functools.wraps(command)
    def run(**values: Any) -> T:
        return command(**values)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


def _setting_parameters(*, has_texts: bool) -> Iterator[inspect.Parameter]:
    """Yield a parameter for each setting of models, or for each that texts have, too."""
    for setting in model_settings.SETTINGS:
        if setting.has_texts or not has_texts:
            yield inspect.Parameter(
                setting.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=setting.default,
                annotation=Annotated[setting.kind, setting.option],
            )


def run_values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `RunOptions` among the settings that a command was given."""
    values = {}
    for setting in model_settings.SETTINGS:
        if setting.is_of_model and setting.name in settings:
            values[setting.name] = setting.run_value(settings[setting.name])
    return values


def with_typer(command: Callable[..., T]) -> Callable[..., T]:
    """Return a command whose options Typer knows."""
    signature = inspect.signature(command, eval_str=True)
    options = options_of(command)
    parameters = []
    for name, parameter in signature.parameters.items():
        if name in options:
            kind = get_args(parameter.annotation)[0]
            default = typer_option(options[name], parameter.default)
            parameter = parameter.replace(annotation=kind, default=default)
        parameters.append(parameter)

    @functools.wraps(command)
    def run(**values: Any) -> T:
        return command(**values)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


def typer_option(option: Option, default: Any) -> Any:
    """Return the option of Typer that a record describes."""
    return typer.Option(
        default,
        *option.names,
        metavar=option.metavar or None,
        help=option.help,
        min=option.min,
        max=option.max,
        callback=_check_of(option),
        autocompletion=_completion_of(option),
        envvar=option.envvar,
        is_eager=option.is_eager,
        hidden=option.is_hidden,
        rich_help_panel=option.panel or None,
    )


def _check_of(option: Option) -> Callable[..., Any]:
    """Return what makes and checks the value of an option, before its command imports libraries."""

    def check(ctx: typer.Context, value: Any) -> Any:
        if option.has_commas and value:
            value = split_words(value)
        if option.choices and value is not None and value not in option.choices:
            raise unknown(option.flag.lstrip("-"), value, option.choices)
        return value if option.check is None else option.check(ctx, value)

    return check


def _completion_of(option: Option) -> Callable[..., list[str]] | None:
    """Return what a shell calls for the values of an option."""
    if isinstance(option.completes, str):
        return getattr(completion, option.completes)  # type: ignore[no-any-return]
    values = [*option.choices, *option.completes]
    return (lambda: values) if values else None


FeatureInput = Annotated[
    str,
    typer.Argument(
        metavar="FILE", help="Feature file (default: standard input).", show_default=False
    ),
]
ImageInput = Annotated[
    str,
    typer.Argument(
        metavar="IMAGES",
        help="Feature file of images (default: standard input).",
        show_default=False,
    ),
]
Images = Annotated[
    str,
    typer.Argument(metavar="IMAGES", help="Feature file of images, or - for standard input."),
]
Texts = Annotated[
    str,
    typer.Argument(
        metavar="TEXTS", help="Feature file of texts (default: standard input).", show_default=False
    ),
]
Output = Annotated[
    str, option("FILE", "Output file, or - for standard output.", *OUTPUT, panel=OUTPUT_PANEL)
]
ResultOutput = Annotated[
    str | None,
    option(
        "FILE",
        "Save the result in a feature file, for clipkit report.",
        *OUTPUT,
        panel=OUTPUT_PANEL,
    ),
]
# eager, since check_output needs it
Force = Annotated[
    bool, flag("--force -f", "Replace an existing output.", is_eager=True, panel=OUTPUT_PANEL)
]
Format = Annotated[
    str | None,
    option(
        "FORMAT",
        "Format of the report: table, tsv, csv, json, markdown or latex (default: a table on a "
        "terminal, else TSV).",
        choices=("table", "tsv", "csv", "json", "markdown", "latex"),
        panel=OUTPUT_PANEL,
    ),
]
ReportColumns = Annotated[
    list[str] | None,
    option(
        "NAME[,NAME...]",
        "Columns to print, in this order; also model, dataset, prompts, shots.",
        has_commas=True,
        check=_check_columns,
        completes="columns",
        panel=OUTPUT_PANEL,
    ),
]
NoHeader = Annotated[bool, flag("--no-header", "Leave out the header line.", panel=OUTPUT_PANEL)]
Model = Annotated[
    str,
    option(
        "NAME|FOLDER",
        "Model: tiny, ViT-B/32, a Hugging Face id, a folder, or python:FILE.py:make for one's own.",
        "--model",
        "-m",
        member="model.name",
        envvar="CLIPKIT_MODEL",
        completes="models",
    ),
]


def _check_device(_: Option, name: str) -> str:
    """Return the name of a device, or refuse it; only commands with models pay for the import."""
    from clipkit.models.hub import check_device

    return check_device(name)


Device = Annotated[
    str,
    option(
        "DEVICE",
        "Device to run the model on: auto, cpu, cuda, cuda:N or mps.",
        completes=("auto", "cpu", "cuda", "mps"),
        check=_check_device,
    ),
]


def name_by_seed(name: str, seed: int | str) -> str:
    """Return the name of a file, where `{seed}` stands for the seed."""
    return name.replace(SEED_FIELD, str(seed))


def parse_fractions(words: list[str]) -> dict[str, float]:
    """Parse new splits with their fractions.

    >>> parse_fractions(["test=0.2", "val=0.1"])
    {'test': 0.2, 'val': 0.1}
    """
    fractions: dict[str, float] = {}
    for word in words:
        name, _, text = word.rpartition("=")
        try:
            fraction = float(text)
        except ValueError:
            name = ""
        if not name or name in fractions:
            expected = "different splits with their fractions, such as test=0.2"
            hint = "name the new split: --split-off test=0.2"
            raise UsageError(f"split-off: expected {expected}, got {', '.join(words)!r}", hint)
        fractions[name] = fraction
    return fractions


@dataclass(frozen=True)
class Report:
    """The options of a report, and what commands do with them."""

    output: ResultOutput = None
    format: Format = None
    columns: ReportColumns = None
    no_header: NoHeader = False
    force: Force = False

    def check_output(self, *inputs: str | None, seeds: Sequence[int | str] = (SEED_FIELD,)) -> None:
        """Refuse an unusable output, or standard input twice, before the command does any work."""
        from clipkit.base import files
        from clipkit.features import endings

        files.check_one_stream([name for name in inputs if name is not None])
        if self.output is None:
            return
        if len(seeds) > 1 and SEED_FIELD not in self.output:
            raise UsageError(f"expected an output such as 'x-{SEED_FIELD}.h5', got {self.output}")
        for seed in seeds:
            names = [name_by_seed(name, seed) for name in inputs if name is not None]
            output = name_by_seed(self.output, seed)
            endings.check_feature_output(output, force=self.force, inputs=names)

    def show(self, answer: Answer, steps: Steps | None = None) -> None:
        """Save an answer's result if an output is given, and print its runs, or its rows.

        Below a table stand the notes of its rows or, without any, what the runs show. `steps`
        returns what would decide what a result leaves open.
        """
        from clipkit.analysis.for_people import findings, headings, rows_for_people
        from clipkit.base import console, tables

        result, rows, notes, lines = answer
        if lines is not None:
            for line in lines:
                sys.stdout.write(f"{console.escaped(line)}\n")
            return
        if result is None or not self._is_printed(result):
            return
        view = self.view._replace(headings=[headings(result)])
        if view.is_for_people and not notes:
            notes = findings(result, steps(result)) if steps else findings(result)
        if rows is None:
            tables.emit(report_rows(result, view), view, notes)
            return
        if view.is_for_people and isinstance(rows, Sequence):
            rows = rows_for_people(result, rows)
        tables.emit(with_chosen(rows, result, view), view, notes)

    def for_seed(self, seed: int | str) -> Report:
        """Return these options with the output of a seed."""
        return replace(self, output=self.output and name_by_seed(self.output, seed))

    def show_seeds(self, seeds: Sequence[int | str], results: Iterable[FeatureFile]) -> None:
        """Save the result of each seed and print the runs of all, of several with their seed."""
        from clipkit.analysis.for_people import headings
        from clipkit.base import tables
        from clipkit.features.model import known_columns

        rows: list[Mapping[str, Any]] = []
        runs: list[list[Mapping[str, Any]]] = []
        for seed, result in zip(seeds, results, strict=True):
            self.for_seed(seed)._is_printed(result)
            label = {"seed": seed} if len(seeds) > 1 else {}
            rows += [{**label, **row} for row in report_rows(result, self.view)]
            runs.append(list(result.rows()))
        if self.output != "-":
            tables.emit(rows, self.view._replace(headings=[headings(result)]))
        _note_means(runs, known_columns(result))

    @property
    def view(self) -> View:
        """Format and columns."""
        from clipkit.base.tables import View

        return View(self.format, self.columns, self.no_header)

    def _is_printed(self, result: FeatureFile) -> bool:
        """Save the result if an output is given; return whether standard output is left."""
        from clipkit import features

        if self.output is not None:
            features.write(self.output, result, force=self.force)
        return self.output != "-"


def _note_means(runs: Sequence[Sequence[Mapping[str, Any]]], known: Mapping[str, Column]) -> None:
    """Note the mean and the standard deviation of each run's first score over the seeds."""
    import statistics

    from clipkit.base import console

    if len(runs) < 2 or len(set(map(len, runs))) > 1 or len(runs[0]) > MOST_MEANS:
        return
    for of_seeds in zip(*runs, strict=True):
        column = _first_score(of_seeds[0], known)
        if column is None:
            continue
        values = [float(run[column.name]) for run in of_seeds]
        mean, deviation = (
            f"{column.unit.format(number)} {column.unit.symbol}".rstrip()
            for number in (statistics.fmean(values), statistics.stdev(values))
        )
        console.note(
            f"{column.heading.title} of {len(runs)} seeds ({', '.join(_settings_of(of_seeds))}): "
            f"mean {mean}, standard deviation {deviation}"
        )


def _first_score(run: Mapping[str, Any], known: Mapping[str, Column]) -> Column | None:
    """Return the first column of a run whose higher values are better; None without labels."""
    from clipkit.features.columns import HIGHER

    for name, value in run.items():
        if name in known and known[name].better == HIGHER:
            return None if math.isnan(value) else known[name]
    return None


def _settings_of(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the settings and the splits that runs share."""
    from clipkit.analysis.results import run_settings

    described = []
    for run in runs:
        splits = [str(run[name]) for name in ("fit_split", "eval_split", "split") if name in run]
        described.append([*run_settings(dict(run)), *splits])
    return [text for text in described[0] if all(text in others for others in described)]


def report_rows(
    result: FeatureFile, view: View, rows: Sequence[Mapping[str, Any]] | None = None
) -> Sequence[Mapping[str, Any]]:
    """Return the rows of a result's report: its runs or, if given, other rows about it."""
    from clipkit.analysis import verdicts
    from clipkit.analysis.for_people import rows_for_people, rows_with_chance

    if view.is_for_people:
        return rows_for_people(result, rows)
    is_of_runs = rows is None
    if rows is None:
        rows = rows_with_chance(result, view.chosen_columns)
    if view.columns is None:
        return rows if view.format != "json" else verdicts.with_claims(rows, result)
    if is_of_runs and not set(verdicts.COLUMNS).isdisjoint(view.columns):
        rows = list(verdicts.add_verdicts(rows, result))
    return list(with_chosen(rows, result, view))


def with_chosen(
    rows: Iterable[Mapping[str, Any]], result: FeatureFile, view: View
) -> Iterator[Mapping[str, Any]]:
    """Yield rows that also have the named columns, if any, and the columns of `provenance`.

    A column that the command's other reports have is empty here: the names are checked before.
    """
    from clipkit.features.columns import printed_by
    from clipkit.features.provenance import add_provenance

    if view.columns is None:
        yield from rows
        return
    known = {column.name for column in printed_by("info")}
    absent = dict.fromkeys(name for name in view.chosen_columns if name in known)
    for row in add_provenance(rows, result):
        yield absent | row
