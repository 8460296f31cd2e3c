"""Describe the options of commands and of pictures, and parse their values.

A command annotates a parameter with an `Option`. Parsing, completion and the command lines that a
report rebuilds from a history follow the fields of the record. Only people read `metavar` and
`help`.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, TypeVar, get_args, get_origin

from clipkit.base.errors import UsageError, check_positive

T = TypeVar("T")

# Panels of the help. Typer shows the other options in one of its own
DATA_PANEL = "Data set"
MODEL_PANEL = "Model"
LAYERS_PANEL = "Hidden states of layers"
GENERATIVE_PANEL = "Generative models"
ROWS_PANEL = "Rows and labels"
CONTROLS_PANEL = "Controls"
RUNNING_PANEL = "Running"
OUTPUT_PANEL = "Output"
MAX_COUNT = 2**31 - 1
MAX_SEED = 2**32 - 1  # of numpy's RandomState
SEED_FIELD = "{seed}"  # in the name of a file
WHOLE_NUMBER = re.compile("[0-9]{1,10}")


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
    sweeps : bool
        Whether a command takes several values of it, and answers its question with each.
    has_commas : bool
        Whether commas separate several values, so that the flag need not be repeated.
    kinds : tuple of str
        The kinds of feature files that the value may name.
    is_file : bool
        Whether the value names another file that is read, such as a table.
    member : str, optional
        The path of the value in the entry of a history, or "" for the name of the parameter. None
        if a command line that a page rebuilds does not need the option.
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
    sweeps: bool = False
    has_commas: bool = False
    kinds: tuple[str, ...] = ()
    is_file: bool = False
    member: str | None = ""
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

    def check_range(self, name: str, value: Any) -> None:
        """Refuse a number, or one of a list, that is out of the range."""
        for number in value if isinstance(value, list) else [value]:
            if not isinstance(number, int | float):
                continue
            if self.min is not None and number < self.min:
                raise UsageError(f"{name}: expected at least {self.min}, got {number}")
            if self.max is not None and number > self.max:
                raise UsageError(f"{name}: expected at most {self.max}, got {number}")


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


def attribute_option(help: str, *names: str, metavar: str = "NAME", **fields: Any) -> Option:
    """Return an option that names an attribute of a table, or several."""
    return Option(metavar, help, names, completes="attributes", panel=ROWS_PANEL, **fields)


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters of a function; what it returns need not be imported yet."""
    signature = inspect.signature(function)
    function = inspect.unwrap(function)
    parameters = {}
    for name, parameter in signature.parameters.items():
        if isinstance(parameter.annotation, str):
            annotation = eval(parameter.annotation, function.__globals__)
            parameter = parameter.replace(annotation=annotation)
        parameters[name] = parameter
    return parameters


def expand_groups(command: Callable[..., T]) -> Callable[..., T]:
    """Give a function an option for each field of its parameters that are dataclasses."""
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if is_dataclass(parameter.annotation):
            groups[name] = parameter.annotation
        else:
            parameters.append(parameter)
    for group in groups.values():
        parameters += inspect.signature(group, eval_str=True).parameters.values()

    @functools.wraps(command)
    def run(**values: Any) -> T:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        return command(**values)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


def metadata_of(parameter: inspect.Parameter, kind: type[T]) -> T | None:
    """Return the record of a class that annotates a parameter, or None."""
    for record in getattr(parameter.annotation, "__metadata__", ()):
        if isinstance(record, kind):
            return record
    return None


def options_of(function: Callable[..., Any]) -> dict[str, Option]:
    """Return the options of a function by its parameters, with their names and `is_list`."""
    options = {}
    for name, parameter in parameters_of(function).items():
        option = metadata_of(parameter, Option)
        if option is not None:
            names = option.names or (f"--{name.replace('_', '-')}",)
            annotation = get_args(parameter.annotation)[0]
            options[name] = replace(option, names=names, is_list=is_list(annotation))
    return options


def is_list(annotation: Any) -> bool:
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
    str | None,
    option(
        "NAME",
        "Column of a manifest that names the image files (default: path).",
        member="dataset.columns.path",
        panel=DATA_PANEL,
    ),
]
LabelColumn = Annotated[
    str | None,
    option(
        "NAME",
        "Column of a manifest with the labels (default: label, if present).",
        member="dataset.columns.label",
        panel=DATA_PANEL,
    ),
]
SplitColumn = Annotated[
    str | None,
    option(
        "NAME",
        "Column of a manifest with the splits (default: split, if present).",
        member="dataset.columns.split",
        panel=DATA_PANEL,
    ),
]
ClusterColumn = Annotated[
    str | None,
    option(
        "NAME",
        "Images with the same value of this column of a manifest, or with 'folder' those of a "
        "folder, depend on each other.",
        "--cluster",
        member="dataset.cluster",
        panel=DATA_PANEL,
    ),
]
Near = Annotated[
    float | None,
    option(
        "COSINE",
        "Images whose embeddings have this cosine or more are near copies: a cluster, which counts "
        "once.",
        min=0.5,
        max=1,
        panel=DATA_PANEL,
    ),
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


def parse_counts(
    words: Sequence[str | int], name: str, low: int = 1, top: int = MAX_COUNT
) -> list[int]:
    """Parse whole numbers, sorted, without repeats.

    >>> parse_counts(["4", "1", "4"], "shots")
    [1, 4]
    """
    for word in map(str, words):
        if not WHOLE_NUMBER.fullmatch(word) or not low <= int(word) <= top:
            expected = f"whole numbers between {low} and {top}"
            raise UsageError(f"{name}: expected {expected}, got {word!r}", f"choose {low} or more")
    return sorted(set(map(int, words)))


def parse_seeds(words: Sequence[str | int]) -> list[int]:
    """Parse seeds, sorted, without repeats."""
    return parse_counts(words, "seed", 0, MAX_SEED)
