"""Options: parsing, completion and rebuilt command lines follow the record, never its texts."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Annotated, Any

import typer
from typer.main import get_command

from clipkit import analysis, plots
from clipkit.base.options import Option, choice, option, options_of
from clipkit.cli import app
from clipkit.commands._options import option_table, with_typer
from clipkit.report.command_lines import _flag_of_input, _option

# Texts from which behaviour was read once
METAVAR = "left|right|K[,K...]|FILE"
HELP = "A list, a FILE or a range (default: left); repeatable."
WORDS = ("1", "1,5", "left", "svm")
VALUES = ("left", 5, 0.5, True, False, None, [1, 5], ["a"], {"val": 0.25})


def all_options() -> list[Option]:
    """Return the different options of all commands and pictures, without their texts."""
    tables = list(option_table(get_command(app)).values())
    tables += [options_of(picture.draw) for picture in plots.PICTURES.values()]
    options: dict[Option, None] = {}
    for table in tables:
        for one in table.values():
            # checks look at values alone; eager options would end the command
            options[replace(one, metavar="N", help="", check=None, envvar=None)] = None
    return list(options)


def command_of(options: list[Option]) -> Any:
    """Return a command with all of the options, called --o0, --o1 and so on."""

    def command(**values: Any) -> None:
        raise AssertionError

    parameters = []
    for number, one in enumerate(options):
        name = f"--o{number}/--no-o{number}" if one.off else f"--o{number}"
        kind: Any = bool if one.is_flag else str
        annotation = list[kind] if one.is_list else kind
        parameters.append(
            inspect.Parameter(
                f"o{number}",
                inspect.Parameter.KEYWORD_ONLY,
                annotation=Annotated[annotation | None, replace(one, names=(name,))],
                default=None,
            )
        )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    own = typer.Typer()
    own.command()(with_typer(command))
    return get_command(own)


def parse(command: Any, *words: str) -> Any:
    """Return the values of a command line, or the error."""
    try:
        values = command.make_context("own", list(words)).params
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return {name: value for name, value in values.items() if value}


def offered(command: Any, number: int) -> list[str]:
    """Return the values of an option that a shell offers."""
    context = command.make_context("own", [])
    return [item.value for item in command.params[number].shell_complete(context, "")]


def what_it_does(one: Option) -> list[Any]:
    """Return how an option parses words, what a shell offers, and how a report writes it."""
    command = command_of([one])
    found: list[Any] = []
    for word in WORDS:
        words = ["--o0"] if one.is_flag else ["--o0", word]
        found.append(parse(command, *words))
    if not isinstance(one.completes, str):
        found.append(offered(command, 0))
    found.append([_option({"x": value}, "x", one) for value in VALUES])
    found.append(_flag_of_input("x 2", {"x": one}))
    return found


def test_no_metavar_and_no_help_text_changes_what_an_option_does():
    options = all_options()
    assert len(options) > 50
    for one in options:
        other = replace(one, metavar=METAVAR, help=HELP)
        assert what_it_does(other) == what_it_does(one), one


def test_the_record_says_what_is_refused_offered_split_and_repeated():
    options = [
        choice(("svm", "knn"), "", "--choice"),
        replace(option("N", "", "--commas", has_commas=True), is_list=True),
        replace(option("N", "", "--repeated"), is_list=True),
    ]
    command = command_of(options)
    assert parse(command, "--o0", "knn") == {"o0": "knn"}
    assert parse(command, "--o0", "left") == "UsageError: unknown o0 'left'; hint: known: knn, svm"
    assert parse(command, "--o1", "1,5") == {"o1": ["1", "5"]}
    assert parse(command, "--o2", "1,5") == {"o2": ["1,5"]}
    assert [offered(command, number) for number in range(3)] == [["svm", "knn"], [], []]
    assert [_option({"x": [1, 5]}, "x", one) for one in options[1:]] == [
        ["--commas", "1,5"],
        ["--repeated", "1", "--repeated", "5"],
    ]


def test_an_option_that_names_a_file_of_a_question_says_so():
    for name in analysis.names():
        for parameter, one in options_of(analysis.find(name).measure).items():
            if one.metavar in ("FILE", "TABLE", "TABLE|DATASET"):
                assert one.is_file or one.kinds, (name, parameter)
