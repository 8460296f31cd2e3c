"""Read class indices, which name classes by their numbers or WordNet ids.

A class index is a JSON object: `{"0": ["n01440764", "tench"]}`, as Keras and torchvision have it
for ImageNet, `{"n01440764": "tench"}`, or the same with names alone: `{"0": "tench"}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clipkit.base import files
from clipkit.base.errors import ClipkitError
from clipkit.base.names import escape
from clipkit.prompts.texts import quote

FILE_NAMES = ("class_index.json", "imagenet_class_index.json")
WNID = re.compile("n[0-9]{8}")  # a WordNet id
NUMBER = re.compile("0|[1-9][0-9]{0,6}")
MAX_BYTES = 1 << 24
MAX_NAME = 1000  # characters
HINT = 'expected forms: {"0": ["n01440764", "tench"]} or {"n01440764": "tench"}'


class Entry(NamedTuple):
    """A class of a class index."""

    number: int | None
    wnid: str  # "" if the index has names alone
    name: str


class ClassIndex(NamedTuple):
    """The names of classes by WordNet id, and the digest of the file that gives them."""

    names: dict[str, str]
    digest: str


def parse_class_index(content: Any) -> list[Entry] | None:
    """Return the classes of a class index, or None if this is none.

    Classes are in the order of their numbers, or else of the file. Names alone must have
    the numbers 0, 1, 2, ...

    >>> parse_class_index({"1": "goldfish", "0": "tench"})
    [Entry(number=0, wnid='', name='tench'), Entry(number=1, wnid='', name='goldfish')]
    >>> parse_class_index({"n01440764": "tench"})
    [Entry(number=None, wnid='n01440764', name='tench')]
    """
    if not isinstance(content, dict) or not content:
        return None
    if all(map(WNID.fullmatch, content)):
        entries = [Entry(None, wnid, name) for wnid, name in content.items()]
    elif all(map(NUMBER.fullmatch, content)):
        numbers = sorted(map(int, content))
        pairs = [content[str(number)] for number in numbers]
        if not all(map(_is_wnid_and_name, pairs)):
            if numbers != list(range(len(content))):
                return None
            pairs = [("", name) for name in pairs]
        entries = [Entry(number, *pair) for number, pair in zip(numbers, pairs, strict=True)]
    else:
        return None
    return entries if all(isinstance(entry.name, str) for entry in entries) else None


def _is_wnid_and_name(value: Any) -> bool:
    is_pair = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
    return is_pair and WNID.fullmatch(value[0]) is not None


def load_class_index(data: bytes, where: str) -> list[Entry]:
    """Return the classes of a class index or a JSON list of names, as printable text."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, list):
        content = {str(number): name for number, name in enumerate(content)}
    entries = parse_class_index(content)
    if entries is None:
        raise ClipkitError(f"{where}: expected a class index, got other content", HINT)
    for entry in entries:
        if not 0 < len(entry.name.strip()) <= MAX_NAME:
            got = quote(escape_text(entry.name))
            raise ClipkitError(f"{where}: expected the name of a class, got {got}", HINT)
    return [entry._replace(name=escape_text(entry.name)) for entry in entries]


def find_class_index(folders: Iterable[str]) -> ClassIndex | None:
    """Read the class index of the first of these folders that holds one."""
    for folder in folders:
        for name in FILE_NAMES:
            path = Path(folder) / name
            if path.is_file():
                return read_class_index(path)
    return None


def rename_classes(
    class_names: Sequence[str], find_index: Callable[[], ClassIndex | None]
) -> tuple[list[str], dict[str, str]]:
    """Return class names with WordNet ids replaced by their names, and the details for a history.

    If no name is a WordNet id, `find_index` is not called. An id that the class index lacks stays.
    """
    if not any(WNID.fullmatch(name) for name in class_names):
        return list(class_names), {}
    index = find_index()
    if index is None:
        return list(class_names), {}
    named = [index.names.get(name, name) for name in class_names]
    return named, {"class_index": index.digest}


def read_class_index(path: Path) -> ClassIndex:
    """Read a class index from a file."""
    return wordnet_names(files.read_bytes(str(path), MAX_BYTES), escape(str(path)))


def wordnet_names(data: bytes, where: str) -> ClassIndex:
    """Return the names that the content of a class index gives WordNet ids."""
    names = {entry.wnid: entry.name for entry in load_class_index(data, where)}
    if "" in names:
        raise ClipkitError(f"{where}: expected WordNet ids, got names alone", HINT)
    return ClassIndex(names, files.digest(data))


def escape_text(text: str) -> str:
    r"""Return a name from a file as printable text, without spaces around it.

    >>> escape_text(" great white shark"), escape_text("a\nb\ud800")
    ('great white shark', 'a%0Ab?')
    """
    return escape(text.encode(errors="replace").decode().strip())
