"""Sort attributes into groups by the rule that docs/commands/attributes.md states in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from clipkit.analysis import results
from clipkit.base.errors import ClipkitError
from clipkit.features.model import FeatureFile

ABOVE_CHANCE = 0.02  # by which the probe's interval must exceed chance
HALF = 0.5  # of the probe's recall above chance
REACHED = "learned and reached by words"
NOT_REACHED = "in the embedding, but not reached by words"
WITHOUT_TRAINING = "there without training"
NOT_THERE = "not shown to be there"
NEEDED = ("chance", "probe", "probe_low", "gain", "gain_low", "gain_high", "reach")
GROUPS = (REACHED, NOT_REACHED, WITHOUT_TRAINING, NOT_THERE)

# What the groups are called if the words are a generative model's own answers
SAID = {REACHED: "held and said", NOT_REACHED: "held, but not said"}
BANDS = (REACHED, SAID[REACHED], NOT_REACHED, SAID[NOT_REACHED], WITHOUT_TRAINING, NOT_THERE)


def attribute_recalls(result: FeatureFile) -> dict[str, NDArray[Any]]:
    """Return the columns of a result of `attributes`: `attribute` is str, all others float."""
    names = "attribute chance reach"
    for name in ("zeroshot", "probe", "random", "control"):
        names += f" {name} {name}_low {name}_high"
    if "null5" in result.runs:
        what = "expected shares, got errors in the unit of each column"
        raise ClipkitError(f"{result.display_name}: {what}", "measure with --metric r2")
    return results.columns_of(result, "attributes", names)


def group_of(row: Mapping[str, Any]) -> str:
    """Return the group of an attribute, or "" if the row does not decide it."""
    is_known = all(isinstance(row.get(name), float) for name in NEEDED)
    if not is_known or not math.isfinite(row["gain_low"] + row["probe_low"]):
        return ""
    least = row["chance"] + ABOVE_CHANCE
    if row["probe_low"] <= least:  # a probe with few rows may fail where words do not
        return "" if row.get("zeroshot_low", math.nan) > least else NOT_THERE
    half = HALF * (row["probe"] - row["chance"])
    if row["gain_high"] < half:
        return WITHOUT_TRAINING
    if row["gain_low"] <= 0 or row["gain"] < half or math.isnan(row["reach"]):
        return ""
    return REACHED if row["reach"] >= HALF else NOT_REACHED
