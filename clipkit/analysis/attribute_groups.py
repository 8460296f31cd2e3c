"""Sort attributes into groups: learned or not, and reached by words or not.

This is the rule, for recalls above chance:

- An attribute is not there if the 95 % interval of the probe begins below chance + 2 points.
- It is there without training if the paired difference of the probe to some control is not shown
  to be above 0, or is less than half of the probe's recall above chance.
- All others are learned. Words reach an attribute if `reach` is at least one half.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

ABOVE_CHANCE = 0.02  # by which the probe's interval must exceed chance
HALF = 0.5  # of the probe's recall above chance
REACHED = "learned and reached by words"
NOT_REACHED = "in the embedding, but not reached by words"
WITHOUT_TRAINING = "there without training"
NOT_THERE = "not there"
GROUPS = (REACHED, NOT_REACHED, WITHOUT_TRAINING, NOT_THERE)


def group_attributes(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the attributes of each group, from the rows of a result of `attributes`.

    An attribute without a control, a test or words is in no group if its group depends on them.
    """
    groups: dict[str, list[str]] = {name: [] for name in GROUPS}
    for row in rows:
        group = group_of(row)
        if group:
            groups[group].append(row["attribute"])
    return groups


def group_of(row: Mapping[str, Any]) -> str:
    """Return the group of an attribute, or "" if the row does not tell it."""
    if not math.isfinite(row.get("gain_low", math.nan) + row.get("probe_low", math.nan)):
        return ""
    if row["probe_low"] <= row["chance"] + ABOVE_CHANCE:
        return NOT_THERE
    if row["gain_low"] <= 0 or row["gain"] < HALF * (row["probe"] - row["chance"]):
        return WITHOUT_TRAINING
    if math.isnan(row["reach"]):
        return ""
    return REACHED if row["reach"] >= HALF else NOT_REACHED
