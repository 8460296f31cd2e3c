"""A question: one record, from which its command, tables, pictures and tests follow.

A question is a package of `clipkit.analysis` with the name of its command and the record
`ANALYSIS`, or a researcher's own file, for `clipkit run`. Its help must be quick, so that a package
imports numpy and whatever else is slow inside its functions.
"""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_args

from clipkit.analysis.layout import DEFAULT, Layout
from clipkit.analysis.sections import KNOWN
from clipkit.base.errors import UsageError
from clipkit.base.options import (
    OUTPUT_PANEL,
    Option,
    expand_groups,
    is_list,
    metadata_of,
    parameters_of,
)

if TYPE_CHECKING:
    from clipkit.analysis.shuffling import Shuffle
    from clipkit.base.pictures import Declaration
    from clipkit.features.columns import Column
    from clipkit.features.model import FeatureFile as FeatureFile
    from clipkit.statistics.claims import Claim as Claim
else:  # as annotations: numpy is loaded when a question is asked
    FeatureFile = object
    Claim = object

Row = Mapping[str, Any]
MEASURE, UNDERSTAND = "Measure", "Understand"  # panels of the help
IN_PYTHON = "In Python, a feature file may be a path or an array, and one value stand for a list."
RETURNED = "A result; if rows are asked for, as by per_image, a list of these."
INDENT = "    "


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
    text_option : str
        An option that takes a text in place of the file, if there is one.
    is_streamed : bool
        Whether its features stay in the file and are read in blocks. Otherwise they are in memory.

    If a question takes logits, they may also be given as images and, behind them, texts.
    """

    metavar: str
    help: str
    kinds: tuple[str, ...]
    is_piped: bool = False
    unless: str = ""
    text_option: str = ""
    is_streamed: bool = False


TEXTS = "texts"  # the parameter that follows logits
WITH_TEXTS = Input(
    "TEXTS",
    "In place of logits, give images and then this feature file of texts: img.h5 texts.h5",
    ("texts",),
)


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


def type_of_files(parameter: inspect.Parameter, one: Any) -> Any:
    """Return the type of a parameter that takes feature files, each given as a type `one`."""
    several = list[one] if is_list(get_args(parameter.annotation)[0]) else one
    return several | None if parameter.default is None else several


def _no_claims(result: FeatureFile) -> Sequence[Claim]:
    return []


def _say_claims(result: FeatureFile) -> list[str]:
    from clipkit.analysis.verdicts import claims_of
    from clipkit.statistics.claims import sentences

    return sentences(claims_of(result))


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
        feature files, and with an `Option`, options. An option with kinds takes a feature file,
        unless its type is str. The docstring is the help, and ends in an example.
    columns : tuple of Column
        Those of its reports.
    panel : str
        The panel of `clipkit --help` that shows the command.
    layout : Layout
        How its runs are shown to people; by default, a row per run with all columns.
    claims : callable FeatureFile -> sequence of Claim
        What the intervals of a result decide, and what would decide the rest. They are stored with
        it.
    findings : callable FeatureFile -> list of str
        What a result found, in sentences; by default, its claims.
    needs : str
        The columns that `claims` and `findings` read; another program's results may lack them.
    section : str
        The section of a page that shows a result: a key of `sections.SECTIONS`.
    topic : str
        What a page calls the findings in its section; without it, they are not there.
    explanation : str, or callable FeatureFile -> str
        What the columns are, in Markdown, above a table of a page.
    also : tuple of Analysis
        Records of other results that the question makes, which have no command of their name.
    check : callable, optional
        Takes the words of the command line, by parameter, and refuses those that no file can make
        right, before any is read.
    picture : Declaration, or tuple of Declaration, optional
        How `clipkit plot` draws a result; of several, the first one whose columns the result has.
    null : {"", "labels", "attributes", "images", "pairs"}, or callable
        What `clipkit null` shuffles, so that any claim is wrong; without it, it refuses. A
        function takes the values of all parameters and a `Shuffle`, and returns the values that
        differ where nothing is to be found.
    """

    name: str
    question: str
    measure: Callable[..., FeatureFile | Answer | Sequence[Row]]
    columns: tuple[Column, ...] = ()
    panel: str = MEASURE
    layout: Layout = DEFAULT
    claims: Callable[[FeatureFile], Sequence[Claim]] = _no_claims
    findings: Callable[[FeatureFile], list[str]] = _say_claims
    needs: str = ""
    section: str = KNOWN
    topic: str = ""
    explanation: str | Callable[[FeatureFile], str] = ""
    also: tuple[Analysis, ...] = ()
    check: Callable[..., None] | None = None
    picture: Declaration | tuple[Declaration, ...] | None = None
    null: str | Callable[[Mapping[str, Any], Shuffle], dict[str, Any]] = ""

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

    @functools.cached_property
    def pairing(self) -> str:
        """The input of logits, which images and texts may replace; '' if there is none."""
        kinds = [get_args(self.parameters[name].annotation)[0] for name in self.inputs]
        takes_texts = any(TEXTS in self.files[name].kinds for name in self.inputs)
        if TEXTS in self.parameters or takes_texts or any(map(is_list, kinds)):
            return ""
        taking_logits = [name for name in self.inputs if "logits" in self.files[name].kinds]
        return taking_logits[0] if taking_logits else ""

    @functools.cached_property
    def arguments(self) -> dict[str, inspect.Parameter]:
        """The parameters of the command, and in Python: those of `measure`, and the texts."""
        if not self.pairing:
            return self.parameters
        leading: dict[str, inspect.Parameter] = {}
        others: dict[str, inspect.Parameter] = {}
        for name, parameter in self.parameters.items():
            is_leading = name in self.inputs or parameter.default is parameter.empty
            (leading if is_leading else others)[name] = parameter
        annotation = Annotated[FeatureFile | None, WITH_TEXTS]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        texts = inspect.Parameter(TEXTS, kind, default=None, annotation=annotation)
        return leading | {TEXTS: texts} | others

    def kinds_of(self, name: str, *, has_texts: bool) -> tuple[str, ...]:
        """Return the kinds of files that a parameter takes, beside texts or without any."""
        if name not in self.files:
            return WITH_TEXTS.kinds
        kinds = self.files[name].kinds
        if not has_texts or "logits" not in kinds:
            return kinds
        return tuple(dict.fromkeys((*kinds, "images")))

    def pair(self, name: str, file: FeatureFile, texts: FeatureFile | None) -> FeatureFile:
        """Return a file as `measure` takes it: images beside texts become their logits."""
        record = self.files[name]
        if texts is None or "logits" not in record.kinds:
            return file
        if name == self.pairing and file.kind != "images":
            message = f"{file.display_name}: expected images before {texts.display_name}"
            hint = "leave the texts out" if file.kind == "logits" else None
            raise UsageError(f"{message}, got {file.kind}", hint)
        if file.kind != "images":
            return file
        from clipkit.features.similarity import pair

        logits = pair(file, texts)
        is_streamed = isinstance(record, Input) and record.is_streamed
        return logits if is_streamed else logits.in_memory()

    def explain(self, result: FeatureFile) -> str:
        """Return what the columns of a result are."""
        return self.explanation if isinstance(self.explanation, str) else self.explanation(result)

    def ask(self, values: Mapping[str, Any]) -> Answer:
        """Return the answer, given the values of all parameters."""
        answer: Any = self.measure(**values)
        if not isinstance(answer, Answer):
            answer = Answer(answer)
        if answer.result is not None:
            from clipkit.analysis.verdicts import keep_claims

            keep_claims(answer.result)
        return answer  # type: ignore[no-any-return]

    @property
    def inputs(self) -> list[str]:
        """The parameters that are feature files as arguments."""
        return [name for name, record in self.files.items() if isinstance(record, Input)]

    @functools.cached_property
    def function(self) -> Callable[..., Any]:
        """What Python calls: `measure`, which also takes paths and arrays, and returns a result.

        One value may stand for a list. An option that asks for rows, as `per_image`, gives these.
        """

        def answer(**values: Any) -> Answer:
            return self.ask(values)

        parameters = list(self.arguments.values())
        answer.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        answer = expand_groups(answer)
        signature = inspect.signature(answer)

        @functools.wraps(self.measure)
        def ask(*args: Any, **kwargs: Any) -> Any:
            try:
                bound = signature.bind(*self._gathered(args), **kwargs)
            except TypeError as error:
                known = ", ".join(signature.parameters)
                raise UsageError(f"{self.name}: {error}", f"it takes {known}") from None
            asks_for_rows = False
            has_texts = bound.arguments.get(TEXTS) is not None and bool(self.pairing)
            for name, value in bound.arguments.items():
                parameter = signature.parameters[name]
                bound.arguments[name] = self._converted(parameter, value, has_texts)
                if getattr(record_of(parameter), "panel", "") == OUTPUT_PANEL:
                    asks_for_rows |= value != parameter.default
            bound.apply_defaults()
            if self.pairing:
                texts = bound.arguments.pop(TEXTS)
                for name in self.files:
                    value = bound.arguments[name]
                    if hasattr(value, "kind"):
                        bound.arguments[name] = self.pair(name, value, texts)
            result, rows, _, lines = answer(**bound.arguments)
            if lines is not None:
                return list(lines)
            is_probe = result is not None and result.kind == "probe"
            if asks_for_rows and rows is not None and not is_probe:
                return list(rows)
            return result

        ask.__module__ = "clipkit"  # where it is found
        ask.__signature__ = self._plain(signature)  # type: ignore[attr-defined]
        ask.__doc__ = self._documentation(signature)
        return ask

    def _gathered(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return arguments with the files of a list as a list: `align(a, b)` is `align([a, b])`."""
        from clipkit.features.arguments import is_features

        for place, parameter in enumerate(self.arguments.values()):
            takes_files = parameter.name in self.inputs
            if takes_files and is_list(get_args(parameter.annotation)[0]):
                given = args[place:]
                if len(given) > 1 and all(map(is_features, given)):
                    return (*args[:place], list(given))
        return args

    def _converted(self, parameter: inspect.Parameter, value: Any, has_texts: bool) -> Any:
        """Return an argument as `measure` takes it: files that are read, and lists."""
        from clipkit.features.arguments import as_file, as_files, as_plain
        from clipkit.features.model import FeatureFile

        name, record = parameter.name, record_of(parameter)
        if record is None or value is parameter.default:
            return value
        annotation = get_args(parameter.annotation)[0]
        takes_list = is_list(annotation)
        if value is None and takes_list and parameter.default is not parameter.empty:
            return parameter.default
        is_file = name in (*self.files, TEXTS)
        if is_file or (record.kinds and isinstance(value, FeatureFile)):
            kinds = self.kinds_of(name, has_texts=has_texts) if is_file else record.kinds
            convert: Callable[..., Any] = as_files if takes_list else as_file
            return convert(value, name, " ".join(kinds))
        if getattr(record, "is_file", False):  # a table may be given as such
            return value
        plain = as_plain(value, name, annotation)
        if isinstance(record, Option):
            record.check_range(name, plain)
        return plain

    def _plain(self, signature: inspect.Signature) -> inspect.Signature:
        """Return a signature for people: with types alone, and what Python gets."""
        from clipkit.features.model import FeatureFile

        parameters = []
        for name, parameter in signature.parameters.items():
            kind, *_ = get_args(parameter.annotation) or (Any,)
            if name in (*self.files, TEXTS):
                kind = type_of_files(parameter, FeatureFile)
            parameters.append(parameter.replace(annotation=kind))
        return inspect.Signature(parameters, return_annotation=FeatureFile)

    def _documentation(self, signature: inspect.Signature) -> str:
        """Return the help of the command and of each of its parameters."""
        lines = [inspect.cleandoc(self.measure.__doc__ or ""), "", IN_PYTHON]
        lines += ["", "Parameters", "----------"]
        for name, parameter in signature.parameters.items():
            record = record_of(parameter)
            if record is not None:
                lines.append(f"{name} : {record.metavar or 'True or False'}")
                lines += textwrap.wrap(
                    record.help, 90, initial_indent=INDENT, subsequent_indent=INDENT
                )
        lines += ["", "Returns", "-------", "FeatureFile", f"{INDENT}{RETURNED}"]
        return "\n".join(lines)
