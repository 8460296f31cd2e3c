"""Prepare the next items of an iteration in threads while the current one is used."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def prefetch_map(
    function: Callable[[Task], Result], tasks: Iterable[Task], workers: int = 1, ahead: int = 1
) -> Generator[Result]:
    """Yield `function(task)` for each task in order; threads compute the next `ahead` meanwhile.

    An error is raised when its turn comes.
    """
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for task in tasks:
                pending.append(pool.submit(function, task))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def prefetch(items: Iterable[Result]) -> Iterator[Result]:
    """Yield the same items in the same order, with the next one prepared in a thread.

    Reading, hashing, matrix products and writing release Python's lock, so stages that are chained
    with `prefetch` overlap.

    Examples
    --------
    >>> list(prefetch(range(3)))
    [0, 1, 2]
    """
    iterator = iter(items)
    end: Any = object()  # in the generator of prefetch_map, StopIteration would be an error
    prepared = prefetch_map(lambda _: next(iterator, end), itertools.count())
    return itertools.takewhile(lambda item: item is not end, prepared)
