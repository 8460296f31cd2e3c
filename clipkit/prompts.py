r"""Prompt files, templates and class names: what becomes a text for the text tower, in which order.

A prompt file is UTF-8 text with one prompt a line. There is no comment syntax: a prompt may begin with ``#``.

- Lines end in ``\n`` or ``\r\n``, and in nothing else: U+2028, U+0085 and a form feed are characters of a prompt.
  A lone ``\r`` is refused, since splitting there and keeping it would both be guesses.
- Whitespace around a prompt is dropped, and so are byte order marks there (``cat a.txt b.txt`` may leave one where
  the second file begins).
- Blank lines are dropped and counted. Equal prompts are kept and reported; equal means character by character.
- Control characters are refused, save those that Unicode counts as whitespace (a tab, say).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clipkit.errors import ClipkitError, UsageError

STDIN = "standard input"
SHOWN = 5  # duplicates that a warning spells out
EDGES = (
    "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\ufeff"
)  # U+3000 is the last whitespace character
CONTROLS = re.compile(
    r"[\x00-\x08\r\x0e-\x1b\x7f-\x84\x86-\x9f]"
)  # Unicode's Cc less whitespace, and a lone \r


@dataclass(frozen=True)
class Prompts:
    """The prompts of one file, in its order.

    Attributes
    ----------
    name : str
        The file's name, for messages.
    texts : list of str, (K,)
        The prompts. Never empty, no prompt blank.
    lines : list of int, (K,)
        The line of each prompt, counted from 1.
    blank : int
        How many blank lines were dropped.
    duplicates : list of (int, int)
        For each prompt that equals an earlier one: the line of the first and its own.
    """

    name: str
    texts: list[str]
    lines: list[int]
    blank: int = 0
    duplicates: list[tuple[int, int]] = field(default_factory=list)

    def warnings(self) -> list[str]:
        r"""One-line messages about what a user may not have meant.

        >>> read(b"a dot\n\na line\na dot\n", "mine.txt").warnings()
        ['mine.txt: 1 blank line dropped', 'mine.txt: 1 duplicate kept: line 4 repeats line 1']
        """
        found = []
        if self.blank:
            found.append(f"{self.name}: {_count(self.blank, 'blank line')} dropped")
        if self.duplicates:
            pairs = [
                f"line {later} repeats line {first}" for first, later in self.duplicates[:SHOWN]
            ]
            rest = len(self.duplicates) - SHOWN
            pairs += [f"and {rest} more"] if rest > 0 else []
            found.append(
                f"{self.name}: {_count(len(self.duplicates), 'duplicate')} kept: {', '.join(pairs)}"
            )
        return found


def read(data: bytes, name: str) -> Prompts:
    r"""Read a prompt file: UTF-8, one prompt a line, no comments (see the module's text for the rules).

    Parameters
    ----------
    data : bytes
        The whole file.
    name : str
        What to call it in messages; ``-`` or ``stdin`` for standard input.

    Returns
    -------
    Prompts
        K >= 1 prompts.

    Raises
    ------
    ClipkitError
        Nothing but blanks; bytes that are not UTF-8; a control character. The line is named.

    Examples
    --------
    >>> read(b"\xef\xbb\xbfa dot\r\n\r\n# a hash sign\r\n", "mine.txt")
    Prompts(name='mine.txt', texts=['a dot', '# a hash sign'], lines=[1, 3], blank=1, duplicates=[])
    """
    name = STDIN if name in ("-", "stdin") else name
    if not data and name == STDIN:
        raise ClipkitError("empty input: did the command before it fail?")
    texts: list[str] = []
    lines: list[int] = []
    duplicates: list[tuple[int, int]] = []
    first: dict[str, int] = {}
    split = _decode(data, name).replace("\r\n", "\n").removesuffix("\n").split("\n")
    for number, line in enumerate(split, start=1):
        _refuse_controls(line, f"{name}, line {number}")
        text = line.strip(EDGES)
        if not text:
            continue
        if first.setdefault(text, number) != number:
            duplicates.append((first[text], number))
        texts.append(text)
        lines.append(number)
    if not texts:
        raise ClipkitError(
            f"{name} must hold at least one prompt; got {'blank lines' if data else 'an empty file'}"
        )
    return Prompts(name, texts, lines, blank=len(split) - len(texts), duplicates=duplicates)


def read_templates(data: bytes, name: str) -> Prompts:
    r"""Read a template file: a prompt file whose every line holds a placeholder, ``{}`` or ``{c}``.

    Parameters
    ----------
    data : bytes
        The whole file.
    name : str
        What to call it in messages.

    Returns
    -------
    Prompts
        T >= 1 templates, in `texts`.

    Raises
    ------
    ClipkitError
        As `read`.
    UsageError
        A line without a placeholder, or with both of them. The line is named.

    Examples
    --------
    >>> read_templates(b"a photo of a {}\na drawing of a {c}\n", "mine.txt").texts
    ['a photo of a {}', 'a drawing of a {c}']
    """
    templates = read(data, name)
    for text, line in zip(templates.texts, templates.lines, strict=True):
        _placeholder(text, f"{templates.name}, line {line}: ")
    return templates


def fill(template: str, class_name: str) -> str:
    """Put a class name in the place of a template's ``{}`` or ``{c}``; other braces are left alone.

    A placeholder that occurs twice is filled twice.

    Raises
    ------
    UsageError
        A template without a placeholder, or with both of them.

    Examples
    --------
    >>> fill("a photo of a {}", "pickup_truck")
    'a photo of a pickup_truck'
    >>> fill("{c} in {0} braces", "fox")
    'fox in {0} braces'
    """
    return template.replace(_placeholder(template), class_name)


def readable(class_name: str) -> str:
    """A class name with its underscores as spaces.

    >>> readable("lawn_mower")
    'lawn mower'
    """
    return class_name.replace("_", " ")


def from_classes(
    class_names: Sequence[str], templates: Sequence[str]
) -> tuple[list[str], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Every template filled with every class name, class by class.

    Parameters
    ----------
    class_names : sequence of str, (C,)
        Used as they are; see `readable`.
    templates : sequence of str, (T,)
        Each with a placeholder.

    Returns
    -------
    texts : list of str, (C * T,)
        Class-major: the T prompts of class 0, those of class 1, ...
    class_index : ndarray of int64, (C * T,)
    template_index : ndarray of int64, (C * T,)

    Raises
    ------
    UsageError
        No class, no template, or a template that `fill` refuses.

    Examples
    --------
    >>> texts, class_index, template_index = from_classes(["fox", "rose"], ["a {}", "one {}"])
    >>> texts
    ['a fox', 'one fox', 'a rose', 'one rose']
    >>> class_index.tolist(), template_index.tolist()
    ([0, 0, 1, 1], [0, 1, 0, 1])
    """
    for values, what in ((class_names, "class name"), (templates, "template")):
        if not len(values):
            raise UsageError(f"prompts for classes need at least one {what}; got none")
    texts = [fill(template, class_name) for class_name in class_names for template in templates]
    classes, per_class = len(class_names), len(templates)
    class_index = np.repeat(np.arange(classes, dtype=np.int64), per_class)
    template_index = np.tile(np.arange(per_class, dtype=np.int64), classes)
    return texts, class_index, template_index


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ClipkitError(
            f"{name}, line {line} must be UTF-8 text; got the byte 0x{data[error.start]:02x}",
            "a prompt file is plain text, one prompt a line; save it as UTF-8",
        ) from None


def _refuse_controls(line: str, where: str) -> None:
    if found := CONTROLS.search(line):
        character = found[0]
        hint = (
            r"end lines in \n or \r\n"
            if character == "\r"
            else "a prompt file is plain text, one prompt a line"
        )
        raise ClipkitError(
            f"{where} must hold no control character; got U+{ord(character):04X}", hint
        )


def _placeholder(template: str, where: str = "") -> str:
    """Return the one kind of placeholder that a template holds, ``{}`` or ``{c}``."""
    kinds = set(re.findall(r"\{c?\}", template))
    if len(kinds) != 1:
        got = "both" if kinds else "neither"
        raise UsageError(
            f"{where}a template must hold {{}} or {{c}}; {template!r} holds {got}",
            "write the class name's place as {}, as in 'a photo of a {}'",
        )
    return str(kinds.pop())


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
