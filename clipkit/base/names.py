"""Make names distinct, find them and choose among them, and write names of files as texts."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections import Counter
from collections.abc import Container, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

MOST_NAMES = 5  # of a list, before the rest is counted

# Controls, invalid UTF-8, line and bidirectional controls, and a "%" that would read as an escape.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]|%(?=[0-9A-Fa-f]{2})"
)


def escape(name: str) -> str:
    r"""Return a file name as printable UTF-8 text, the same on every machine.

    Bytes that are not UTF-8 and control characters are percent-encoded.
    `urllib.parse.unquote_to_bytes` restores the bytes of the name.

    >>> escape("été 100%.png"), escape("a\nb.png"), escape("\udcff.png"), escape("%41.png")
    ('été 100%.png', 'a%0Ab.png', '%FF.png', '%2541.png')
    """
    if name.isascii() and name.isprintable() and "%" not in name:
        return name
    text = os.fsencode(name).decode("utf-8", "surrogateescape")
    return _UNSAFE.sub(lambda match: urllib.parse.quote(match[0], errors="surrogateescape"), text)


def escape_text(text: str) -> str:
    r"""Return a name from a file as printable text, without spaces around it.

    >>> escape_text(" great white shark"), escape_text("a\nb\ud800")
    ('great white shark', 'a%0Ab?')
    """
    return escape(text.encode(errors="replace").decode().strip())


def distinct_names(names: Sequence[str], numbers: Sequence[int] | None = None) -> list[str]:
    """Put its number in front of each name that occurs more than once; by default its position.

    ImageNet has two classes called crane, and two called maillot.

    >>> distinct_names(["crane", "cock", "crane"])
    ['0: crane', 'cock', '2: crane']
    """
    counts = Counter(names)
    distinct = []
    for number, name in zip(numbers or range(len(names)), names, strict=True):
        if counts[name] > 1:
            distinct.append(f"{number}: {name}")
        else:
            distinct.append(name)
    return distinct


def abridged(names: Sequence[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    listed = ", ".join(names[:MOST_NAMES])
    if len(names) > MOST_NAMES:
        listed += f", ... ({len(names) - MOST_NAMES} more)"
    return listed


def class_name(class_names: Sequence[str] | None, number: int) -> str:
    """Return the name of a class, or its number where classes have no names."""
    return class_names[number] if class_names else str(number)


def positions(names: Iterable[K]) -> dict[K, int]:
    """Return the position of each name, from 0. The last one counts if names are equal.

    >>> positions(["cock", "crane"])
    {'cock': 0, 'crane': 1}
    """
    return {name: number for number, name in enumerate(names)}


def locate(names: Iterable[K], known: Iterable[K]) -> list[int]:
    """Return the position of each name among the known ones; -1 for another name.

    >>> locate(["crane", "emu"], ["cock", "crane"])
    [1, -1]
    """
    position_of = positions(known)
    return [position_of.get(name, -1) for name in names]


def select(facts: Mapping[K, T], names: Iterable[K]) -> dict[K, T]:
    """Return the facts with these names, in their order. Names without a fact are left out."""
    return {name: facts[name] for name in names if name in facts}


def omit(facts: Mapping[K, T], names: Container[K]) -> dict[K, T]:
    """Return the facts without those of these names."""
    return {name: fact for name, fact in facts.items() if name not in names}


def differing(things: Sequence[Mapping[str, T]]) -> list[dict[str, T]]:
    """Return the facts of each thing that not all things share.

    >>> differing([{"model": "a", "split": "test"}, {"model": "b", "split": "test"}])
    [{'model': 'a'}, {'model': 'b'}]
    """
    facts: list[dict[str, T]] = []
    for thing in things:
        facts.append({name: thing[name] for name in thing if not is_shared(name, things)})
    return facts


def is_shared(name: str, things: Sequence[Mapping[str, T]]) -> bool:
    """Whether all things have the same fact under a name, or none has one."""
    return len({thing.get(name) for thing in things}) == 1


def distinct_labels(
    labels: Sequence[tuple[int, str]], kinds: Iterable[Sequence[str]], width: int
) -> list[str]:
    """Put the names of files in front of labels, so that their first `width` characters differ.

    Parameters
    ----------
    labels : sequence of (int, str)
        The number of a label's file, from 0, and its text.
    kinds : iterable of sequences of str
        Several names of each file. The first kind with which all labels differ is used; if there is
        none, the number of the file.

    >>> distinct_labels([(0, "probe"), (1, "probe")], [["m", "m"], ["a", "b"]], 40)
    ['a: probe', 'b: probe']
    """
    for names in kinds:
        named = [f"{names[number]}: {text}" for number, text in labels]
        visible = {label[:width] for label in named}
        if any(names) and len(visible) == len(labels):
            return named
    return [f"file {number + 1}: {text}" for number, text in labels]


def find_repeat(keys: Sequence[Hashable]) -> tuple[int, int] | None:
    """Return the places of the first key that occurs again: where it is first, and next.

    This takes 16 bytes for each key, a set about 60.

    >>> find_repeat(["a", "b", "c", "b"])
    (1, 3)
    """
    import numpy as np  # completion uses this module

    hashes = np.fromiter(map(hash, keys), np.int64, len(keys))
    ordered = np.sort(hashes)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(repeated):
        return None
    first: dict[Hashable, int] = {}
    for place in np.flatnonzero(np.isin(hashes, repeated)).tolist():
        earlier = first.setdefault(keys[place], place)
        if earlier != place:
            return earlier, place
    return None
