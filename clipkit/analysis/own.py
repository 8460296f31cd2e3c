"""A researcher's own question, for `clipkit run`: a Python file with a record `ANALYSIS`.

Its result says itself what it holds: the question, the columns, the picture and what was found are
in the history, so that tables, pictures and pages never run the file again.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

from clipkit.analysis.question import Analysis, Answer, record_of
from clipkit.base import files, user_code
from clipkit.base.errors import ClipkitError, quote
from clipkit.base.options import Option, metadata_of, options_of, parameters_of
from clipkit.base.pictures import Curves, Declaration, Distributions, Dots, Matrix
from clipkit.features.columns import OWN_QUESTION, TEXT, UNITS, Column

if TYPE_CHECKING:
    from clipkit.features.history import History
    from clipkit.features.model import FeatureFile
    from clipkit.statistics.claims import Claim

TYPES = (str, int, float)
# Options that every report has, and what a command calls them itself
TAKEN = {"report", "output", "format", "columns", "no_header", "force"}


@dataclass(frozen=True)
class OwnAnalysis(Analysis):
    """A question that a file of the user holds; its `measure` returns rows.

    Parameters
    ----------
    file : Path
    """

    file: Path = Path()

    @functools.cached_property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The parameters of `measure`; the checks of their options run under the guard."""
        found = {}
        for name, parameter in parameters_of(self.measure).items():
            option = metadata_of(parameter, Option)
            if option is not None and option.check is not None:
                guarded = replace(option, check=self._guarded(option.check))
                kind = get_args(parameter.annotation)[0]
                parameter = parameter.replace(annotation=Annotated[kind, guarded])
            found[name] = parameter
        return found

    def _guarded(self, check: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with user_code.guard(f"check the words for {self.file}", self.file):
                return check(*args, **kwargs)

        return run

    def ask(self, values: Mapping[str, Any]) -> Answer:
        """Return the answer, with a result that describes itself."""
        return _ask(self, values)


def _of_file(analysis: Analysis, file: Path) -> OwnAnalysis:
    """Return a question as one of a file."""
    given = {field.name: getattr(analysis, field.name) for field in fields(analysis)}
    made = OwnAnalysis(**given, file=file)
    if analysis.check is not None:
        made = replace(made, check=made._guarded(analysis.check))
    return made


def load(path: str) -> OwnAnalysis:
    """Run a Python file, and return its question.

    Raises
    ------
    ClipkitError
        If it raises something, or has no record `ANALYSIS`.
    """
    file = files.expand_user(path)
    found = getattr(user_code.load(file), "ANALYSIS", None)
    if not isinstance(found, Analysis):
        got = "none" if found is None else quote(found)
        raise ClipkitError(
            f"{file}: expected ANALYSIS = clipkit.Analysis(...), got {got}",
            "docs/own-analysis.md has an example",
        )
    with user_code.guard(f"read the question of {file}", file):
        _check_record(found, file)
    return _of_file(found, file)


def _check_record(analysis: Analysis, file: Path) -> None:
    """Refuse a record that no command can be made of, or with fields that a file cannot use."""

    def refuse(expected: str, got: object) -> None:
        raise ClipkitError(f"{file}: expected {expected}, got {quote(got)}")

    for field in ("layout", "explanation", "topic", "also"):
        value = getattr(analysis, field)
        if value != Analysis.__dataclass_fields__[field].default:
            refuse(f"no {field} in the record of one's own question", value)
    if not isinstance(analysis.columns, tuple):
        refuse("a tuple of columns", analysis.columns)
    for column in analysis.columns:
        if not isinstance(column, Column):
            refuse("a clipkit.Column", column)
        if all(column.unit is not unit for unit in UNITS.values()):
            refuse(f"a unit for the column {column.name}, such as clipkit.SHARE", column.unit)
    picture = analysis.picture
    if picture is not None and not isinstance(picture, (Dots, Curves, Matrix, Distributions)):
        refuse("a picture such as clipkit.Dots(...)", picture)
    if not analysis.measure.__doc__:
        refuse("a docstring of its function, which is the help", None)
    for name, parameter in analysis.parameters.items():
        if parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD or name in TAKEN:
            refuse("plain parameters with names that no option of a report has", name)
        if record_of(parameter) is None:
            refuse(
                f"a clipkit.Input or an option as the annotation of {name}", parameter.annotation
            )
    needed = [name for name in analysis.inputs if analysis.parameters[name].default is not None]
    if not needed:
        refuse("a parameter with a clipkit.Input that is needed", None)


def run(question: str | os.PathLike[str] | Analysis, *args: Any, **kwargs: Any) -> FeatureFile:
    """Ask a question of one's own, as `clipkit run` does: its file, or in Python its record.

    Parameters
    ----------
    question : str, path or Analysis
    *args, **kwargs
        Those of its function: feature files, their paths or arrays, and options.

    Returns
    -------
    FeatureFile
        A result.
    """
    if not isinstance(question, Analysis):
        question = load(os.fspath(question))
    elif not isinstance(question, OwnAnalysis):
        question = _of_file(question, Path(inspect.getfile(question.measure)))
    result: FeatureFile = question.function(*args, **kwargs)
    return result


def _ask(analysis: OwnAnalysis, values: Mapping[str, Any]) -> Answer:
    """Ask a question of a file, and return its answer with a result that describes itself."""
    from clipkit.analysis import verdicts
    from clipkit.features.model import FeatureFile

    file = analysis.file
    history = _history(analysis, values)  # before its code could change an input
    guarded = {name: _read_only(value) for name, value in values.items()}
    with user_code.guard(f"ask {file}", file):
        answer: Any = analysis.measure(**guarded)
        if isinstance(answer, FeatureFile | Answer):
            raise TypeError(f"expected rows, got {type(answer).__name__}")
        rows = [dict(row) for row in answer]
        runs = _check_rows(analysis, rows)
    result = FeatureFile("result", history)
    result.set_rows(runs)
    with user_code.guard(f"ask {file} for claims", file):
        verdicts.keep(result, _checked(analysis.claims(result), len(rows)))
    with user_code.guard(f"ask {file} for findings", file):
        found = analysis.findings(result)
        if isinstance(found, str):
            raise TypeError("expected findings as a list of sentences, got one text")
        sentences = [str(sentence) for sentence in found]
    if sentences:
        result.history[-1] = {**result.history[-1], "found": sentences}
    return Answer(result)


def _checked(claims: Any, runs: int) -> list[Claim]:
    """Return the claims of a question of one's own, if each is one about a run of the result."""
    from clipkit.statistics.claims import Claim

    for claim in claims:
        if not isinstance(claim, Claim):
            raise TypeError(f"expected claims as clipkit.Claim, got {type(claim).__name__}")
        if not -1 <= claim.run < runs:
            raise ValueError(f"expected a claim about run 0 to {runs - 1}, or -1, got {claim.run}")
    return list(claims)


def _read_only(value: Any) -> Any:
    """Return feature files whose arrays cannot be changed, and anything else as it is."""
    import numpy as np

    from clipkit.features.model import FeatureFile

    def protect(features: Any) -> Any:
        if not isinstance(features, np.ndarray):
            return features
        view = features.view()
        view.flags.writeable = False
        return view

    if isinstance(value, list):
        return list(map(_read_only, value))
    if not isinstance(value, FeatureFile):
        return value
    splits = {}
    for name, split in value.splits.items():
        splits[name] = replace(split, features=protect(split.features))
    return replace(value, splits=splits, features=protect(value.features))


def _history(analysis: OwnAnalysis, values: Mapping[str, Any]) -> History:
    """Return the history of a result: of its first input, with an entry about the question."""
    inputs: dict[str, str] = {}
    flags: dict[str, str] = {}
    files: list[FeatureFile] = []
    options = options_of(analysis.measure)
    for name in analysis.files:
        given = values.get(name)
        listed = given if isinstance(given, list) else [given]
        for number, one in enumerate(listed, 1):
            if one is not None:
                role = name if given is one else f"{name} {number}"
                inputs[role] = one.digest
                files.append(one)
                if name in options:
                    flags[role] = options[name].flag
    described = {**_describe(analysis), "options": _words(analysis, values)}
    if flags:
        described["flags"] = flags
    return files[0].extended_history(OWN_QUESTION, **described, inputs=inputs)


def _check_rows(
    analysis: OwnAnalysis, rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, str | int | float]]:
    """Return rows with plain values; refuse what the columns of the record do not allow."""
    known = {column.name: column for record in analysis.columns for column in record.family()}
    where = f"{analysis.file}: {analysis.name}"
    if not rows:
        raise ClipkitError(f"{where}: expected rows, got none")
    runs = []
    for number, row in enumerate(rows):
        for name in row:
            if name not in known:
                message = f"{where}: expected a Column for {quote(name)} of row {number}, got none"
                raise ClipkitError(message, f"the record names {', '.join(sorted(known))}")
        if row.keys() != rows[0].keys():
            names = ", ".join(rows[0])
            got = ", ".join(row)
            raise ClipkitError(f"{where}: row {number}: expected the columns {names}, got {got}")
        run = {name: _plain(value) for name, value in row.items()}
        for name, value in run.items():
            unit = known[name].unit
            if isinstance(value, str) != (unit is TEXT) or not isinstance(value, TYPES):
                noun = "a text" if unit is TEXT else "a number"
                got = type(value).__name__
                raise ClipkitError(f"{where}: row {number}: expected {noun} for {name}, got {got}")
            is_outside = not isinstance(value, str) and (value < unit.low or value > unit.high)
            if is_outside or (isinstance(value, int) and abs(value) >= 1 << 63):
                limits = f"{unit.low:.4g} and {unit.high:.4g}"
                raise ClipkitError(
                    f"{where}: row {number}: expected a number between {limits} for {name}, "
                    f"got {value}"
                )
        runs.append(run)
    return runs


def _plain(value: Any) -> str | int | float:
    """Return a value of NumPy as one of Python."""
    is_scalar = hasattr(value, "item") and getattr(value, "size", 1) == 1
    return value.item() if is_scalar else value  # type: ignore[no-any-return]


def _describe(analysis: OwnAnalysis) -> dict[str, Any]:
    """Return what a history says of a question."""
    code = analysis.file.read_bytes()
    question: dict[str, Any] = {
        "name": analysis.name,
        "asks": analysis.question,
        "columns": [column.as_json() for column in analysis.columns],
    }
    if isinstance(analysis.picture, Declaration):
        question["picture"] = analysis.picture.as_json()
    return {
        "code": analysis.file.name,
        "code_digest": f"sha256:{hashlib.sha256(code).hexdigest()}",
        "question": question,
    }


def _words(analysis: OwnAnalysis, values: Mapping[str, Any]) -> list[str]:
    """Return the options of a command line that differ from their defaults, as its words."""
    words: list[str] = []
    for name, option in options_of(analysis.measure).items():
        value, default = values.get(name), analysis.parameters[name].default
        if value == default or name in analysis.files:
            continue
        if option.is_flag:
            words.append(option.flag if value else option.off)
            continue
        for one in value if isinstance(value, list) else [value]:
            words += [option.flag, str(one)]
    return words
