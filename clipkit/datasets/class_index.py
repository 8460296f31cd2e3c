"""Names for class folders and labels that are called by their WordNet ids, as in ImageNet.

The file `class_index.json` holds `{"0": ["n01440764", "tench"]}`, as Keras and torchvision have it,
or `{"n01440764": "tench"}`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clipkit import files
from clipkit.datasets.images import escape
from clipkit.errors import ClipkitError

FILE_NAMES = ("class_index.json", "imagenet_class_index.json")
WNID = re.compile("n[0-9]{8}")
MAX_BYTES = 1 << 24
MAX_NAME = 1000  # characters
HINT = 'expected forms: {"0": ["n01440764", "tench"]} or {"n01440764": "tench"}'


class ClassIndex(NamedTuple):
    """The names of classes by WordNet id, and the digest of the file that gives them."""

    names: dict[str, str]
    digest: str


def find_class_index(folders: Iterable[str]) -> ClassIndex | None:
    """Read the class index of the first of these folders that holds one.

    Raises
    ------
    ClipkitError
        If the file has another form.
    """
    for folder in folders:
        for name in FILE_NAMES:
            path = Path(folder) / name
            if path.is_file():
                return read_class_index(path)
    return None


def rename_classes(
    class_names: Sequence[str], folders: Iterable[str]
) -> tuple[list[str], dict[str, str]]:
    """Return class names with WordNet ids replaced by their names, and the details for a history.

    If no name is a WordNet id, `folders` are not searched. An id that the class index lacks stays.
    """
    if not any(WNID.fullmatch(name) for name in class_names):
        return list(class_names), {}
    index = find_class_index(folders)
    if index is None:
        return list(class_names), {}
    named = [index.names.get(name, name) for name in class_names]
    return named, {"class_index": index.digest}


def read_class_index(path: Path) -> ClassIndex:
    """Read a class index.

    Raises
    ------
    ClipkitError
        If the file cannot be read or has another form.
    """
    data = files.read_bytes(str(path), MAX_BYTES)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    where = escape(str(path))
    if not isinstance(content, dict) or not content:
        raise ClipkitError(f"{where}: expected a JSON object of classes, got other content", HINT)
    return ClassIndex(_parse(content, where), f"sha256:{hashlib.sha256(data).hexdigest()}")


def _parse(content: Mapping[str, Any], where: str) -> dict[str, str]:
    names = {}
    for key, value in content.items():
        entry = value if isinstance(value, list) else [key, value]
        wnid, name = (*entry, None, None)[:2]
        if not _is_name(wnid) or not _is_name(name):
            got = escape_text(f"{key!r}: {str(value)[:60]!r}")
            raise ClipkitError(f"{where}: expected the name of a class, got {got}", HINT)
        names[wnid] = escape_text(name)
    return names


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value.strip()) <= MAX_NAME


def escape_text(text: str) -> str:
    r"""Return a name from a file as printable text, without spaces around it.

    >>> escape_text(" great white shark"), escape_text("a\nb\ud800")
    ('great white shark', 'a%0Ab?')
    """
    return escape(text.encode(errors="replace").decode().strip())
