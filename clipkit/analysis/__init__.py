"""Questions: each package is one, with the name of its command and the record `ANALYSIS`.

The modules beside them are what several questions share. The names of questions are known without
importing any of them.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipkit.analysis.question import Analysis


@functools.cache
def names() -> list[str]:
    """Return the names of the questions, which are those of their commands."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)


def find(name: str) -> Analysis:
    """Return the record of a question; its name is one of `names`."""
    found: Analysis = importlib.import_module(f"{__name__}.{name}").ANALYSIS
    return found
