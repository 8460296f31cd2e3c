"""Dissect CLIP-like vision-language models with small commands and functions over feature files.

`import clipkit` loads no heavy library: each name below is imported when it is first used.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from clipkit.base.version import __version__

if TYPE_CHECKING:
    from clipkit.datasets import load as load_dataset
    from clipkit.features.hdf5 import read, write
    from clipkit.features.model import FeatureFile
    from clipkit.models import load as load_model

__all__ = ["FeatureFile", "__version__", "load_dataset", "load_model", "read", "write"]

_SOURCES = {
    "FeatureFile": ("clipkit.features", "FeatureFile"),
    "load_dataset": ("clipkit.datasets", "load"),
    "load_model": ("clipkit.models", "load"),
    "read": ("clipkit.features", "read"),
    "write": ("clipkit.features", "write"),
}

# The modules of the API are also imported without the name of their package.
_PACKAGES = {
    "analysis": (
        "alignment attributes calibration choices clustering comparison dependence description "
        "evaluation importance layer_curves metrics prediction probes ranking relabeling results "
        "retrieval similarity softmax thresholds variance zeroshot"
    ),
    "features": "annotations concatenation splitting",
}
_MODULES = {
    f"{__name__}.{module}": f"{__name__}.{package}.{module}"
    for package, modules in _PACKAGES.items()
    for module in modules.split()
}
_MODULES[f"{__name__}.prompt_files"] = f"{__name__}.prompts.formats"
_MODULES[f"{__name__}.ensembling"] = f"{__name__}.analysis.similarity"
_MODULES[f"{__name__}.thumbnails"] = f"{__name__}.datasets.matching"


class _ShortNames(Loader):
    """Import `clipkit.similarity` as `clipkit.analysis.similarity`."""

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in _MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(_MODULES[module.__name__])


sys.meta_path.append(_ShortNames())


def __getattr__(name: str) -> Any:
    """Import a name of the API when it is first used (PEP 562)."""
    if name not in _SOURCES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _SOURCES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
