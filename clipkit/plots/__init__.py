"""Arrays -> matplotlib `Figure`: the pictures that `clipkit plot` draws, and `save`.

Every function takes arrays and names, and a `title` to show above them, and returns a new `Figure`.
None uses pyplot or changes matplotlib's global settings. Names and prompts are shown literally,
never read as mathtext.

>>> from clipkit import plots
>>> fig = plots.confusion([[9, 1], [2, 8]], ["cat", "dog"], title="Zero-shot")
>>> plots.save(fig, "confusion.png")  # doctest: +SKIP
"""

from clipkit.plots.bars import classes, confidence, entropy
from clipkit.plots.heatmaps import clusters, confusion, grid, similarity
from clipkit.plots.lines import Sweep, logits, reliability, spectrum, temperature
from clipkit.plots.sheets import contact_sheet
from clipkit.plots.style import FORMATS, format_of, save

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
    "reliability",
    "save",
    "similarity",
    "spectrum",
    "temperature",
]
