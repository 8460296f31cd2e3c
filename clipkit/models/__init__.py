"""Load frozen CLIP-like dual encoders by name: an `Encoder` embeds images or texts.

Names and files (`ALIASES`, `DEFAULT`, `models.hub`) need no PyTorch. What needs it is imported when
it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from clipkit.models.hub import ALIASES, DEFAULT

if TYPE_CHECKING:
    from clipkit.models.acceleration import should_compile
    from clipkit.models.describe import describe_model
    from clipkit.models.encoder import Encoder, load

__all__ = ["ALIASES", "DEFAULT", "Encoder", "describe_model", "load", "should_compile"]

_MODULES = {
    "Encoder": "encoder",
    "describe_model": "describe",
    "load": "encoder",
    "should_compile": "acceleration",
}


def __getattr__(name: str) -> Any:
    """Import what needs PyTorch when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"clipkit.models.{_MODULES[name]}")
    return getattr(module, name)
