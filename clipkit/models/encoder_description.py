"""Describe a loaded encoder, for histories and to other processes. Needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# Details that may differ between machines
MACHINE = ("compile", "device", "library", "packed", "precision")


@dataclass(frozen=True, eq=False)
class EncoderDescription:
    """The details of one tower for a history. `Encoder` documents the attributes."""

    details: dict[str, Any]
    parts: dict[str, str] = field(repr=False)
    columns: dict[int, slice] = field(kw_only=True, default_factory=dict)

    def machine_details(self) -> dict[str, Any]:
        """Return the details that depend on the machine, unless an option sets them."""
        return {name: self.details[name] for name in MACHINE if name in self.details}

    def shared_details(self) -> dict[str, Any]:
        """Return the details that all machines must share. Of the library, it is the name only."""
        shared = {name: value for name, value in self.details.items() if name not in MACHINE}
        return {**shared, "library": self.details["library"].split()[0]}

    def layer_details(self, layer: int) -> dict[str, Any]:
        """Return what a history records of one of the layers in `columns`."""
        columns = self.columns[layer]
        return {**self.details, "layer": layer, "dim": columns.stop - columns.start}
