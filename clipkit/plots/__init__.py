"""Arrays -> matplotlib `Figure`: the pictures that `clipkit plot` draws, and `save`.

Every function takes arrays and names, and a `title` to show above them, and returns a new `Figure`.
None uses pyplot or changes matplotlib's global settings. Names and prompts are shown literally,
never read as mathtext.

>>> from clipkit import plots
>>> fig = plots.confusion([[9, 1], [2, 8]], ["cat", "dog"], title="Zero-shot")
>>> plots.save(fig, "confusion.png")  # doctest: +SKIP
"""

from clipkit.plots.bars import classes, confidence, entropy, variance
from clipkit.plots.comparison import compare
from clipkit.plots.dots import Dots, attributes, importance, logits
from clipkit.plots.heatmaps import clusters, confusion, grid, prompt_variance, similarity
from clipkit.plots.layers import LayerCurve, LayerPoints, layers
from clipkit.plots.lines import (
    ShotCurve,
    Sweep,
    reliability,
    shots,
    spectrum,
    temperature,
)
from clipkit.plots.sheets import NearestImages, contact_sheet, nearest
from clipkit.plots.style import FORMATS, check_size, finish, format_of, overlapping_texts, save

__all__ = [
    "FORMATS",
    "Dots",
    "LayerCurve",
    "LayerPoints",
    "NearestImages",
    "ShotCurve",
    "Sweep",
    "attributes",
    "check_size",
    "classes",
    "clusters",
    "compare",
    "confidence",
    "confusion",
    "contact_sheet",
    "entropy",
    "finish",
    "format_of",
    "grid",
    "importance",
    "layers",
    "logits",
    "nearest",
    "overlapping_texts",
    "prompt_variance",
    "reliability",
    "save",
    "shots",
    "similarity",
    "spectrum",
    "temperature",
    "variance",
]
