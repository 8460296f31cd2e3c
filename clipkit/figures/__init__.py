"""Arrays -> matplotlib `Figure`: the pictures that `clipkit plot` draws, and `save`.

Every function is pure: it takes arrays and names and returns a new `Figure`, without pyplot, and leaves matplotlib's
global settings as they were. Names and prompts are shown literally, never read as mathtext.

>>> from clipkit import figures
>>> fig = figures.confusion([[9, 1], [2, 8]], ["cat", "dog"], title="Zero-shot")
>>> figures.save(fig, "confusion.png")  # doctest: +SKIP
"""

from __future__ import annotations

from clipkit.figures.bars import classes, confidence, entropy
from clipkit.figures.heatmaps import clusters, confusion, grid, similarity
from clipkit.figures.lines import Sweep, logits, spectrum, temperature
from clipkit.figures.sheets import contact_sheet
from clipkit.figures.style import FORMATS, format_of, save

__all__ = [
    "FORMATS",
    "Sweep",
    "classes",
    "clusters",
    "confidence",
    "confusion",
    "contact_sheet",
    "entropy",
    "format_of",
    "grid",
    "logits",
    "save",
    "similarity",
    "spectrum",
    "temperature",
]
