"""Describe pictures: what `clipkit plot`, the hints, the report and the tests know of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from clipkit.base.errors import UsageError
from clipkit.base.options import option, split_option
from clipkit.features.hdf5 import check_kind
from clipkit.features.model import FeatureFile
from clipkit.features.similarity import pair, refuse_dot_product
from clipkit.plots.style import Drawn

WITH_SIMILARITIES = ("logits", "texts")  # kinds of files


def always(result: FeatureFile) -> bool:
    """Return True: the answer holds of every file."""
    return True


def never(result: FeatureFile) -> bool:
    """Return False: the answer holds of no file."""
    return False


@dataclass(frozen=True)
class Picture:
    """A picture that `clipkit plot` draws.

    Parameters
    ----------
    name : str
    draw : callable
        Takes a `FeatureFile`, a list of them or the words that name a data set, then values of
        options, and returns a figure and what it is of. Its documentation is the help; its
        parameters that are annotated with an `Option` are the options.
    example : str
        A command line.
    kinds : tuple of str
        The kinds of feature files that it draws; none for the images of a data set.
    of : tuple of str
        The commands or kinds whose files it is for: `clipkit plot FILE` draws it or names it.
    is_first : callable FeatureFile -> bool
        Whether `clipkit plot FILE` draws it, although there are others of that file.
    draws_several : bool
        Whether `draw` takes a list of files.
    needs_images : bool
        Whether `draw` takes a data set, as words; behind the file, if it takes one, too.
    draws_dot_products : bool
        Whether it takes logits and texts of a model whose similarities are dot products.
    is_reported : callable FeatureFile -> bool
        Whether a report shows the picture of a result.
    section : str
        The section of a page that shows it, a key of `sections.SECTIONS`; by default, that of the
        result.
    draw_together : callable, optional
        What a report draws in place of one picture for each result: takes all of them.
    """

    name: str
    draw: Callable[..., Drawn]
    example: str
    kinds: tuple[str, ...] = ("result",)
    of: tuple[str, ...] = ()
    is_first: Callable[[FeatureFile], bool] = never
    draws_several: bool = False
    needs_images: bool = False
    draws_dot_products: bool = False
    is_reported: Callable[[FeatureFile], bool] = never
    section: str = ""
    draw_together: Callable[[Sequence[FeatureFile]], Drawn] | None = None

    @property
    def pairs(self) -> bool:
        """Whether images and texts may stand for the logits that it draws."""
        return self.kinds == ("logits",) and not self.draws_several

    def check(self, file: FeatureFile) -> None:
        """Refuse dot products if the picture calls them cosines."""
        if file.kind in WITH_SIMILARITIES and not self.draws_dot_products:
            refuse_dot_product(file, f"to plot {self.name}")

    def inputs(self, files: Sequence[FeatureFile], dataset: str | list[str] | None) -> list[Any]:
        """Return what `draw` takes before its options; refuse other files, or no data set."""
        takes_one = bool(self.kinds) and not self.draws_several
        if self.pairs and [file.kind for file in files] == ["images", "texts"]:
            files = [pair(*files)]
        if takes_one and len(files) != 1:
            raise UsageError(f"the picture {self.name} draws one file, got {len(files)}")
        for file in files:
            check_kind(file, self.kinds)
            self.check(file)
        inputs: list[Any] = [*files] if takes_one else [files] * self.draws_several
        if self.needs_images:
            if not dataset:
                raise UsageError(f"the picture {self.name} needs images", 'dataset="shapes"')
            inputs.append([dataset] if isinstance(dataset, str) else dataset)
        return inputs

    def draw_file(self, file: FeatureFile) -> Drawn:
        """Draw one file, with the defaults of all options."""
        return self.draw([file] if self.draws_several else file)


Split = Annotated[str | None, split_option("Split to draw (default: test, else the first).")]
Run = Annotated[
    int | None, option("N", "Number of the run, from 0 (default: the most accurate).", min=0)
]
Groups = Annotated[
    str | None,
    option("FILE", "Draw groups of classes; each line of FILE is: class TAB group.", is_file=True),
]
