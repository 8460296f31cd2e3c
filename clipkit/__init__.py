"""Dissect CLIP-like vision-language models with small commands and functions over feature files.

`import clipkit` loads no heavy library: each name below is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# each classifier declares the arrays that `features` accepts in a kept probe
import clipkit.analysis.probes.classifiers  # noqa: F401
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

if not TYPE_CHECKING:  # a type checker would take any name for one of the module

    def __getattr__(name: str) -> Any:
        """Import a name of the API when it is first used (PEP 562)."""
        if name not in _SOURCES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module, attribute = _SOURCES[name]
        return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
