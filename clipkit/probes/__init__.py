"""Probes: what a simple classifier reads from features, in sweeps over C and the features' scale.

Labels are integer ids in any numbering; predictions are the same ids. Products are float32, with
one BLAS thread per worker: pairs of classes, settings and blocks of rows run in parallel.

>>> import numpy as np
>>> from clipkit import probes
>>> X, y = np.array([[0.0, 1.0], [0.0, 2.0], [3.0, 1.0], [4.0, 1.0]]), np.array([7, 7, 9, 9])
>>> for run in probes.sweep(X, y, X[1:3], scales=[1, 10]):
...     print(run.classifier, run.C, run.scale, run.predicted)
svm 1.0 1.0 [7 9]
svm 1.0 10.0 [7 9]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipkit.base.lazy import lazy_names

if TYPE_CHECKING:
    from clipkit.probes.classifiers import CLASSIFIERS
    from clipkit.probes.fitted import FittedProbe
    from clipkit.probes.sweep_context import SharedRows
    from clipkit.probes.sweeps import Run, sweep
else:  # `predict` needs no scikit-learn, unlike sweeps
    __getattr__ = lazy_names(
        __name__,
        {
            f"{__name__}.classifiers": "CLASSIFIERS",
            f"{__name__}.fitted": "FittedProbe",
            f"{__name__}.sweep_context": "SharedRows",
            f"{__name__}.sweeps": "Run sweep",
        },
    )

__all__ = ["CLASSIFIERS", "FittedProbe", "Run", "SharedRows", "sweep"]
