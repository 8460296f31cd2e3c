"""What the solvers of a sweep share: the data, the settings, and the workers that they run on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from joblib import (  # type: ignore[import-untyped]
    Parallel,
    cpu_count,
    delayed,
    parallel_config,
)
from joblib.externals.loky import (  # type: ignore[import-untyped]
    get_reusable_executor,
)
from joblib.externals.loky.process_executor import (  # type: ignore[import-untyped]
    TerminatedWorkerError,
)
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from clipkit.base.matrices import Floats, Int64
from clipkit.probes.preparation import Preparation

Float64 = NDArray[np.float64]
ProgressCallback = Callable[[int, int, str], None]

ALONE_SECONDS = 3.0  # of work that one process does before others start, which takes a second
SHARED_BYTES = 2**16  # arrays above it are written to a file that all processes map


class Setting(NamedTuple):
    """One point of a sweep: the factor that multiplies the features, and C."""

    scale: float
    C: float


class Solution(NamedTuple):
    """What a classifier predicts at one setting.

    It has class numbers (M, k), the best first (see `metrics.best_classes`), whether the fit
    converged, and the fitted model, if it is kept.
    """

    best: Int64
    converged: bool = True
    model: Any = None


class Workers:
    """`count` threads or processes with one BLAS thread each, one per core.

    Leaving the block cancels them. The callback gets `done, total, reached` when steps are
    finished, one call at a time.
    """

    def __init__(self, callback: ProgressCallback | None) -> None:
        # OpenMP counts its threads per thread, so every worker sets its own limit
        self.count = cpu_count()
        self._pool = ThreadPoolExecutor(self.count, initializer=threadpool_limits, initargs=(1,))
        self._callback = callback
        self._cancelled = threading.Event()
        self._has_processes = False

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._cancelled.set()  # running work ends when it next checks
        self._pool.shutdown(cancel_futures=True)
        if self._has_processes:
            get_reusable_executor(reuse=True).shutdown(wait=True, kill_workers=True)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """Apply a function to all items in parallel. Results come in the order of the items."""
        return list(self._pool.map(function, items))

    def imap(
        self, function: Callable[[Any], Any], items: Sequence[Any], *, is_short: bool
    ) -> Iterator[Any]:
        """Yield the results of a function of each item, in their order.

        Threads of short calls would wait for Python's lock, so one process does these first. If
        they take more than a few seconds, several do the rest. Function and items are pickled.
        """
        if not is_short:
            yield from self._pool.map(function, items)
            return
        started = time.monotonic()
        alone = 0
        while alone < len(items) and not self._takes_long(started):
            yield function(items[alone])
            alone += 1
        if alone < len(items):
            yield from self._imap_in_processes(function, items[alone:])

    def _takes_long(self, started: float) -> bool:
        """Whether work of one process pays for starting others."""
        if self.count == 1:
            return False
        return self._has_processes or time.monotonic() >= started + ALONE_SECONDS

    def _imap_in_processes(
        self, function: Callable[[Any], Any], items: Sequence[Any]
    ) -> Iterator[Any]:
        self._has_processes = True
        with parallel_config("loky", inner_max_num_threads=1, initializer=_follow_parent):
            parallel = Parallel(self.count, return_as="generator", max_nbytes=SHARED_BYTES)
        try:
            yield from parallel(delayed(function)(item) for item in items)
        except TerminatedWorkerError as error:  # what kills a process is a system short of memory
            raise MemoryError from error

    def check_cancelled(self) -> None:
        """Raise CancelledError once the sweep is cancelled, to end the calling thread's work."""
        if self._cancelled.is_set():
            raise CancelledError

    def progress(self, total: int) -> Callable[..., None]:
        """Return a function that counts finished steps, from any thread, out of `total`.

        Its second argument says how far they got. It ends the work of a cancelled sweep, too.
        """
        done = 0
        lock = threading.Lock()

        def report_progress(steps: int, reached: str = "") -> None:
            nonlocal done
            self.check_cancelled()
            with lock:
                done += steps
                if self._callback and steps:
                    self._callback(done, total, reached)

        return report_progress


def _follow_parent() -> None:
    """End with the parent, even if it was killed, and not by a terminal's Ctrl-C before it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@dataclass
class SharedRows:
    """What sweeps of one classifier for other labels of the same rows compute once, and keep here.

    `prepared` are the rows to fit on, how they were prepared, and the prepared rows to predict.
    `axes` is what `logistic.rotate` returns; it turns the prepared rows.
    """

    prepared: tuple[Floats, Preparation, Floats] | None = None
    axes: Float64 | None = None


@dataclass(frozen=True)
class SweepContext:
    """What the settings of a sweep share.

    X (N, D) and y (N,) are the rows to fit on; each of the classes 0..n-1 occurs. X_eval (M, D) are
    the rows to predict. `class_weights` (n,) weight the losses of each class's rows. With `keep`,
    solutions hold the fitted models. `k` is the number of neighbours, if it is not the usual one.
    """

    X: Floats
    y: Int64
    X_eval: Floats
    settings: list[Setting]
    seed: int
    workers: Workers
    class_weights: Floats | None = None
    keep: bool = False
    k: int | None = None
    shared: SharedRows = field(default_factory=SharedRows)

    @property
    def n_classes(self) -> int:
        """Number of classes, n."""
        return int(self.y.max()) + 1

    def kept_model(self, model: Any) -> Any:
        """Return the model if the sweep keeps its models."""
        return model if self.keep else None
