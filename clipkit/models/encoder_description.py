"""Describe a loaded encoder, for histories and to other processes. Needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, eq=False)
class EncoderDescription:
    """The details of one tower for a history. `Encoder` documents the attributes."""

    details: dict[str, Any]
    parts: dict[str, str] = field(repr=False)
    columns: dict[int, slice] = field(kw_only=True, default_factory=dict)

    def layer_details(self, layer: int) -> dict[str, Any]:
        """Return what a history records of one of the layers in `columns`."""
        columns = self.columns[layer]
        return {**self.details, "layer": layer, "dim": columns.stop - columns.start}
