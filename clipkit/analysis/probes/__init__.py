"""Probes: what a simple classifier reads from features, in sweeps over C and the features' scale.

Labels are integer ids in any numbering; predictions are the same ids. Products are float32, with
one BLAS thread per worker: pairs of classes, settings and blocks of rows run in parallel.

>>> import numpy as np
>>> from clipkit.analysis import probes
>>> X, y = np.array([[0.0, 1.0], [0.0, 2.0], [3.0, 1.0], [4.0, 1.0]]), np.array([7, 7, 9, 9])
>>> for run in probes.sweep(X, y, X[1:3], scales=[1, 10]):
...     print(run.classifier, run.C, run.scale, run.predicted)
svm 1.0 1.0 [7 9]
svm 1.0 10.0 [7 9]
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipkit.analysis.probes.classifiers import CLASSIFIERS
    from clipkit.analysis.probes.fitted import FittedProbe
    from clipkit.analysis.probes.sweep_context import SharedRows
    from clipkit.analysis.probes.sweeps import Run, sweep

__all__ = ["CLASSIFIERS", "FittedProbe", "Run", "SharedRows", "sweep"]

_MODULES = {
    "CLASSIFIERS": "classifiers",
    "FittedProbe": "fitted",
    "Run": "sweeps",
    "SharedRows": "sweep_context",
    "sweep": "sweeps",
}

if not TYPE_CHECKING:  # a type checker would take any name for one of the module

    def __getattr__(name: str) -> Any:
        """Import a name when it is first used: `predict` needs no scikit-learn, unlike sweeps."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
