r"""Parse prompt files and templates, and fill templates with class names.

A prompt file is UTF-8 text with one prompt per line. There are no comments: a prompt may begin with
``#``. Only ``\n`` and ``\r\n`` end a line; U+2028, U+0085 and a form feed belong to the prompt. A
lone ``\r`` is refused, because splitting there and keeping it would both be guesses. Whitespace and
byte order marks around a prompt are dropped: ``cat a.txt b.txt`` may leave a mark inside. Blank
lines are dropped and counted. Duplicates are kept and reported. Control characters that are not
whitespace are refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clipkit.base import console, files
from clipkit.base.console import count
from clipkit.base.csv_rows import check_not_empty, decode
from clipkit.base.errors import ClipkitError, UsageError, shorten
from clipkit.prompts import bundled

# A line of 60 MB crashes the tokenizer. Texts are stored at the length of the longest.
MAX_CHARACTERS = 10_000  # of a prompt; a model reads 77 tokens
MAX_PROMPTS = 2**20
LISTED_DUPLICATES = 5  # that a warning lists
WHITESPACE = "".join(filter(str.isspace, map(chr, range(0x3001))))  # U+3000 is the last one
STRIPPED = WHITESPACE + "\ufeff"
# The category Cc of Unicode without whitespace, and a lone \r.
CONTROLS = re.compile(r"[\x00-\x08\r\x0e-\x1b\x7f-\x84\x86-\x9f]")


@dataclass(frozen=True)
class Prompts:
    """The K prompts of one file, in its order: at least one, and none is blank.

    Attributes
    ----------
    name : str
        What messages call the file.
    texts : list of str, (K,)
    lines : list of int, (K,)
        The line of each prompt, counted from 1.
    blank : int
        The number of blank lines that were dropped.
    duplicates : list of (int, int)
        For each prompt that repeats an earlier one: the line of the first and its own.
    unit : str
        What `lines` counts: lines, or the prompts of a JSON file.
    label : str, optional
        What the history calls the prompts.
    """

    name: str
    texts: list[str]
    lines: list[int]
    blank: int = 0
    duplicates: list[tuple[int, int]] = field(default_factory=list)
    unit: str = field(default="line", repr=False)
    label: str | None = field(default=None, repr=False)

    def places(self) -> list[str]:
        """Return what messages call each prompt (K)."""
        return [f"{self.name}, {self.unit} {line}" for line in self.lines]

    def warnings(self) -> list[str]:
        r"""Return one-line warnings about blank lines and duplicates.

        >>> parse(b"a dot\n\na line\na dot\n", "mine.txt").warnings()
        ['mine.txt: 1 blank line dropped', 'mine.txt: 1 duplicate kept: line 4 repeats line 1']
        """
        warnings = []
        if self.blank:
            warnings.append(f"{self.name}: {count(self.blank, f'blank {self.unit}')} dropped")
        if self.duplicates:
            listed = self.duplicates[:LISTED_DUPLICATES]
            unit = self.unit
            pairs = [f"{unit} {later} repeats {unit} {first}" for first, later in listed]
            if len(self.duplicates) > len(listed):
                pairs.append(f"and {len(self.duplicates) - len(listed)} more")
            number = count(len(self.duplicates), "duplicate")
            warnings.append(f"{self.name}: {number} kept: {', '.join(pairs)}")
        return warnings


def read_with_digest(path: str) -> tuple[list[str], str]:
    """Read the prompts of a file and the file's digest; warn of blank lines and duplicates."""
    data = files.read_bytes(path)
    parsed = parse(data, path)
    for warning in parsed.warnings():
        console.warn(warning)
    return parsed.texts, files.digest(data)


def parse(data: bytes, name: str) -> Prompts:
    r"""Parse a prompt file, which messages call `name`.

    Raises
    ------
    ClipkitError
        If there is no prompt, too many or a too long one, a byte that is not UTF-8 or a control
        character. The message names the line.

    Examples
    --------
    >>> parse(b"\xef\xbb\xbfa dot\r\n\r\n# a hash sign\r\n", "mine.txt")
    Prompts(name='mine.txt', texts=['a dot', '# a hash sign'], lines=[1, 3], blank=1, duplicates=[])
    """
    check_not_empty(data, name)
    check_count(data.count(b"\n"), f"{name}: ")
    texts: list[str] = []
    lines: list[int] = []
    rows = decode(data, name).replace("\r\n", "\n").removesuffix("\n").split("\n")
    for line, row in enumerate(rows, start=1):
        check_length(len(row), f"{name}, line {line}")
        check_controls(row, f"{name}, line {line}")
        text = row.strip(STRIPPED)
        if text:
            texts.append(text)
            lines.append(line)
    return from_lines(name, texts, lines, len(rows) - len(texts))


def from_lines(
    name: str, texts: list[str], lines: list[int], blank: int, unit: str = "line"
) -> Prompts:
    """Return the prompts of a file and which of them are duplicates; see `Prompts`."""
    if not texts:
        raise ClipkitError(f"{name}: expected at least one prompt, got blank {unit}s")
    duplicates: list[tuple[int, int]] = []
    first_line: dict[str, int] = {}
    for text, line in zip(texts, lines, strict=True):
        if text in first_line:
            duplicates.append((first_line[text], line))
        else:
            first_line[text] = line
    return Prompts(name, texts, lines, blank, duplicates, unit)


def parse_templates(data: bytes, name: str) -> Prompts:
    r"""Parse a prompt file that has the placeholder ``{}`` or ``{c}`` in every line.

    >>> parse_templates(b"a photo of a {}\na drawing of a {c}\n", "mine.txt").texts
    ['a photo of a {}', 'a drawing of a {c}']
    """
    templates = parse(data, name)
    check_placeholders(templates)
    return templates


def check_placeholders(templates: Prompts) -> None:
    """Refuse a template without one placeholder, naming its line."""
    for text, place in zip(templates.texts, templates.places(), strict=True):
        _placeholder(text, f"{place}: ")


def fill(template: str, class_name: str) -> str:
    """Fill every ``{}`` or ``{c}`` of a template with a class name; other braces stay.

    >>> fill("a photo of a {}", "pickup_truck")
    'a photo of a pickup_truck'
    >>> fill("{c} in {0} braces", "fox")
    'fox in {0} braces'
    """
    placeholder = _placeholder(template)
    added = len(class_name) - len(placeholder)
    length = len(template) + template.count(placeholder) * added
    check_length(length, f"a prompt for the class {quote(class_name)}")
    return template.replace(placeholder, class_name)


def readable(class_name: str) -> str:
    """Return a class name with spaces for underscores.

    >>> readable("lawn_mower")
    'lawn mower'
    """
    return class_name.replace("_", " ")


def from_classes(
    class_names: Sequence[str], templates: Sequence[str]
) -> tuple[list[str], NDArray[np.int64]]:
    """Fill each of T templates with each of C class names, class by class.

    Returns
    -------
    texts : list of str, (C * T,)
        The T prompts of class 0, then of class 1, ...
    class_index : int64 array (C * T,)

    Examples
    --------
    >>> texts, class_index = from_classes(["fox", "rose"], ["a {}", "one {}"])
    >>> texts
    ['a fox', 'one fox', 'a rose', 'one rose']
    >>> class_index.tolist()
    [0, 0, 1, 1]
    """
    if not class_names:
        raise UsageError("expected at least one class name, got none")
    if not templates:
        raise UsageError("expected at least one template, got none")
    check_count(len(class_names) * len(templates))
    texts = [fill(template, class_name) for class_name in class_names for template in templates]
    class_index = np.repeat(np.arange(len(class_names), dtype=np.int64), len(templates))
    return texts, class_index


def quote(text: str) -> str:
    """Return the beginning of a text as messages show it."""
    return repr(shorten(text))


def check_length(
    characters: int, where: str, hint: str | None = "write one prompt per line"
) -> None:
    """Refuse a text that is too long to be a prompt or a caption."""
    if characters > MAX_CHARACTERS:
        raise ClipkitError(
            f"{where}: expected at most {MAX_CHARACTERS:,} characters, got {characters:,}", hint
        )


def check_count(texts: int, where: str = "", noun: str = "prompts") -> None:
    """Refuse more prompts or captions than MAX_PROMPTS."""
    if texts > MAX_PROMPTS:
        raise ClipkitError(f"{where}expected at most {MAX_PROMPTS:,} {noun}, got {texts:,}")


def check_controls(row: str, where: str) -> None:
    """Refuse control characters that are not whitespace, and a lone carriage return."""
    match = CONTROLS.search(row)
    if match is None:
        return
    hint = "a prompt file is plain text, one prompt per line"
    if match[0] == "\r":
        hint = r"end lines in \n or \r\n"
    raise ClipkitError(f"{where}: expected no control character, got U+{ord(match[0]):04X}", hint)


def _placeholder(template: str, where: str = "") -> str:
    """Return the placeholder of a template, ``{}`` or ``{c}``."""
    placeholders = set(re.findall(r"\{c?\}", template))
    if len(placeholders) != 1:
        hint = "write {} where the class name goes, as in 'a photo of a {}'"
        if not any(map(str.isspace, template)):
            hint += f", or name bundled ones: {', '.join(bundled.list_files('templates'))}"
        message = f"{where}expected either {{}} or {{c}} in a template, got {template!r}"
        raise UsageError(message, hint)
    return str(placeholders.pop())


def clean(caption: str, where: str) -> str:
    """Return a caption on one line; refuse one that is too long."""
    text = " ".join(caption.split())
    check_length(len(text), where, hint=None)
    return text
