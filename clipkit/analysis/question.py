"""A question: one record, from which its command, tables, pictures and tests follow.

A question is a package of `clipkit.analysis` with the name of its command and the record
`ANALYSIS`, or a researcher's own file, for `clipkit run`. Its help must be quick, so that a package
imports numpy and whatever else is slow inside its functions.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from clipkit.base.errors import UsageError
from clipkit.base.options import Option, is_list, metadata_of, parameters_of

if TYPE_CHECKING:
    from clipkit.features.columns import Column
    from clipkit.features.model import FeatureFile as FeatureFile
else:
    FeatureFile = object  # as an annotation: numpy is loaded when a question is asked

Row = Mapping[str, Any]
MEASURE, UNDERSTAND = "Measure", "Understand"  # panels of the help


@dataclass(frozen=True)
class Input:
    """A feature file that a question takes, as an argument of its command.

    Parameters
    ----------
    metavar, help : str
        What the help shows for the file, and what it says.
    kinds : tuple of str
        The kinds of feature files that are taken; all, if empty.
    is_piped : bool
        Whether it is standard input if it is left out.
    unless : str
        A parameter: if it is given, standard input is not read.
    is_streamed : bool
        Whether its features stay in the file and are read in blocks. Otherwise they are in memory.
    """

    metavar: str
    help: str
    kinds: tuple[str, ...]
    is_piped: bool = False
    unless: str = ""
    is_streamed: bool = False


class Answer(NamedTuple):
    """A result, and what the command prints in place of its runs.

    Attributes
    ----------
    result : FeatureFile, optional
        What -o saves; None if only `lines` are asked for.
    rows : iterable of rows, optional
        Such as a row for each image.
    notes : sequence of str
        What stands below a table of `rows`.
    lines : iterable of str, optional
        Printed as they are, in place of a report.
    """

    result: FeatureFile | None
    rows: Iterable[Row] | None = None
    notes: Sequence[str] = ()
    lines: Iterable[str] | None = None


def record_of(parameter: inspect.Parameter) -> Input | Option | None:
    """Return what annotates a parameter of a question."""
    return metadata_of(parameter, Input) or metadata_of(parameter, Option)


def _is_file(record: Input | Option, parameter: inspect.Parameter) -> bool:
    """Whether a parameter is a feature file: a measure itself reads what a text may name."""
    annotation = get_args(parameter.annotation)[0]
    is_text = str in (annotation, *get_args(annotation))
    return isinstance(record, Input) or (bool(record.kinds) and not is_text)


def _nothing(result: FeatureFile) -> list[str]:
    return []


@dataclass(frozen=True)
class Analysis:
    """The record of a question.

    Parameters
    ----------
    name : str
        Of the command, and of the function `clipkit.<name>` in Python.
    question : str
        The question in one sentence.
    measure : callable -> FeatureFile, Answer or, in a file of one's own, rows
        Answers it. Its parameters are those of the command: annotated with an `Input`, they are
        feature files, and with an `Option` options, whose values are files if they have kinds and
        are no text. Its
        documentation is the help, and ends in an example.
    columns : tuple of Column
        Those of its reports.
    panel : str
        The panel of `clipkit --help` that shows the command.
    layout : Layout, optional
        How its runs are shown to people; by default, a row per run with all columns.
    findings : callable FeatureFile -> list of str
        What a result found, in sentences.
    needs : str
        The columns that `findings` reads; another program's results may lack them.
    check : callable, optional
        Takes the words of the command line, by parameter, and refuses those that no file can make
        right, before any is read.
    picture : a record of `clipkit.base.pictures`, optional
        How `clipkit plot` draws a result.
    """

    name: str
    question: str
    measure: Callable[..., FeatureFile | Answer | Sequence[Row]]
    columns: tuple[Column, ...] = ()
    panel: str = MEASURE
    layout: Any = None
    findings: Callable[[FeatureFile], list[str]] = _nothing
    needs: str = ""
    check: Callable[..., None] | None = None
    picture: Any = None

    @functools.cached_property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The parameters of `measure`, with the records that annotate them."""
        return parameters_of(self.measure)

    @functools.cached_property
    def files(self) -> dict[str, Input | Option]:
        """The parameters that are feature files: inputs, and options with kinds."""
        found: dict[str, Input | Option] = {}
        for name, parameter in self.parameters.items():
            record = record_of(parameter)
            if record is not None and _is_file(record, parameter):
                found[name] = record
        return found

    def ask(self, values: Mapping[str, Any]) -> Answer:
        """Return the answer, given the values of all parameters."""
        answer: Any = self.measure(**values)
        return answer if isinstance(answer, Answer) else Answer(answer)

    @property
    def inputs(self) -> list[str]:
        """The parameters that are feature files as arguments."""
        return [name for name, record in self.files.items() if isinstance(record, Input)]

    @property
    def function(self) -> Callable[..., Any]:
        """What Python calls: `measure`, which also takes paths and arrays, and returns a result.

        One value may stand for a list.
        """

        @functools.wraps(self.measure)
        def ask(*args: Any, **kwargs: Any) -> Any:
            try:
                bound = inspect.signature(self.measure).bind(*args, **kwargs)
            except TypeError as error:
                known = ", ".join(self.parameters)
                raise UsageError(f"{self.name}: {error}", f"it takes {known}") from None
            for name, value in bound.arguments.items():
                bound.arguments[name] = self._converted(name, value)
            bound.apply_defaults()
            answer = self.ask(bound.arguments)
            return answer.result if answer.lines is None else list(answer.lines)

        return ask

    def _converted(self, name: str, value: Any) -> Any:
        """Return an argument as `measure` takes it: files that are read, and lists."""
        from clipkit.features.arguments import as_file, as_files, as_plain

        parameter = self.parameters[name]
        annotation = get_args(parameter.annotation)[:1]
        takes_list = is_list(annotation[0]) if annotation else False
        if name in self.files:
            kinds = " ".join(self.files[name].kinds)
            if takes_list:
                return as_files([] if value is None else value, name, kinds)
            return as_file(value, name, kinds)
        is_file = getattr(record_of(parameter), "is_file", False)  # a table may be given as such
        if not annotation or is_file or value is parameter.default:
            return value
        return as_plain(value, name, annotation[0])
