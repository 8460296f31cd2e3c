"""How many rows would decide a claim."""

from __future__ import annotations

import math

Z975, Z80 = 1.959964, 0.841621


def rows_needed(
    value: float,
    low: float,
    high: float,
    against: float,
    n: float,
    against_low: float = math.nan,
    against_high: float = math.nan,
) -> float:
    """Return the rows that decide a claim with a power of 80 %."""
    distance = abs(value - against)
    half = value - low if value > against else high - value
    if not distance > 0 or not half > 0:
        return math.nan
    needed = math.ceil(n * (half * (1 + Z80 / Z975) / distance) ** 2)
    return float(needed) if needed <= 100 * n else math.nan
