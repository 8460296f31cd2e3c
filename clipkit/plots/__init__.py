"""Draw results: one function per picture, which takes arrays and names, and `save`.

Each returns a new `Figure` with `title` above it. None uses pyplot or changes matplotlib's global
settings. Names and prompts are shown literally, never read as mathtext, and cut if they are long.
NaN is not drawn; in a matrix it is grey.

A picture is one module: its functions on arrays, which its `__all__` names, how it reads a file,
and the `Picture` that `clipkit plot` makes a command of. The record of a question may declare its
picture instead, which `shapes` draws. This package collects them all. Importing it does not load
matplotlib, which a function imports when it draws.

>>> from clipkit import plots
>>> fig = plots.confusion([[9, 1], [2, 8]], ["cat", "dog"], title="Zero-shot")
>>> plots.save(fig, "confusion.png")  # doctest: +SKIP

`draw` draws files as `clipkit plot` does. A notebook shows the figure that a cell ends with.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from clipkit.analysis.results import newest_entry
from clipkit.base.errors import UsageError, unknown
from clipkit.base.options import options_of
from clipkit.features.arguments import Features, Several, as_files, checked
from clipkit.features.model import FeatureFile
from clipkit.plots import style
from clipkit.plots.picture import Picture

if TYPE_CHECKING:  # what the loop below finds, for users' type checkers
    from matplotlib.figure import Figure

    from clipkit.plots.attributes import *  # noqa: F403
    from clipkit.plots.compare import *  # noqa: F403
    from clipkit.plots.confusion import *  # noqa: F403
    from clipkit.plots.dumbbells import *  # noqa: F403
    from clipkit.plots.entropy import *  # noqa: F403
    from clipkit.plots.images import *  # noqa: F403
    from clipkit.plots.layers import *  # noqa: F403
    from clipkit.plots.logits import *  # noqa: F403
    from clipkit.plots.marks import *  # noqa: F403
    from clipkit.plots.reliability import *  # noqa: F403
    from clipkit.plots.retrieval import *  # noqa: F403
    from clipkit.plots.shapes import *  # noqa: F403
    from clipkit.plots.shots import *  # noqa: F403
    from clipkit.plots.spectrum import *  # noqa: F403
    from clipkit.plots.style import *  # noqa: F403
    from clipkit.plots.temperature import *  # noqa: F403
    from clipkit.plots.thresholds import *  # noqa: F403


PICTURES: dict[str, Picture] = {}  # by their names
for _found in pkgutil.iter_modules(__path__):  # noqa: F405
    _module = importlib.import_module(f"{__name__}.{_found.name}")
    for _name in getattr(_module, "__all__", ()):
        globals()[_name] = getattr(_module, _name)
    for _value in [*vars(_module).values(), *getattr(_module, "OF_QUESTIONS", ())]:
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


def choose_pictures(file: FeatureFile) -> list[Picture]:
    """Return the pictures that a file is for, as `pictures_of`; refuse a file without any."""
    found = pictures_of(file)
    if found:
        return found
    maker = str(newest_entry(file)["command"])
    hint = "clipkit report shows its table; clipkit plot --help lists all pictures"
    if maker in PICTURES:
        kinds = " or ".join(PICTURES[maker].kinds)
        hint = f"clipkit plot {maker} draws {kinds}; clipkit report shows the table of a result"
    raise UsageError(f"{file.display_name}: no picture shows a result of {maker}", hint)


@checked
def draw(
    files: Several[Features],
    picture: str | None = None,
    *,
    title: str | None = None,
    **options: Any,
) -> Figure:
    """Draw files as `clipkit plot` does, with the finding above and the source of the data.

    Parameters
    ----------
    files : Features, or several
        Most pictures draw one file.
    picture : str, optional
        The name of a picture; by default the one that the first file is for.
    title : str, optional
        In place of the finding.
    **options
        Those of the picture, such as ``split="test"``, and ``dataset="shapes"`` for pictures of
        images.

    Raises
    ------
    UsageError
        If there is no such picture or option, or none for the file.
    ClipkitError
        If the picture does not draw files of this kind.
    """
    files = as_files(files, "files")
    chosen = _find(files, picture)
    inputs = chosen.inputs(files, options.pop("dataset", None))
    known = options_of(chosen.draw)
    for name in options:
        if name not in known:
            raise unknown(f"option of the picture {chosen.name}", name, known)
    figure, source = chosen.draw(*inputs, **options)
    style.finish(figure, source, title=title)
    return figure


def _find(files: Sequence[FeatureFile], name: str | None) -> Picture:
    """Return the picture of a name, or the one that the first file is for."""
    if name is None:
        if not files:
            raise UsageError("files: expected a feature file, got none")
        return choose_pictures(files[0])[0]
    if name not in PICTURES:
        raise unknown("picture", name, PICTURES)
    return PICTURES[name]
