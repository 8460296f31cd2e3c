r"""Parse prompts and class names from JSON, CSV and TSV.

- A JSON list holds prompts or class names.
- A JSON object holds the descriptions of each class, as CuPL writes them: ``{"bird": ["a bird has
  wings", "a bird flies"]}``. A description is a complete prompt.
- A JSON object of data sets, as CLIP_benchmark has it, holds class names, descriptions or templates
  for each: ``{"imagenet1k": ["tench", ...], ...}``.
- A class index (see `clipkit.prompts.class_index`) names classes by numbers or WordNet ids.
- A .csv file begins with a header, and a column holds the prompts or class names.
- A text file of classes holds in each line a name, or a name, a tab and a wording.

Whatever the file, a prompt is one line: a line break inside becomes a space, as in the tokenizers.
What `clipkit.prompts.texts` refuses in a prompt file is refused here too.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clipkit.base import console, suggestions
from clipkit.base.console import count
from clipkit.base.csv_rows import BOM, check_not_empty, load_json, read_table
from clipkit.base.errors import ClipkitError, UsageError, unknown
from clipkit.prompts.class_index import Entry, parse_class_index
from clipkit.prompts.texts import (
    STRIPPED,
    Prompts,
    check_controls,
    check_count,
    check_length,
    check_placeholders,
    from_lines,
    parse,
    quote,
)

DEFAULT_TEMPLATE = "a photo of a {}"
COMPLETE = "{}"  # the template of wordings that are complete prompts
WORDING = "wording"  # a column that fills the default template, unlike complete prompts
PROMPT_COLUMNS = ("prompt", "text", WORDING)
CLASS_COLUMNS = ("class", "name")
IMAGE = "image"  # the column of a table of captions with the id of the image
KNOWN_COLUMNS = (*PROMPT_COLUMNS, *CLASS_COLUMNS)
INDEX_COLUMNS = ("name", "wnid")  # of a class index
NAMELESS = re.compile(rb"^(\xef\xbb\xbf)? *\t[ \t]*\S", re.MULTILINE)  # nothing before a tab
LINE_BREAK = re.compile(r"\s*[\r\n]\s*")
# A class has no such name: an object with one of them is CLIP_benchmark's, keyed by data set.
DATASETS = ("cifar10", "imagenet1k")
DATASET_HINT = "name the data set with --column"
JSON_TYPES = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}


@dataclass(frozen=True)
class ClassNames:
    """Class names and what prompts call the classes.

    Attributes
    ----------
    names : list of C str
    wordings : list of P str
        What prompts say for the classes, at least one for each; the names by default.
    source : dict
        Where the names come from, as the history records it.
    class_index : list of P int
        The class of each wording; 0, 1, ... by default.
    template : str
        What a wording fills if nothing else is asked for.
    blank : int
        The number of blank wordings that were dropped.
    model : dict, optional
        The model of the feature file that the names come from.
    file : str
        What messages call that file.
    dataset : str
        The data set of the classes, by which a file may hold their templates.
    """

    names: list[str]
    wordings: list[str] = field(default_factory=list)
    source: dict[str, Any] = field(default_factory=dict)
    class_index: list[int] = field(default_factory=list)
    template: str = DEFAULT_TEMPLATE
    blank: int = 0
    model: dict[str, Any] | None = None
    file: str = ""
    dataset: str = ""

    def __post_init__(self) -> None:
        if not self.wordings:
            self.wordings.extend(self.names)
        if not self.class_index:
            self.class_index.extend(range(len(self.wordings)))

    @property
    def is_ensemble(self) -> bool:
        """Whether a class has several wordings."""
        return len(self.wordings) > len(self.names)

    def warnings(self, name: str) -> list[str]:
        """Return a one-line warning about blank wordings; `name` is what it calls the file."""
        return [f"{name}: {count(self.blank, 'blank prompt')} dropped"] if self.blank else []

    def repeated_wording(self) -> tuple[str, int]:
        """Return the wording that most classes share, and their number."""
        pairs = set(zip(self.wordings, self.class_index, strict=True))
        ((wording, number),) = Counter(wording for wording, _ in pairs).most_common(1)
        return wording, number


# ---- JSON ----------------------------------------------------------------------------------------


def is_json(data: bytes) -> bool:
    """Return True for a JSON list or object: standard input has no ending that says so."""
    if not data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"[", b"{")):
        return False
    try:
        json.loads(data.decode("utf-8-sig"))
    except RecursionError:  # parse_json refuses it
        return True
    except ValueError:
        return False
    return True


def parse_json(data: bytes, name: str, column: str | None = None) -> Prompts | ClassNames:
    r"""Parse a JSON list of prompts, descriptions of classes, or a class index.

    Classes are in the order of the file, or of the numbers of a class index. `column` says which
    part of a class index names the classes: ``name`` (the default) or ``wnid``. Of an object keyed
    by data set, it is the data set.

    >>> classes = parse_json(b'{"bird": ["it flies", "it sings"], "cat": ["it purrs"]}', "x.json")
    >>> classes.names, classes.wordings, classes.class_index
    (['bird', 'cat'], ['it flies', 'it sings', 'it purrs'], [0, 0, 1])
    """
    content = _load(data, name)
    index = parse_class_index(content)
    if column is not None and index is None:
        content = _of_dataset(content, column, name)
        if isinstance(content, list):
            return ClassNames(_parse_list(content, name).texts)
    elif isinstance(content, dict) and not content.keys().isdisjoint(DATASETS):
        got = f"{count(len(content), 'data set')}"
        raise UsageError(f"{name}: expected the classes of one data set, got {got}", DATASET_HINT)
    if isinstance(content, list):
        return _parse_list(content, name)
    if not isinstance(content, dict):
        raise ClipkitError(f"{name}: expected a list or an object, got {_type(content)}")
    if index is not None:
        return _name_classes(index, name, column or INDEX_COLUMNS[0])
    return _parse_descriptions(content, name)


def parse_templates(data: bytes, name: str, dataset: str) -> list[str]:
    r"""Parse a JSON list of templates, or the list of a data set of an object.

    >>> parse_templates(b'{"shapes": ["a {c}", "one {c}"], "pets": ["a {c}"]}', "x.json", "shapes")
    ['a {c}', 'one {c}']
    """
    content = _load(data, name)
    if isinstance(content, dict) and not dataset:
        raise UsageError(
            f"{name}: expected classes of a data set, by which to choose templates, got a file",
            "name the data set, or write the classes in a .json file keyed by data set, too",
        )
    if isinstance(content, dict):
        content = _of_dataset(content, dataset, name)
    if not isinstance(content, list):
        raise ClipkitError(f"{name}: expected a list of templates, got {_type(content)}")
    templates = _parse_list(content, name)
    check_placeholders(templates)
    return templates.texts


def _of_dataset(content: Any, dataset: str, name: str) -> Any:
    """Return what an object holds for a data set."""
    if not isinstance(content, dict):
        raise UsageError(
            f"{name}: expected a class index or an object of data sets with --column, got "
            f"{_type(content)}",
            "leave --column out",
        )
    if dataset not in content:
        raise unknown(f"data set of {name}", dataset, content).adding_hint(DATASET_HINT)
    return content[dataset]


def _load(data: bytes, name: str) -> Any:
    return load_json(data, name, "write all descriptions of a class in one list")


def _parse_list(content: list[Any], name: str) -> Prompts:
    check_count(len(content), f"{name}: ")
    texts, numbers = [], []
    for number, value in enumerate(content, start=1):
        text = _clean(value, f"{name}, prompt {number}")
        if text:
            texts.append(text)
            numbers.append(number)
    if not content:
        raise ClipkitError(f"{name}: expected at least one prompt, got an empty list")
    return from_lines(name, texts, numbers, len(content) - len(texts), "prompt")


def _parse_descriptions(content: dict[str, Any], name: str) -> ClassNames:
    if not content:
        raise ClipkitError(f"{name}: expected at least one class, got an empty object")
    check_count(len(content), f"{name}: ")
    collected = _Collected(name)
    for key, value in content.items():
        where = f"{name}, {quote(key)}"
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list):
            raise ClipkitError(f"{where}: expected a list of prompts, got {_type(value)}")
        if not values:
            raise ClipkitError(f"{where}: expected at least one prompt, got none")
        texts = [_clean(text, f"{where}, prompt {n}") for n, text in enumerate(values, start=1)]
        class_name = _clean(key, where)
        if class_name in collected.number_of:
            raise ClipkitError(f"{name}: expected each class once, got {quote(class_name)} again")
        for text in texts:
            collected.add(class_name, text, where)
    return collected.classes(COMPLETE)


def _name_classes(index: list[Entry], name: str, column: str) -> ClassNames:
    if column not in INDEX_COLUMNS:
        raise unknown(f"column of {name}", column, INDEX_COLUMNS)
    check_count(len(index), f"{name}: ")
    wordings = [_clean(entry.name, f"{name}, class {number}") for number, entry in enumerate(index)]
    if not all(wordings):
        raise ClipkitError(f"{name}: expected a name for each class, got an empty one")
    if column == "name":
        return ClassNames(wordings)
    wnids = [entry.wnid for entry in index]
    if not all(wnids):
        raise ClipkitError(f"{name}: expected WordNet ids, got names alone", "leave --column out")
    if len(set(wnids)) < len(wnids):
        raise ClipkitError(f"{name}: expected each WordNet id once, got one twice")
    return ClassNames(wnids, wordings)


# ---- CSV and TSV ---------------------------------------------------------------------------------


def parse_table(
    data: bytes,
    name: str,
    column: str | None = None,
    *,
    ending: str = ".csv",
) -> Prompts | ClassNames:
    r"""Parse prompts or class names from a column of a table with a header.

    By default, the column is the first of `KNOWN_COLUMNS` that the table has, or else its only one.
    If a column ``class`` or ``name`` stands beside the prompts, they are the descriptions of each
    class, with classes in the order of their first rows. The header shows what separates the cells;
    between tabs, no cell is quoted.

    >>> parse_table(b"id,text\n1,a dot\n2,a line\n", "mine.csv").texts
    ['a dot', 'a line']
    >>> parse_table(b"class,prompt\nbird,it flies\nbird,it sings\n", "mine.csv").names
    ['bird']
    """
    check_not_empty(data, name)
    table = read_table(data, name, ending)
    header = [_column_name(cell.strip(STRIPPED)) for cell in table.columns]
    chosen = _choose_column(header, column and _column_name(column), name)
    class_column = next((name for name in CLASS_COLUMNS if name in header), chosen)
    at, class_at = header.index(chosen), header.index(class_column)
    if column is None and IMAGE in header and not set(PROMPT_COLUMNS).isdisjoint(header):
        # it is probably a table of captions
        captions = suggestions.command("--captions", name)
        console.note(f"{name}: its images are ignored; {captions} embeds captions of images")
    collected = _Collected(name)
    texts, lines, blank = [], [], 0
    for line, cells in table.lines:
        where = f"{name}, line {line}"
        text = _clean(cells[at], where)
        class_name = _clean(cells[class_at], where)
        if class_at != at and (text or class_name):
            collected.add(class_name, text, where)
        if not text:
            blank += 1
            continue
        texts.append(text)
        lines.append(line)
        check_count(len(texts), f"{name}: ")
    if class_at != at and texts:
        return collected.classes(DEFAULT_TEMPLATE if chosen == WORDING else COMPLETE)
    return from_lines(name, texts, lines, blank)


def has_known_header(data: bytes) -> bool:
    """Return True if the first line, divided at tabs, has a column of `KNOWN_COLUMNS`.

    A .tsv file of classes needs no header: its lines are a name, or a name and a wording.
    """
    line = data.removeprefix(BOM).lstrip(b"\r\n").partition(b"\n")[0]
    cells = line.decode(errors="replace").split("\t")
    return any(_column_name(cell.strip(STRIPPED)) in KNOWN_COLUMNS for cell in cells)


def _column_name(cell: str) -> str:
    """Return the name of a column: a known one may be written with capitals."""
    return cell.lower() if cell.lower() in KNOWN_COLUMNS else cell


def _choose_column(header: list[str], column: str | None, name: str) -> str:
    if column is not None:
        if column not in header:
            raise unknown(f"column of {name}", column, header)
        return column
    for known in KNOWN_COLUMNS:
        if known in header:
            return known
    if len(header) == 1:
        taken = f"{name}: the first line, {quote(header[0])}, is taken as the header"
        console.warn(f"{taken}; hint: if it is none, add one: prompt or class")
        return header[0]
    columns = ", ".join(header) or "nothing"
    hint = "choose a column with --column; if the first line is no header, add one: class,prompt"
    if IMAGE in header:
        captions = suggestions.command("--captions", name)
        hint = f"if these are captions of images: {captions}; otherwise {hint}"
    raise UsageError(f"{name}: expected a column prompt, text, class or name, got {columns}", hint)


def parse_class_lines(data: bytes, name: str) -> tuple[ClassNames, list[str]]:
    r"""Parse class names, or names and wordings with a tab between them, and return warnings.

    Rows of one name are descriptions of one class if a tab is in the file. Without one, each line
    is a class: some of ImageNet's 1,000 classes share a name.

    >>> classes, _ = parse_class_lines(b"crane\ta bird\ncrane\ta long neck\nfox\n", "mine.tsv")
    >>> classes.names, classes.wordings, classes.class_index
    (['crane', 'fox'], ['a bird', 'a long neck', 'fox'], [0, 0, 1])
    """
    lines = parse(data, name)
    nameless = NAMELESS.search(data)
    if nameless:
        line = data.count(b"\n", 0, nameless.start()) + 1
        raise ClipkitError(
            f"{name}, line {line}: expected the name of a class before the tab, got an empty one",
            "write the name, or remove the tab",
        )
    if not any("\t" in text for text in lines.texts):
        return ClassNames(lines.texts), lines.warnings()
    collected = _Collected(name)
    for text, where in zip(lines.texts, lines.places(), strict=True):
        cells = [cell.strip(STRIPPED) for cell in text.split("\t")]
        if len(cells) > 2:
            raise ClipkitError(
                f"{where}: expected a name, a tab and a wording, got {len(cells)} cells",
                "choose a column of a table with --column",
            )
        collected.add(cells[0], cells[-1] or cells[0], where)
    return collected.classes(DEFAULT_TEMPLATE), lines.warnings()


# ---- Both ----------------------------------------------------------------------------------------


class _Collected:
    """Descriptions of classes, in the order in which the classes first occur."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.number_of: dict[str, int] = {}
        self.place_of: dict[str, str] = {}  # also of a class whose wordings are blank
        self.wordings: list[list[str]] = []
        self.blank = 0

    def add(self, class_name: str, wording: str, where: str) -> None:
        if not class_name:
            raise ClipkitError(f"{where}: expected the name of a class, got an empty one")
        self.place_of.setdefault(class_name, where)
        if not wording:
            self.blank += 1
            return
        number = self.number_of.setdefault(class_name, len(self.wordings))
        if number == len(self.wordings):
            self.wordings.append([])
        self.wordings[number].append(wording)

    def classes(self, template: str) -> ClassNames:
        for class_name, where in self.place_of.items():
            if class_name not in self.number_of:
                got = f"expected at least one prompt of {quote(class_name)}, got none"
                raise ClipkitError(f"{where}: {got}")
        wordings = list(itertools.chain.from_iterable(self.wordings))
        check_count(len(wordings), f"{self.name}: ")
        counts = list(map(len, self.wordings))
        index = np.repeat(np.arange(len(counts)), counts).tolist()
        return ClassNames(list(self.number_of), wordings, {}, index, template, self.blank)


def flatten(classes: ClassNames, name: str) -> Prompts:
    """Return the wordings of classes as prompts that belong to no class."""
    numbers = list(range(1, len(classes.wordings) + 1))
    return from_lines(name, classes.wordings, numbers, classes.blank, "prompt")


def _clean(value: Any, where: str) -> str:
    """Return a text without outer whitespace and line breaks, if it may be a prompt."""
    if not isinstance(value, str):
        raise ClipkitError(f"{where}: expected a text, got {_type(value)}")
    check_length(len(value), where)
    text = LINE_BREAK.sub(" ", value.strip(STRIPPED))
    check_controls(text, where)
    return text


def _type(value: Any) -> str:
    if value is None:
        return "null"
    return JSON_TYPES.get(type(value), "a number")
