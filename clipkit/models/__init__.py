"""A model's name -> an Encoder: images -> embeddings, texts -> embeddings. Frozen CLIP-like dual encoders.

`load` and `describe` bring PyTorch with them; names and files (`ALIASES`, `DEFAULT`, `models.hub`) do without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clipkit.models.hub import ALIASES, DEFAULT

if TYPE_CHECKING:
    from clipkit.models.encoder import DTYPES, Encoder, describe, load

__all__ = ["ALIASES", "DEFAULT", "DTYPES", "Encoder", "describe", "load"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from clipkit.models import encoder

        return getattr(encoder, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
