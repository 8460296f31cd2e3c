"""Load frozen CLIP-like dual encoders by name: an `Encoder` embeds images or texts.

Everything is imported when it is first used; `canonical_name` and `models.hub` need no PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipkit.models.acceleration import should_compile
    from clipkit.models.describe import describe_model
    from clipkit.models.devices import num_threads, set_num_threads
    from clipkit.models.encoder import Encoder, load
    from clipkit.models.encoder_description import EncoderDescription
    from clipkit.models.hub import canonical_name, check_device, check_name

DEFAULT = "openai/clip-vit-base-patch32"

__all__ = [
    "DEFAULT",
    "Encoder",
    "EncoderDescription",
    "canonical_name",
    "check_device",
    "check_name",
    "describe_model",
    "load",
    "num_threads",
    "set_num_threads",
    "should_compile",
]

_MODULES = {
    "EncoderDescription": "encoder_description",
    "Encoder": "encoder",
    "canonical_name": "hub",
    "check_device": "hub",
    "check_name": "hub",
    "describe_model": "describe",
    "load": "encoder",
    "num_threads": "devices",
    "set_num_threads": "devices",
    "should_compile": "acceleration",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"clipkit.models.{_MODULES[name]}")
    return getattr(module, name)
