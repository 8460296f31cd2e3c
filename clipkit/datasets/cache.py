"""A small cache that threads share: what several of them ask for is loaded once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class SharedCache(Generic[Key, Value]):
    """Keep what was loaded last.

    Parameters
    ----------
    load : callable
        Loads the value of a key. Threads load different keys at the same time, and wait for one
        another where they need the same.
    size_of : callable
        The bytes of a value.
    count : int
        At least so many values are kept.
    budget : int
        More are kept while all together take at most so many bytes.
    """

    def __init__(
        self,
        load: Callable[[Key], Value],
        size_of: Callable[[Value], int],
        *,
        count: int,
        budget: int,
    ) -> None:
        self._load = load
        self._size_of = size_of
        self._count = count
        self._budget = budget
        self._values: OrderedDict[Key, Future[Value]] = OrderedDict()  # the last used at the end
        self._sizes: dict[Key, int] = {}
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value:
        """Return the value of a key. An error of loading it is raised, and not kept."""
        with self._lock:
            future = self._values.get(key)
            is_ours = future is None
            if future is None:
                future = self._values[key] = Future()
            self._values.move_to_end(key)
        if not is_ours:
            return future.result()
        try:
            value = self._load(key)
        except BaseException as error:
            with self._lock:
                self._forget(key)
            future.set_exception(error)
            raise
        future.set_result(value)
        with self._lock:
            if key in self._values:
                self._sizes[key] = self._size_of(value)
            self._shrink()
        return value

    def has(self, key: Key) -> bool:
        """Whether the value of a key is there or is being loaded."""
        with self._lock:
            return key in self._values

    def _shrink(self) -> None:
        while len(self._values) > self._count and sum(self._sizes.values()) > self._budget:
            oldest = next((key for key in self._values if key in self._sizes), None)
            if oldest is None:  # all are being loaded
                return
            self._forget(oldest)

    def _forget(self, key: Key) -> None:
        self._values.pop(key, None)
        self._sizes.pop(key, None)
