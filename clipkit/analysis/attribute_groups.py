"""Sort attributes into groups by the rule that docs/commands/attributes.md states in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

ABOVE_CHANCE = 0.02  # by which the probe's interval must exceed chance
HALF = 0.5  # of the probe's recall above chance
REACHED = "learned and reached by words"
NOT_REACHED = "in the embedding, but not reached by words"
WITHOUT_TRAINING = "there without training"
NOT_THERE = "not there"
NEEDED = ("chance", "probe", "probe_low", "gain", "gain_low", "reach")
GROUPS = (REACHED, NOT_REACHED, WITHOUT_TRAINING, NOT_THERE)


def group_of(row: Mapping[str, Any]) -> str:
    """Return the group of an attribute, or "" if the row does not tell it."""
    is_known = all(isinstance(row.get(name), float) for name in NEEDED)
    if not is_known or not math.isfinite(row["gain_low"] + row["probe_low"]):
        return ""
    if row["probe_low"] <= row["chance"] + ABOVE_CHANCE:
        return NOT_THERE
    if row["gain_low"] <= 0 or row["gain"] < HALF * (row["probe"] - row["chance"]):
        return WITHOUT_TRAINING
    if math.isnan(row["reach"]):
        return ""
    return REACHED if row["reach"] >= HALF else NOT_REACHED
