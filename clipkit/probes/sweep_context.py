"""What the solvers of a sweep share: the data, the settings, and the threads that they run on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from joblib import cpu_count  # type: ignore[import-untyped]
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from clipkit.base.matrices import Floats, Int64
from clipkit.probes.preparation import Preparation

Float64 = NDArray[np.float64]
ProgressCallback = Callable[[int, int, str], None]


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
    """`count` threads with one BLAS thread each, one per core. Leaving the block cancels them.

    The callback gets `done, total, reached` when steps are finished, one call at a time.
    """

    def __init__(self, callback: ProgressCallback | None) -> None:
        # OpenMP counts its threads per thread, so every worker sets its own limit
        self.count = cpu_count()
        self._pool = ThreadPoolExecutor(self.count, initializer=threadpool_limits, initargs=(1,))
        self._callback = callback
        self._cancelled = threading.Event()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._cancelled.set()  # running work ends when it next checks
        self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """Apply a function to all items in parallel. Results come in the order of the items."""
        return list(self._pool.map(function, items))

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
