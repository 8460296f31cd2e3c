"""Prepare the next item of an iteration in a thread while the current one is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def prefetch(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the same items in the same order, with the next one prepared in a thread.

    An error of `items` is raised when its turn comes. Reading, hashing, matrix products and writing
    release Python's lock, so stages that are chained with `prefetch` overlap.

    Examples
    --------
    >>> list(prefetch(range(3)))
    [0, 1, 2]
    """
    iterator = iter(items)
    end = object()
    with ThreadPoolExecutor(1) as thread:
        pending = thread.submit(next, iterator, end)
        while True:
            item = pending.result()
            if item is end:
                return
            pending = thread.submit(next, iterator, end)
            yield item  # type: ignore[misc]
