"""The classifiers of `probe`: one record says all of each, and every list of them is made from it.

To add one, write its record here, and a module with its solver and its `models.Model`. Nothing
heavy is imported before a classifier is fitted or predicts, since the command line names them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipkit.base import probe_arrays
from clipkit.base.errors import unknown
from clipkit.base.probe_arrays import ProbeArray

if TYPE_CHECKING:
    from clipkit.probes.models import Model
    from clipkit.probes.sweep_context import Solution, SweepContext

PROBABILITY = "probability"  # scores whose name begins so are printed in percent
SOFTMAX = f"{PROBABILITY}, the softmax over the classes"


@dataclass(frozen=True)
class Classifier:
    """Describe a classifier.

    Attributes
    ----------
    name : str
    solver, model : str
        The full names of a function and a `models.Model`, which are imported when they are used.
    arrays : mapping
        The arrays of its model that a kept probe stores, by name.
    settings : set of str
        Which of `C`, `k`, `seed` and `balanced` it takes.
    score, score_of_two : str
        Name what scores are: of several classes, and of two if that is another thing.
    is_linear : bool
        Whether the solution depends on C * scale**2 alone, and the model has `weights`.
    compares_directions : bool
        Whether only the rows' directions count. Rows are then not centred, by default not
        standardised, and no temperature matters.
    fits_pairs : bool
        Whether it fits each pair of classes, so that many classes take long.
    """

    name: str
    solver: str
    model: str
    arrays: Mapping[str, ProbeArray]
    settings: frozenset[str]
    score: str
    score_of_two: str = ""
    is_linear: bool = False
    compares_directions: bool = False
    fits_pairs: bool = False

    def load_solver(self) -> Callable[[SweepContext], list[Solution]]:
        """Import the function that fits a model at each setting of a sweep, and predicts its rows.

        A solver runs on `context.workers` and tells their `progress` how far it is. A solution says
        whether the fit converged, if it iterates until it does.
        """
        solver: Callable[[SweepContext], list[Solution]] = _import(self.solver)
        return solver

    def read_model(self, arrays: Mapping[str, Any]) -> Model:
        """Return the model of a kept probe's arrays."""
        model: Model = _import(self.model).from_arrays(arrays)
        return model

    def score_name(self, n_classes: int) -> str:
        """Name what scores of so many classes are."""
        return self.score_of_two if n_classes == 2 and self.score_of_two else self.score


def _import(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


SVM = Classifier(
    "svm",
    solver="clipkit.probes.svm.svm",
    model="clipkit.probes.models.Hyperplanes",
    arrays={"hyperplanes": ProbeArray({"<f4"}, "P D+")},
    settings=frozenset({"C"}),
    score="votes of the pairs of classes",
    score_of_two="margin",
    is_linear=True,
    fits_pairs=True,
)
LOGREG = Classifier(
    "logreg",
    solver="clipkit.probes.logistic.logreg",
    model="clipkit.probes.models.Coefficients",
    arrays={"coefficients": ProbeArray({"<f8"}, "D+ n")},
    settings=frozenset({"C", "balanced"}),
    score=SOFTMAX,
    is_linear=True,
)
MLP = Classifier(
    "mlp",
    solver="clipkit.probes.mlp.mlp",
    model="clipkit.probes.models.MLPWeights",
    arrays={"hidden": ProbeArray({"<f4"}, "D+ H"), "output": ProbeArray({"<f4"}, "H+ n")},
    settings=frozenset({"C", "seed"}),
    score=SOFTMAX,
)
KNN = Classifier(
    "knn",
    solver="clipkit.probes.knn.knn",
    model="clipkit.probes.models.Neighbours",
    arrays={
        "rows": ProbeArray({"<f4"}, "M D"),
        "row_classes": ProbeArray({"<i8"}, "M", holds_classes=True),
        "neighbours": ProbeArray({"<i8"}, "1", is_positive=True),
    },
    settings=frozenset({"k"}),
    score=f"{PROBABILITY}, the share of the neighbours' weights",
    compares_directions=True,
)
CLASSIFIERS = {one.name: one for one in (SVM, LOGREG, MLP, KNN)}
DEFAULT = SVM.name
LINEAR = tuple(one.name for one in CLASSIFIERS.values() if one.is_linear)

for _one in CLASSIFIERS.values():
    has_centre = not _one.compares_directions
    probe_arrays.declare(_one.name, _one.arrays, has_centre=has_centre)


def find(name: str) -> Classifier:
    """Return a classifier by its name. An unknown one raises `UsageError`."""
    if name not in CLASSIFIERS:
        raise unknown("classifier", name, CLASSIFIERS)
    return CLASSIFIERS[name]


def names_taking(setting: str) -> tuple[str, ...]:
    """Return the names of the classifiers that take a setting.

    >>> names_taking("balanced")
    ('logreg',)
    """
    return tuple(one.name for one in CLASSIFIERS.values() if setting in one.settings)
