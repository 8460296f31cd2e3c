"""A researcher's own question, for `clipkit run`: a Python file with a record `ANALYSIS`.

Its result says itself what it holds: the question, the columns, the picture and what was found are
in the history, so that tables, pictures and pages never run the file again.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkit.analysis.question import Analysis, Answer
from clipkit.base import own_code
from clipkit.base.errors import ClipkitError, quote
from clipkit.base.options import options_of

if TYPE_CHECKING:
    from clipkit.features.model import FeatureFile

COMMAND = "run"
TYPES = (str, int, float)


@dataclass(frozen=True)
class OwnAnalysis(Analysis):
    """A question that a file of the user holds; `measure` may also return rows.

    Parameters
    ----------
    file : Path
    """

    file: Path = Path()

    def ask(self, values: Mapping[str, Any]) -> Answer:
        """Return the answer, with a result that describes itself."""
        return _ask(self, values)


def _of_file(analysis: Analysis, file: Path) -> OwnAnalysis:
    """Return a question as one of a file."""
    given = {field.name: getattr(analysis, field.name) for field in fields(analysis)}
    return OwnAnalysis(**given, file=file)


def load(path: str) -> OwnAnalysis:
    """Run a Python file, and return its question.

    Raises
    ------
    ClipkitError
        If it raises something, or has no record `ANALYSIS`.
    """
    file = Path(path).expanduser()
    found = getattr(own_code.load(file), "ANALYSIS", None)
    if not isinstance(found, Analysis):
        got = "none" if found is None else quote(found)
        raise ClipkitError(
            f"{file}: expected ANALYSIS = clipkit.Analysis(...), got {got}",
            "docs/own-analysis.md has an example",
        )
    with own_code.border(f"read the question of {file}", file):
        if not found.inputs:
            raise ClipkitError(f"{file}: expected a parameter with a clipkit.Input, got none")
        assert found.measure.__doc__, "its function needs a docstring, which is the help"
    return _of_file(found, file)


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
    file = analysis.file
    with own_code.border(f"ask {file}", file):
        answer: Any = analysis.measure(**values)
        if isinstance(answer, Answer):
            answer = answer.result
        rows = [] if hasattr(answer, "history") else [dict(row) for row in answer]
    result = _make_result(analysis, rows, values) if rows else answer
    if not hasattr(result, "history"):
        raise ClipkitError(f"{file}: {analysis.name}: expected rows, got none")
    described = {**_describe(analysis), "options": _words(analysis, values)}
    result.history[-1] = {**result.history[-1], **described}
    with own_code.border(f"ask {file} for findings", file):
        found = [str(sentence) for sentence in analysis.findings(result)]
    if found:
        result.history[-1] = {**result.history[-1], "found": found}
    return Answer(result)


def _make_result(
    analysis: OwnAnalysis, rows: Sequence[Mapping[str, Any]], values: Mapping[str, Any]
) -> FeatureFile:
    """Return a result with rows, which may have the columns of the record alone."""
    from clipkit.features.model import FeatureFile

    known = {column.name for record in analysis.columns for column in record.family()}
    where = f"{analysis.file}: {analysis.name}"
    for number, row in enumerate(rows):
        for name, value in row.items():
            if name not in known:
                message = f"{where}: expected a Column for {quote(name)} of row {number}, got none"
                raise ClipkitError(message, f"the record names {', '.join(sorted(known))}")
            if not isinstance(_plain(value), TYPES):
                got = type(value).__name__
                raise ClipkitError(f"{where}: expected a text or a number for {name}, got {got}")
    inputs: dict[str, str] = {}
    files: list[FeatureFile] = []
    for name in analysis.files:
        given = values.get(name)
        listed = given if isinstance(given, list) else [given]
        for number, one in enumerate(listed, 1):
            if one is not None:
                role = name if given is one else f"{name} {number}"
                inputs[role] = one.digest
                files.append(one)
    result = FeatureFile("result", files[0].extended_history(COMMAND, inputs=inputs))
    result.set_rows([{name: _plain(value) for name, value in row.items()} for row in rows])
    return result


def _plain(value: Any) -> str | int | float:
    """Return a value of NumPy as one of Python."""
    return value.item() if hasattr(value, "item") else value  # type: ignore[no-any-return]


def _describe(analysis: OwnAnalysis) -> dict[str, Any]:
    """Return what a history says of a question."""
    code = analysis.file.read_bytes()
    question: dict[str, Any] = {
        "name": analysis.name,
        "asks": analysis.question,
        "columns": [column.as_json() for column in analysis.columns],
    }
    if analysis.picture is not None:
        question["picture"] = analysis.picture.as_json()
    return {
        "command": COMMAND,
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
