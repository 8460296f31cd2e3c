"""Draw results: one function per picture, which takes arrays and names, and `save`.

Each returns a new `Figure` with `title` above it. None uses pyplot or changes matplotlib's global
settings. Names and prompts are shown literally, never read as mathtext, and cut if they are long.
NaN is not drawn; in a matrix it is grey.

The module of a picture also holds how `clipkit plot` reads a file for it.

>>> from clipkit import plots
>>> fig = plots.confusion([[9, 1], [2, 8]], ["cat", "dog"], title="Zero-shot")
>>> plots.save(fig, "confusion.png")  # doctest: +SKIP
"""

from clipkit.plots.attributes import Dots, attributes, importance
from clipkit.plots.compare import compare
from clipkit.plots.confusion import classes, clusters, confusion
from clipkit.plots.entropy import confidence, entropy
from clipkit.plots.images import NearestImages, contact_sheet, nearest
from clipkit.plots.layers import LayerCurve, LayerPoints, layers
from clipkit.plots.logits import logits, similarity
from clipkit.plots.reliability import reliability
from clipkit.plots.retrieval import RecallCurve, retrieval
from clipkit.plots.shots import ShotCurve, shots
from clipkit.plots.spectrum import spectrum
from clipkit.plots.style import check_size, finish, format_of, overlapping_texts, save, title_of
from clipkit.plots.temperature import Sweep, temperature
from clipkit.plots.thresholds import threshold
from clipkit.plots.variance import prompt_variance, variance

__all__ = [
    "Dots", "LayerCurve", "LayerPoints", "NearestImages", "RecallCurve", "ShotCurve",
    "Sweep", "attributes",
    "check_size", "classes", "clusters", "compare", "confidence", "confusion", "contact_sheet",
    "entropy", "finish", "format_of", "importance", "layers", "logits", "nearest",
    "overlapping_texts", "prompt_variance", "reliability", "retrieval", "save", "shots",
    "similarity", "spectrum", "temperature", "threshold", "title_of", "variance",
]  # fmt: skip
