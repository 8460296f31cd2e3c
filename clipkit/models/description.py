"""What a process that has loaded a model tells about it. Needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, eq=False)
class Description:
    """What a history records of one tower of a model. `Encoder` documents the attributes."""

    details: dict[str, Any]
    parts: dict[str, str] = field(repr=False)
    columns: dict[int, slice] = field(kw_only=True, default_factory=dict)

    def layer_details(self, layer: int) -> dict[str, Any]:
        """Return what a history records of one of the layers in `columns`."""
        columns = self.columns[layer]
        return {**self.details, "layer": layer, "dim": columns.stop - columns.start}
