"""Draw results: one function per picture, which takes arrays and names, and `save`.

Each returns a new `Figure` with `title` above it. None uses pyplot or changes matplotlib's global
settings. Names and prompts are shown literally, never read as mathtext, and cut if they are long.
NaN is not drawn; in a matrix it is grey.

A picture is one module: its functions on arrays, which its `__all__` names, how it reads a file,
and the `Picture` that `clipkit plot` makes a command of. This package collects them all. Importing
it does not load matplotlib, which a function imports when it draws.

>>> from clipkit import plots
>>> fig = plots.confusion([[9, 1], [2, 8]], ["cat", "dog"], title="Zero-shot")
>>> plots.save(fig, "confusion.png")  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from clipkit.analysis.results import newest_entry
from clipkit.features.model import FeatureFile
from clipkit.plots.picture import Picture

if TYPE_CHECKING:  # what the loop below finds, for users' type checkers
    from clipkit.plots.attributes import *  # noqa: F403
    from clipkit.plots.compare import *  # noqa: F403
    from clipkit.plots.confusion import *  # noqa: F403
    from clipkit.plots.entropy import *  # noqa: F403
    from clipkit.plots.images import *  # noqa: F403
    from clipkit.plots.layers import *  # noqa: F403
    from clipkit.plots.logits import *  # noqa: F403
    from clipkit.plots.reliability import *  # noqa: F403
    from clipkit.plots.retrieval import *  # noqa: F403
    from clipkit.plots.shots import *  # noqa: F403
    from clipkit.plots.spectrum import *  # noqa: F403
    from clipkit.plots.style import *  # noqa: F403
    from clipkit.plots.temperature import *  # noqa: F403
    from clipkit.plots.thresholds import *  # noqa: F403
    from clipkit.plots.variance import *  # noqa: F403


PICTURES: dict[str, Picture] = {}  # by their names
for _found in pkgutil.iter_modules(__path__):  # noqa: F405
    _module = importlib.import_module(f"{__name__}.{_found.name}")
    for _name in getattr(_module, "__all__", ()):
        globals()[_name] = getattr(_module, _name)
    for _value in vars(_module).values():
        if isinstance(_value, Picture):
            PICTURES[_value.name] = _value
PICTURES = dict(sorted(PICTURES.items()))


def pictures_of(file: FeatureFile) -> list[Picture]:
    """Return the pictures that a file is for; `clipkit plot FILE` draws the first one.

    Pictures that also need a data set are last.
    """
    maker = newest_entry(file)["command"]
    found = [
        picture for picture in PICTURES.values() if file.kind in picture.of or maker in picture.of
    ]
    return sorted(found, key=lambda picture: (picture.needs_images, not picture.is_first(file)))
