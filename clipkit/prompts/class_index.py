"""Read class indices, which name classes by their numbers.

A class index is a JSON object: `{"0": ["n01440764", "tench"]}`, as Keras and torchvision have it
for ImageNet, or names alone: `{"0": "tench"}`, as the `id2label` of Hugging Face.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

WNID = re.compile("n[0-9]{8}")  # a WordNet id
NUMBER = re.compile("0|[1-9][0-9]{0,6}")


class Entry(NamedTuple):
    """A class of a class index."""

    number: int
    wnid: str  # "" if the index has names alone
    name: str


def parse_class_index(content: Any) -> list[Entry] | None:
    """Return the classes of a class index by their numbers, or None if this is none.

    Names alone must have the numbers 0, 1, 2, ...

    >>> parse_class_index({"1": "goldfish", "0": "tench"})
    [Entry(number=0, wnid='', name='tench'), Entry(number=1, wnid='', name='goldfish')]
    >>> parse_class_index({"7": ["n01440764", "tench"]})
    [Entry(number=7, wnid='n01440764', name='tench')]
    """
    if not isinstance(content, dict) or not content or not all(map(NUMBER.fullmatch, content)):
        return None
    numbers = sorted(map(int, content))
    values = [content[str(number)] for number in numbers]
    if all(map(_is_wnid_and_name, values)):
        return [Entry(number, *value) for number, value in zip(numbers, values, strict=True)]
    if numbers == list(range(len(numbers))) and all(isinstance(value, str) for value in values):
        return [Entry(number, "", value) for number, value in enumerate(values)]
    return None


def _is_wnid_and_name(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    wnid, name = value
    return isinstance(wnid, str) and isinstance(name, str) and WNID.fullmatch(wnid) is not None
