"""What the members of a sweep share, and the threads that they run on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Progress = Callable[[int, int], None]
Solved = list[
    tuple[Ints, bool]
]  # of each member: the classes predicted (M,); did the solver converge?


@dataclass
class Problem:
    """What the members of a sweep, pairs of (scale, C), share, and the threads."""

    X: Floats  # (N, D)
    y: Ints  # (N,), 0..n-1
    E: Floats  # (M, D), to be predicted
    members: list[tuple[float, float]]
    seed: int
    pool: ThreadPoolExecutor
    progress: Progress | None
    total: int = 0
    done: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopped: bool = False

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """Results in the order of the items, worked on by all threads."""
        return list(self.pool.map(function, items))

    def tick(self, steps: int = 1) -> None:
        """Report progress from any thread; once the sweep was stopped, end the thread's work."""
        if self.stopped:
            raise CancelledError
        with self.lock:
            self.done += steps
            if self.progress:
                self.progress(self.done, self.total)
