"""Dissect CLIP-like vision-language models with small commands and functions over feature files.

`import clipkit` loads no heavy library: each name below is imported when it is first used.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

# each classifier declares the arrays that `features` accepts in a kept probe
import clipkit.probes.classifiers  # noqa: F401
from clipkit import analysis
from clipkit.base.lazy import lazy_names
from clipkit.base.version import __version__
from clipkit.base.views import NAMES as KNOWN_NAMES
from clipkit.base.views import QUESTIONS, VIEWS

if TYPE_CHECKING:
    from clipkit.analysis.options import Attribute, Cluster, Common, FirstSplit, Seed, Splits, Table
    from clipkit.analysis.own import run
    from clipkit.analysis.question import Analysis, Input
    from clipkit.base.errors import ClipkitError
    from clipkit.base.options import choice, flag, option
    from clipkit.base.pictures import Curves, Distributions, Dots, Matrix
    from clipkit.datasets import load as load_dataset
    from clipkit.embedding.in_memory import embed, textembed
    from clipkit.features.arrays import from_array
    from clipkit.features.columns import COUNT, FLAG, NATS, NUMBER, POINTS, SHARE, TEXT, Column, P
    from clipkit.features.for_notebooks import choose_splits
    from clipkit.features.hdf5 import read, write
    from clipkit.features.model import FeatureFile
    from clipkit.features.similarity import compute_logits as logits
    from clipkit.models import load as load_model
    from clipkit.statistics.claims import Claim, Reference

NAMES = lazy_names(
    __name__,
    {
        f"{__name__}.features": "FeatureFile from_array read write",
        f"{__name__}.features.similarity": "logits=compute_logits",
        f"{__name__}.datasets": "load_dataset=load",
        f"{__name__}.embedding.in_memory": "embed textembed",
        f"{__name__}.models": "load_model=load",
        f"{__name__}.analysis.question": "Analysis Input",
        f"{__name__}.analysis.options": "Attribute Cluster Common FirstSplit Seed Splits Table",
        f"{__name__}.analysis.own": "run",
        f"{__name__}.base.errors": "ClipkitError",
        f"{__name__}.base.options": "choice flag option",
        f"{__name__}.base.pictures": "Curves Distributions Dots Matrix",
        f"{__name__}.features.for_notebooks": "choose_splits",
        f"{__name__}.statistics.claims": "Claim Reference",
        f"{__name__}.features.columns": "COUNT Column FLAG NATS NUMBER P POINTS SHARE TEXT",
    },
)


def __getattr__(name: str) -> Any:
    """Return a name of another module, or the function of a question."""
    if name in analysis.names():
        return analysis.find(name).function
    return NAMES(name)


__all__ = [
    "COUNT",
    "FLAG",
    "NATS",
    "NUMBER",
    "POINTS",
    "SHARE",
    "TEXT",
    "Analysis",
    "Attribute",
    "Claim",
    "ClipkitError",
    "Cluster",
    "Column",
    "Common",
    "Curves",
    "Distributions",
    "Dots",
    "FeatureFile",
    "FirstSplit",
    "Input",
    "Matrix",
    "P",
    "Reference",
    "Seed",
    "Splits",
    "Table",
    "__version__",
    "choice",
    "choose_splits",
    "embed",
    "flag",
    "from_array",
    "load_dataset",
    "load_model",
    "logits",
    "option",
    "read",
    "run",
    "textembed",
    "write",
]
HELPERS = {
    *("Any", "HELPERS", "KNOWN_NAMES", "NAMES", "QUESTIONS"),
    *("TYPE_CHECKING", "VIEWS", "functools"),
    *("annotations", "clipkit", "lazy_names"),
}


def _view_result(result: FeatureFile) -> str | None:
    from clipkit import report

    return report.view(result)


def _is_data_set(name: str) -> bool:
    from clipkit.datasets.registry import REGISTRY

    return name in REGISTRY


def _is_prompt_set(name: str) -> bool:
    from clipkit.prompts import bundled

    return name in bundled.list_files()


KNOWN_NAMES.update({"data set": _is_data_set, "prompt set": _is_prompt_set})
VIEWS["result"] = VIEWS["probe"] = _view_result
for _name in analysis.names():
    QUESTIONS[_name] = functools.partial(analysis.find, _name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *analysis.names()} - HELPERS)
