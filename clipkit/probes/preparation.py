"""Prepare columns for a classifier: standardise, centre and scale them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipkit.base.errors import LARGEST, SMALLEST, ClipkitError
from clipkit.base.matrices import Floats


@dataclass(frozen=True)
class Preparation:
    """Prepare columns for a model: (x - mean) / deviation - centre, / rms.

    Only standardised features have a mean and a deviation (D,). A classifier that compares
    directions has no centre.
    """

    mean: Floats | None = None
    deviation: Floats | None = None
    centre: Floats | None = None
    rms: float = 1.0

    def standardize(self, X: Floats) -> Floats:
        """Standardise the columns of `X` (M, D), if the fitted rows were."""
        if self.mean is None or self.deviation is None:
            return X
        return (X.astype(self.mean.dtype, copy=False) - self.mean) / self.deviation

    def apply(self, X: Floats) -> NDArray[np.float32]:
        """Return prepared rows (M, D), or refuse them as `check_magnitude` does."""
        X = self.standardize(X)
        if self.centre is not None:
            check_magnitude(X, 0.0 if self.mean is not None else SMALLEST)
            X = X - self.centre
        return (X / self.rms).astype(np.float32)


def check_magnitude(rows: Floats, smallest: float) -> None:
    """Refuse features so large or small that a fit overflows or never ends."""
    largest = largest_magnitude(rows)
    if largest != 0 and not smallest <= largest <= LARGEST:
        raise ClipkitError(
            f"expected features of magnitude {SMALLEST:g} to {LARGEST:g}, got {largest:.3g}",
            "standardise them: fit with --standardize",
        )


def largest_magnitude(rows: Floats) -> float:
    """Return the largest absolute value of an array, 0 if it is empty."""
    return max(float(rows.max(initial=0)), -float(rows.min(initial=0)))
