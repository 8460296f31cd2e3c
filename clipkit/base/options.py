"""Describe the options of commands and of pictures, and parse their values.

A command annotates a parameter with an `Option`. Parsing, completion and the command lines that a
report rebuilds from a history follow the fields of the record. Only people read `metavar` and
`help`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, get_args, get_origin

from clipkit.base.errors import UsageError, check_positive

# Panels of the help. Typer shows the other options in one of its own
MODEL_PANEL = "Model"
GENERATIVE_PANEL = "Generative models"
ROWS_PANEL = "Rows and labels"
CONTROLS_PANEL = "Controls"
RUNNING_PANEL = "Running"
OUTPUT_PANEL = "Output"


@dataclass(frozen=True)
class Option:
    """An option of a command or of a picture.

    Parameters
    ----------
    metavar, help : str
        What the help shows for the value, and what it says.
    names : tuple of str
        Such as ``("--output", "-o")``; by default, the name of the parameter. A flag that can also
        be false has one name, such as ``"--clean/--no-clean"``.
    is_flag : bool
        Whether the option takes no value.
    choices : tuple of str
        Refuse all other values.
    completes : tuple of str, or str
        What a shell offers besides the choices: values, or the name of a function in
        `clipkit.commands._completion` that returns them.
    has_commas : bool
        Whether commas separate several values, so that the flag need not be repeated.
    kinds : tuple of str
        The kinds of feature files that the value may name.
    min, max : float, optional
        The range of a number.
    check : callable (context, value) -> value, optional
        Refuse or replace a value before the command does any work.
    envvar : str, optional
        The environment variable that holds the value if the option is not given.
    panel : str
        The panel of the help that shows it, or "" for the one of the command's own options.
    is_eager, is_hidden : bool
        Whether it is parsed before other options; whether the help leaves it out.
    is_list : bool
        Whether the option may be given several times; `options_of` reads it from the parameter.
    """

    metavar: str
    help: str
    names: tuple[str, ...] = ()
    is_flag: bool = False
    choices: tuple[str, ...] = ()
    completes: tuple[str, ...] | str = ()
    has_commas: bool = False
    kinds: tuple[str, ...] = ()
    min: float | None = None
    max: float | None = None
    check: Callable[[Any, Any], Any] | None = None
    envvar: str | None = None
    panel: str = ""
    is_eager: bool = False
    is_hidden: bool = False
    is_list: bool = False

    @property
    def flag(self) -> str:
        """The longest name; of a flag that can be false, the name that means true."""
        return max((name.partition("/")[0] for name in self.names), key=len)

    @property
    def off(self) -> str:
        """The name that means false, or ''."""
        return "".join(name.partition("/")[2] for name in self.names)


def option(metavar: str, help: str, *names: str, **fields: Any) -> Option:
    """Return an option that takes a value. Without `names`, the parameter's name is its name."""
    return Option(metavar, help, names, **fields)


def choice(choices: Sequence[str], help: str, *names: str, **fields: Any) -> Option:
    """Return an option that takes one of several values."""
    return Option("|".join(choices), help, names, choices=tuple(choices), **fields)


def flag(names: str, help: str, **fields: Any) -> Option:
    """Return an option without a value, such as `--force -f` or `--normalize/--no-normalize`."""
    return Option("", help, tuple(names.split()), is_flag=True, **fields)


def split_option(help: str, *names: str) -> Option:
    """Return an option that names a split of a feature file, or several that are joined."""
    return Option("NAME[,NAME...]", help, names, completes="splits", panel=ROWS_PANEL)


def attribute_option(help: str, *names: str) -> Option:
    """Return an option that names an attribute of a table."""
    return Option("NAME", help, names, completes="attributes", panel=ROWS_PANEL)


def options_of(function: Callable[..., Any]) -> dict[str, Option]:
    """Return the options of a function by its parameters, with their names and `is_list`."""
    options = {}
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        for option in getattr(parameter.annotation, "__metadata__", ()):
            if isinstance(option, Option):
                names = option.names or (f"--{name.replace('_', '-')}",)
                is_list = _is_list(get_args(parameter.annotation)[0])
                options[name] = replace(option, names=names, is_list=is_list)
    return options


def _is_list(annotation: Any) -> bool:
    """Whether a type is a list, or a list or None."""
    return list in (get_origin(annotation), *map(get_origin, get_args(annotation)))


Temperatures = Annotated[
    list[str],
    option(
        "TAU[,TAU...]",
        "Divide the similarities by TAU; 'model' is the model's own temperature.",
        "--temperature",
        "-t",
        has_commas=True,
    ),
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
EvalSplit = Annotated[str, split_option("Split to score.")]


def split_words(values: Sequence[str]) -> list[str]:
    """Split comma-separated values into words.

    >>> split_words(["1, 0.5", "0.07"])
    ['1', '0.5', '0.07']
    """
    return [word.strip() for value in values for word in value.split(",")]


def parse_numbers(words: Sequence[str], name: str) -> list[float]:
    """Parse positive numbers and drop repeated ones.

    >>> parse_numbers(["1", "0.5", "1.0"], "temperature")
    [1.0, 0.5]
    """
    return list(dict.fromkeys(check_positive(name, word) for word in words))


def parse_temperatures(words: Sequence[str], logit_scale: float | None) -> list[float]:
    """Parse temperatures; the word `model` stands for 1 / `logit_scale`, which must not be None."""
    if "model" in words and logit_scale is None:
        raise UsageError(
            "temperature 'model': expected logits with a logit_scale, got none",
            "give a number: -t 0.01",
        )
    if logit_scale is not None:
        learned = repr(1 / logit_scale)
        words = [learned if word == "model" else word for word in words]
    return parse_numbers(words, "temperature")
