"""Name classes by the class index of a data set: those that are WordNet ids, or all by number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from clipkit.base import files
from clipkit.base.csv_rows import load_json
from clipkit.base.errors import ClipkitError, shorten
from clipkit.base.names import escape, escape_text
from clipkit.prompts.class_index import WNID, Entry, parse_class_index

FILE_NAMES = ("class_index.json", "imagenet_class_index.json")
MAX_NAME = 4096  # characters of a class name, label, id or path; Linux opens no longer path
HINT = 'expected forms: {"0": ["n01440764", "tench"]} or {"0": "tench"}'


class ClassIndex(NamedTuple):
    """The names of classes by WordNet id, and the digest of the file that gives them."""

    names: dict[str, str]
    digest: str


def load_class_index(data: bytes, where: str) -> list[Entry]:
    """Return the classes of a class index, as printable text."""
    try:
        entries = parse_class_index(load_json(data, where))
    except ClipkitError as error:
        raise ClipkitError(error.message, HINT) from None
    if entries is None:
        raise ClipkitError(f"{where}: expected a class index, got other content", HINT)
    for entry in entries:
        if not 0 < len(entry.name.strip()) <= MAX_NAME:
            got = repr(shorten(escape_text(entry.name)))
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
    return wordnet_names(files.read_bytes(str(path)), escape(str(path)))


def wordnet_names(data: bytes, where: str) -> ClassIndex:
    """Return the names that the content of a class index gives WordNet ids."""
    names = {entry.wnid: entry.name for entry in load_class_index(data, where)}
    if "" in names:
        raise ClipkitError(f"{where}: expected WordNet ids, got names alone", HINT)
    return ClassIndex(names, files.digest(data))
