"""`clipkit null`: how often a question says something of shuffled inputs, where nothing is."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipkit import analysis
from clipkit.analysis.question import Analysis, Answer, record_of
from clipkit.base import console, signals
from clipkit.base.errors import ClipkitError, UsageError, unknown
from clipkit.commands._command import ClipkitCommand, CommandGroup
from clipkit.commands._options import Format, NoHeader, Report
from clipkit.commands.analysis import check_words, opened, values_at, words_of
from clipkit.features.columns import COUNT, LABELS, SHARE, TEXT, Column

if TYPE_CHECKING:
    from clipkit.base.matrices import Int64

COLUMNS = (
    Column("verdict", TEXT, LABELS),
    Column("real", COUNT, LABELS),
    Column("null", SHARE, LABELS),
    Column("any", SHARE, LABELS, has_interval=True, decimals=1),
)


class NullGroup(CommandGroup):
    """Take the command of a question behind the number of runs."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the questions that say what is shuffled."""
        return [name for name in analysis.names() if analysis.find(name).null]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command that asks a question again and again."""
        if cmd_name not in self.list_commands(ctx):
            return None
        runs, seed = (ctx.params.get(name) if ctx else None for name in ("runs", "seed"))
        return ClipkitCommand(cmd_name, _command_of(analysis.find(cmd_name), runs or 1, seed or 0))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the first word names."""
        if args[0] not in self.list_commands(ctx) and not ctx.resilient_parsing:
            if args[0] in analysis.names():
                known = ", ".join(self.list_commands(ctx))
                raise UsageError(
                    f"{args[0]}: no verdicts to try on shuffled inputs", f"try {known}"
                )
            raise unknown("question", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)


null = typer.Typer(
    cls=NullGroup,
    subcommand_metavar="COMMAND [ARGS]...",
    help="""Run a question N times on shuffled inputs: how often is each verdict wrong?

    Labels, attributes or pairs are shuffled within each split. Rows of one cluster stay together.
    For `calibrate`, labels are drawn from the probabilities.
    `real` counts the verdicts of the inputs as they are. `null` is the mean share of the claims of
    a shuffled run that got the verdict. `any` is the share of the shuffled runs with at least one,
    with a 95 % interval. No file is written.

    Example: clipkit null 200 attributes img.h5 words.h5 --table shapes
    """,
)


@null.callback()
def describe(
    runs: Annotated[
        int, typer.Argument(metavar="N", help="Number of shuffled runs.", min=1, show_default=False)
    ],
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the shuffles.", min=0)] = 42,
) -> None:
    """Keep what stands before the command: `NullGroup` reads it."""


def _command_of(question: Analysis, runs: int, seed: int) -> Callable[..., None]:
    """Return the function of the command: that of the question, without an output."""

    def command(format: Format = None, no_header: NoHeader = False, **values: Any) -> None:
        rows, interrupted = _measure(question, values, runs, seed)
        _show(rows, Report(format=format, no_header=no_header))
        if interrupted is not None:
            raise interrupted

    *of_report, _ = inspect.signature(command, eval_str=True).parameters.values()
    signature = inspect.Signature([*words_of(question), *of_report])
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__doc__ = question.measure.__doc__
    return command


def _measure(
    question: Analysis, values: Mapping[str, Any], runs: int, seed: int
) -> tuple[list[dict[str, Any]], signals.Interrupted | None]:
    """Return a row for each verdict of the inputs, as they are and shuffled.

    If a signal interrupts the runs, the rows are of those that are finished, and it is returned.
    """
    from clipkit.analysis.shuffling import LABELS, Shuffle

    values, seeds = check_words(question, Report(), values)
    if len(seeds) > 1:
        raise UsageError(f"expected one --seed behind {question.name}, got {len(seeds)}")
    _check_tables(question, values)
    with opened(question, values, seeds) as files:
        inputs = {name: _in_memory(value) for name, value in files.items()}
        given = values_at(question, values, seeds[0])
        real = _verdicts(question.ask(given | inputs))
        if not real:
            raise ClipkitError(
                f"{question.name}: expected a verdict on these files, got none",
                f"clipkit {question.name} --help says on which files it has one",
            )
        clusters = _named_clusters(question, inputs, values)
        shuffled: list[Counter[str]] = []
        draw = question.null
        interrupted = None
        try:
            with console.progress("asking of shuffled inputs", "runs") as update:
                for run in range(runs):
                    with console.muted():
                        if callable(draw):
                            shuffle = Shuffle(LABELS, (seed, run), clusters)
                            found = draw(given | inputs, shuffle)
                        else:
                            found = Shuffle(draw, (seed, run), clusters).values(inputs)
                        shuffled.append(_verdicts(question.ask(given | inputs | found)))
                    update(run + 1, runs)
        except BaseException:  # a library may turn a signal into another error
            interrupted = signals.interrupted()
            if interrupted is None or not shuffled:
                raise
            console.note(f"the rates are of {len(shuffled):,} of {runs:,} runs")
    return _rows(real, shuffled), interrupted


def _check_tables(question: Analysis, values: Mapping[str, Any]) -> None:
    """Refuse a pipe in the place of a table, which only the first run could read."""
    for name, parameter in question.parameters.items():
        if not getattr(record_of(parameter), "is_file", False):
            continue
        paths = values[name] if isinstance(values[name], list) else [values[name]]
        for path in filter(None, paths):
            if Path(path).is_fifo():
                raise UsageError(f"{path}: expected a file, which each run reads, got a pipe")


def _in_memory(value: Any) -> Any:
    """Return a feature file, or a list of them, with features that rows can be taken of."""
    if isinstance(value, list):
        return list(map(_in_memory, value))
    return None if value is None else value.in_memory()


def _named_clusters(
    question: Analysis, inputs: Mapping[str, Any], values: Mapping[str, Any]
) -> dict[str, Int64]:
    """Return the clusters that --cluster names, by split; rows without a value are separate."""
    import numpy as np

    from clipkit.analysis.row_clusters import read_clusters

    column = values.get("cluster")
    first = inputs[question.inputs[0]]
    file = first[0] if isinstance(first, list) else first
    if column is None:
        return {}
    table = values.get("table")
    annotations = read_clusters(file, table, column, list(file.splits), common=True)
    if annotations is None:
        return {}
    (attribute,) = annotations.attributes
    return {
        name: np.where(codes < 0, -1 - np.arange(len(codes)), codes)
        for name, codes in attribute.codes.items()
    }


def _verdicts(answer: Answer) -> Counter[str]:
    """Count the claims of an answer by their verdicts."""
    from clipkit.analysis.verdicts import claims_of, verdict_of

    if answer.result is None:
        return Counter()
    return Counter(map(verdict_of, claims_of(answer.result)))


def _rows(real: Counter[str], shuffled: Sequence[Counter[str]]) -> list[dict[str, Any]]:
    """Return for each verdict how often it was said; those of the inputs as they are come first."""
    from clipkit.statistics.metrics import wilson

    verdicts = dict.fromkeys(real)
    for counts in shuffled:
        verdicts |= dict.fromkeys(counts)
    rows = []
    for verdict in verdicts:
        shares = [counts[verdict] / max(1, counts.total()) for counts in shuffled]
        runs_with_one = sum(counts[verdict] > 0 for counts in shuffled)
        said = runs_with_one / len(shuffled)
        low, high = wilson(said, len(shuffled))
        rows.append(
            {
                "verdict": verdict,
                "real": real[verdict],
                "null": sum(shares) / len(shares),
                "any": said,
                "any_low": low,
                "any_high": high,
            }
        )
    return rows


def _show(rows: Sequence[dict[str, Any]], report: Report) -> None:
    from clipkit.analysis.layout import DEFAULT
    from clipkit.base import tables

    known = {column.name: column for column in COLUMNS}
    headings = {name: column.heading for name, column in known.items()}
    view = report.view._replace(headings=[headings])
    tables.emit(DEFAULT.show(rows, known) if view.is_for_people else rows, view)
