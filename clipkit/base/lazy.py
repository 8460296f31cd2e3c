"""Offer names of a package's modules that are imported when a name is first used (PEP 562)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, sources: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package that has names of other modules.

    `sources` gives the names of each module, separated by spaces; `a=b` offers its `b` as `a`.

    >>> lazy_names("clipkit.base", {"clipkit.base.files": "STREAM"})("STREAM")
    '-'
    """
    place_of = {}
    for module, names in sources.items():
        for name in names.split():
            offered, _, own = name.partition("=")
            place_of[offered] = (module, own or offered)

    def get(name: str) -> Any:
        if name not in place_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, own = place_of[name]
        return getattr(importlib.import_module(module), own)

    return get
