"""Blocks of rows, the next of which is made while the one before it is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Block = TypeVar("Block")


def ahead(blocks: Iterable[Block]) -> Iterator[Block]:
    """The same blocks in the same order, one of them being made ahead in a thread; its errors come in their turn.

    Reading, checking digests, matrix products and writing leave Python's lock alone, so that stages joined by this
    overlap.

    >>> list(ahead(range(3)))
    [0, 1, 2]
    """
    made, end = iter(blocks), object()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, made, end)
        while (block := coming.result()) is not end:
            coming = thread.submit(next, made, end)
            yield block  # type: ignore[misc]
