"""Choose splits and read attributes of what a notebook has: a file, its path or an array.

Other modules of clipkit have a feature file, and call the functions of `matching` and
`annotations` that these call.
"""

from __future__ import annotations

from typing import Any

from clipkit.features import matching
from clipkit.features.annotations import Annotations
from clipkit.features.annotations import read_annotations as read_of_file
from clipkit.features.arguments import Features, Several, as_file, as_list, checked
from clipkit.features.attribute_tables import Table
from clipkit.features.model import FeatureFile


@checked
def choose_split(file: Features, split: str | None = None) -> tuple[FeatureFile, str]:
    """Return a file and its split with the rows to use; see `matching.choose_split`."""
    return matching.choose_split(as_file(file, "file"), split)


@checked
def choose_splits(
    file: Features, names: Several[str] | None = None
) -> tuple[FeatureFile, list[str]]:
    """Return a file, with splits that are joined, and the names of the splits to use.

    Parameters
    ----------
    file : Features
        With splits.
    names : str or sequence of str, optional
        As `matching.choose_splits` takes them; by default, all splits, one by one.
    """
    return matching.choose_splits(as_file(file, "file"), as_list(names, "names", str))


@checked
def read_annotations(
    file: Features, table: Table | None = None, columns: Several[str] = (), **options: Any
) -> Annotations:
    """Read attributes for the rows of a file; see `annotations.read_annotations`.

    Parameters
    ----------
    file : Features
        Of kind images, logits or result, with splits.
    table, columns
        As there; one column may be a text.
    **options
        Its other parameters. `splits` may be one name.
    """
    if options.get("splits") is not None:
        options["splits"] = as_list(options["splits"], "splits", str)
    file, columns = as_file(file, "file"), as_list(columns, "columns", str)
    return read_of_file(file, table, columns, **options)
