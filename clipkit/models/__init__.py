"""A model's name -> an Encoder: images -> embeddings, texts -> embeddings. Frozen CLIP-like dual encoders.

`load` and `describe` bring PyTorch with them; names and files (`ALIASES`, `DEFAULT`, `models.hub`) do without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clipkit.models.hub import ALIASES, DEFAULT

if TYPE_CHECKING:
    from clipkit.models.about import describe
    from clipkit.models.encoder import DTYPES, Encoder, load
    from clipkit.models.quick import worth_compiling

__all__ = ["ALIASES", "DEFAULT", "DTYPES", "Encoder", "describe", "load", "worth_compiling"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from clipkit.models import about, encoder, quick

        homes = {"describe": about, "worth_compiling": quick}
        return getattr(homes.get(name, encoder), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
