"""What the solvers of a sweep share: the data, the settings, and the threads that they run on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from joblib import cpu_count  # type: ignore[import-untyped]
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
ProgressCallback = Callable[[int, int], None]


class Setting(NamedTuple):
    """One point of a sweep: the factor that multiplies the features, and C."""

    scale: float
    C: float


class Predictions(NamedTuple):
    """What a classifier predicts at one setting: class numbers (M,), and whether it converged."""

    classes: Ints
    converged: bool = True


class Progress:
    """Count finished steps from any thread."""

    def __init__(
        self, total: int, callback: ProgressCallback | None, cancelled: threading.Event
    ) -> None:
        self._total = total
        self._callback = callback
        self._cancelled = cancelled
        self._done = 0
        self._lock = threading.Lock()

    def __call__(self, steps: int = 1) -> None:
        """Report finished steps.

        Raises
        ------
        CancelledError
            If the sweep was cancelled: the calling thread has nothing left to work for.
        """
        if self._cancelled.is_set():
            raise CancelledError
        with self._lock:
            self._done += steps
            if self._callback:
                self._callback(self._done, self._total)


class Workers:
    """Threads with one BLAS thread each. Leaving the `with` block cancels unfinished work.

    Parameters
    ----------
    jobs : int, optional
        Number of threads, by default one per core.
    callback : callable, optional
        Receives (done, total) whenever a `Progress` of these workers is reported.
    """

    def __init__(self, jobs: int | None, callback: ProgressCallback | None) -> None:
        # OpenMP counts its threads per thread, so every worker sets its own limit
        self._pool = ThreadPoolExecutor(
            jobs or cpu_count(), initializer=threadpool_limits, initargs=(1,)
        )
        self._callback = callback
        self._cancelled = threading.Event()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._cancelled.set()  # running work ends at its next report of progress
        self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """Apply a function to all items in parallel. Results come in the order of the items."""
        return list(self._pool.map(function, items))

    def progress(self, total: int) -> Progress:
        """Return a counter of `total` steps that ends the work of a cancelled sweep."""
        return Progress(total, self._callback, self._cancelled)


@dataclass(frozen=True)
class SweepContext:
    """What the settings of a sweep share.

    Attributes
    ----------
    X, y : arrays (N, D) and (N,)
        What is fitted on; classes are 0..n-1, each of which occurs.
    X_eval : array (M, D)
        What is predicted.
    settings : list of Setting
    seed : int
    workers : Workers
    """

    X: Floats
    y: Ints
    X_eval: Floats
    settings: list[Setting]
    seed: int
    workers: Workers

    @property
    def n_classes(self) -> int:
        """Number of classes, n."""
        return int(self.y.max()) + 1
