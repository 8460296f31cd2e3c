"""The arrays that kept probes hold, as their classifiers declare them.

`features` checks a kept probe, but the classifiers stand above it, in `analysis.probes`. Each
declares its arrays here once, when `clipkit` is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class ProbeArray(NamedTuple):
    """An array of a kept probe.

    `types` are the types in which it may be stored (S: UTF-8 text). `axes` are its dimensions: n
    classes, D columns, P pairs of classes, H units, M or F rows, or 1; `+` marks a row or column of
    intercepts. Its numbers may have to be above 0, or positions of classes in 0..n-1.
    """

    types: set[str]
    axes: str
    is_positive: bool = False
    holds_classes: bool = False


class ProbeModel(NamedTuple):
    """The arrays of a classifier's model, and whether the probe keeps the rows' centre."""

    arrays: Mapping[str, ProbeArray]
    has_centre: bool


MODELS: dict[str, ProbeModel] = {}


def declare(classifier: str, arrays: Mapping[str, ProbeArray], *, has_centre: bool) -> None:
    """Declare the arrays that a kept probe of a classifier holds, at least one of them with D."""
    MODELS[classifier] = ProbeModel(arrays, has_centre)


def find(name: str) -> ProbeArray | None:
    """Return an array of any classifier; None if none declares its name."""
    for model in MODELS.values():
        if name in model.arrays:
            return model.arrays[name]
    return None
