"""Make the command of a question: its inputs, its options, and those of all reports."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipkit.analysis.question import TEXTS, Analysis, Answer, Input, record_of, type_of_files
from clipkit.base import suggestions
from clipkit.base.errors import UsageError, quote
from clipkit.base.options import SEED_FIELD, Option, parse_seeds
from clipkit.commands._options import Report, name_by_seed
from clipkit.commands.next_step import steps

if TYPE_CHECKING:
    from clipkit.commands._options import Steps
    from clipkit.features.model import FeatureFile


def command_of(analysis: Analysis) -> Callable[..., None]:
    """Return the function of a question's command."""

    def command(ctx: typer.Context, report: Report, **values: Any) -> None:
        _ask(analysis, report, values, functools.partial(steps, ctx, analysis, values))

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    context = inspect.Parameter("ctx", kind, annotation=typer.Context)
    of_report = inspect.Parameter("report", kind, annotation=Report)
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [context, of_report, *words_of(analysis)]
    )
    command.__doc__ = analysis.measure.__doc__
    command.analysis = analysis  # type: ignore[attr-defined]
    return command


def words_of(analysis: Analysis) -> list[inspect.Parameter]:
    """Return the parameters of a question as its command line gives them."""
    return [_as_words(analysis, parameter) for parameter in analysis.arguments.values()]


def _as_words(analysis: Analysis, parameter: inspect.Parameter) -> inspect.Parameter:
    """Return a parameter of a question as the command line gives it: files by their names."""
    record = record_of(parameter)
    if isinstance(record, Input):
        argument = typer.Argument(metavar=record.metavar, help=record.help, show_default=False)
        return _parameter(parameter, type_of_files(parameter, str), argument, record)
    if parameter.name in analysis.files:
        return _parameter(parameter, type_of_files(parameter, str), record)
    if isinstance(record, Option) and record.sweeps:
        default = [str(parameter.default)]
        return parameter.replace(annotation=Annotated[list[str], record], default=default)
    return parameter


def _parameter(
    parameter: inspect.Parameter, names: Any, record: Any, input: Input | None = None
) -> inspect.Parameter:
    default = parameter.default
    if input is not None and input.is_piped:
        default = "-"
    return parameter.replace(annotation=Annotated[names, record], default=default)


def _ask(
    analysis: Analysis,
    report: Report,
    values: Mapping[str, Any],
    steps: Steps,
) -> None:
    """Read the files that a command line names, answer the question, and show the answer."""
    values, seeds = check_words(analysis, report, values)
    answers = _answers(analysis, values, seeds)
    if len(seeds) > 1:
        report.show_seeds(seeds, (answer.result for answer in answers if answer.result))
        return
    (answer,) = answers
    report.for_seed(seeds[0]).show(answer, steps)


def check_words(
    analysis: Analysis, report: Report, values: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Sequence[int | str]]:
    """Refuse words of a command line that no file can make right; return its values and seeds."""
    for name, record in analysis.files.items():
        is_replaced = isinstance(record, Input) and values.get(record.unless) is not None
        if is_replaced and values[name] == "-":
            values = {**values, name: None}
        if isinstance(record, Input) and record.text_option and values[name] is not None:
            _refuse_text(str(values[name]), record.text_option)
    seeds = _seeds_of(values)
    report.check_output(*_names_of_inputs(analysis, values), seeds=seeds)
    if analysis.check is not None:
        analysis.check(report=report, **{name: values[name] for name in analysis.parameters})
    return values, seeds


def _refuse_text(value: str, option: str) -> None:
    """Refuse a text in the place of a feature file, if it cannot be the name of a file or a set."""
    is_sentence = any(map(str.isspace, value)) and not Path(value).exists()
    if is_sentence or _is_word(value):
        message = f"expected a feature file, got the text {quote(value)}"
        raise UsageError(message, f"to search for a text: {option} {suggestions.command(value)}")


def _is_word(value: str) -> bool:
    """Whether a value is a plain word, and the name of no file, data set or prompt set."""
    stems = [path.stem for path in Path().glob("*.h5")]
    if not value.isalpha() or Path(value).exists() or difflib.get_close_matches(value, stems, n=1):
        return False
    from clipkit.datasets.registry import REGISTRY  # only an error needs them
    from clipkit.prompts import bundled

    return value not in REGISTRY and value not in bundled.list_files()


def _seeds_of(values: Mapping[str, Any]) -> Sequence[int | str]:
    """Return the seeds of a question that is asked with each of several, or else SEED_FIELD."""
    seed = values.get("seed")
    return parse_seeds(seed) if isinstance(seed, list) else [SEED_FIELD]


def _names_of_inputs(analysis: Analysis, values: Mapping[str, Any]) -> list[str]:
    """Return the names of all files that a command line reads."""
    names: list[str] = []
    for name, parameter in analysis.arguments.items():
        record = record_of(parameter)
        is_feature_file = isinstance(record, Input) or name in analysis.files
        is_read = is_feature_file or getattr(record, "is_file", False)
        value = values.get(name)
        if not is_read or value is None:
            continue
        names += value if isinstance(value, list) else [value]
    return names


def _answers(
    analysis: Analysis, values: Mapping[str, Any], seeds: Sequence[int | str]
) -> Iterator[Answer]:
    """Yield the answer with each seed; files are read once if all seeds share them."""
    first = next(iter(analysis.files))
    names = f"{values[first]}\n{values.get(TEXTS)}"
    at_seed = functools.partial(name_by_seed, names)
    for _, group in itertools.groupby(seeds, at_seed):
        sharing = list(group)
        with opened(analysis, values, sharing) as files:
            for seed in sharing:
                yield analysis.ask(values_at(analysis, values, seed) | files)


def values_at(analysis: Analysis, values: Mapping[str, Any], seed: int | str) -> dict[str, Any]:
    """Return the values of all parameters with one of the seeds; files are still names."""
    given = {name: values[name] for name in analysis.parameters}
    if isinstance(values.get("seed"), list):
        given["seed"] = seed
    return given


@contextlib.contextmanager
def opened(
    analysis: Analysis, values: Mapping[str, Any], seeds: Sequence[int | str]
) -> Iterator[dict[str, FeatureFile | list[FeatureFile] | None]]:
    """Open the files of a command line; several seeds read them into memory if they are small."""
    from clipkit import features
    from clipkit.base.matrices import BlockMatrix

    files: dict[str, FeatureFile | list[FeatureFile] | None] = {}
    with contextlib.ExitStack() as stack:

        def open_one(name: str, path: str) -> FeatureFile:
            source = features.open_file(
                name_by_seed(path, seeds[0]),
                kinds=analysis.kinds_of(name, has_texts=has_texts),
                swapped=_partner(analysis, values, name),
            )
            return stack.enter_context(source)

        has_texts = bool(analysis.pairing) and values[TEXTS] is not None
        texts = open_one(TEXTS, values[TEXTS]).in_memory() if has_texts else None
        for name, record in analysis.files.items():
            value = values[name]
            if value is None:
                files[name] = None
            elif isinstance(value, list):
                files[name] = features.read_all(value, kinds=record.kinds)
            else:
                file = analysis.pair(name, open_one(name, value), texts)
                is_streamed = isinstance(record, Input) and record.is_streamed
                if not is_streamed:
                    file = file.in_memory()
                elif len(seeds) > 1:
                    file = file.map_features(BlockMatrix.read_if_small)
                files[name] = file
        yield files


def _partner(
    analysis: Analysis, values: Mapping[str, Any], name: str
) -> tuple[str, Sequence[str]] | None:
    """Return another input and its kinds, with which an input may have been swapped."""
    if analysis.pairing and name == TEXTS:
        return values[analysis.pairing], ("images",)
    if name == analysis.pairing and values[TEXTS] is not None:
        return values[TEXTS], ("texts",)
    for other, record in analysis.files.items():
        value = values[other]
        if other != name and isinstance(value, str) and record.kinds:
            return value, record.kinds
    return None
