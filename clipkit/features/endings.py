"""The formats that `clipkit convert` reads and writes, by the endings of files' names.

Each is one record, `Format`, of `FORMATS`; to add one, add its record, and its function in
`formats.READERS` or `exporting.WRITERS`. Commands name the endings in their help, and a file of
another format is refused with them, so this module imports none that reads or writes.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipkit.base import files, suggestions
from clipkit.base.errors import ClipkitError, UsageError, import_error

FEATURE_ENDINGS = (".h5", ".hdf5")
OTHER_ENDINGS = (".tsv", ".json", ".txt", ".md", ".png", ".pdf", ".svg")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".svg", ".pdf")
ATTRIBUTE_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
CAPTION_TABLES = (".csv", ".tsv", ".jsonl", ".json")  # captions or items
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".joblib")
PICKLE_HINT = (
    "reading a pickle runs the code in it; where you trust it, save its arrays: "
    "numpy.savez('features.npz', train_features=..., train_labels=...)"
)


@dataclass(frozen=True)
class Format:
    """A format of files: whether it is read and written, and what it can hold.

    Parameters
    ----------
    ending : str
    is_read : bool
        Whether `formats.READERS` has a function that reads it.
    holds_features, holds_results : bool
        Whether features, and predictions or runs, are written in this format, by a function of
        `exporting.WRITERS`.
    is_table : bool
        Whether a result is written as a table of its predictions or runs, and not as its arrays.
    has_columns : bool
        Whether columns can be chosen when it is read.
    has_thumbnails : bool
    library, extra : str
        A library that it needs, and the extra of clipkit-vl that installs it.
    """

    ending: str
    is_read: bool = False
    holds_features: bool = False
    holds_results: bool = False
    is_table: bool = False
    has_columns: bool = False
    has_thumbnails: bool = False
    library: str = ""
    extra: str = ""

    @property
    def is_written(self) -> bool:
        """Whether features or results are written in this format."""
        return self.holds_features or self.holds_results

    def import_module(self, module: str) -> Any:
        """Import a module that needs the library of this format."""
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ClipkitError(
                f"a {self.ending} file needs {self.library}, which is not installed",
                f"install it: pip install 'clipkit-vl[{self.extra}]'",
            ) from error
        except ImportError as error:
            raise import_error(error) from error

    def check_installed(self) -> None:
        """Refuse a format whose library is not installed."""
        if self.library:
            self.import_module(self.library)


PARQUET = Format(
    ".parquet",
    is_read=True,
    holds_features=True,
    holds_results=True,
    is_table=True,
    has_columns=True,
    has_thumbnails=True,
    library="pyarrow",
    extra="parquet",
)
_FORMATS = (
    Format(".npz", is_read=True, holds_features=True, holds_results=True),
    Format(".npy", is_read=True, holds_features=True),
    PARQUET,
    Format(".safetensors", is_read=True),
    Format(".csv", holds_results=True, is_table=True),
)
FORMATS = {known.ending: known for known in _FORMATS}
READABLE = tuple(known.ending for known in _FORMATS if known.is_read)
WRITABLE = tuple(known.ending for known in _FORMATS if known.is_written)
FOR_FEATURES = tuple(known.ending for known in _FORMATS if known.holds_features)
FOR_RESULTS = tuple(known.ending for known in _FORMATS if known.holds_results)
# as messages list them
FOR_TABLES = " or ".join(known.ending for known in _FORMATS if known.is_table)
WITH_COLUMNS = " or ".join(known.ending for known in _FORMATS if known.has_columns)
WITH_THUMBNAILS = " or ".join(known.ending for known in _FORMATS if known.has_thumbnails)
KNOWN_ENDINGS = (*FEATURE_ENDINGS, *FORMATS, *OTHER_ENDINGS)


def import_parquet(module: str) -> Any:
    """Import a module that needs pyarrow."""
    return PARQUET.import_module(module)


def check_feature_output(
    output: str, *, force: bool = False, inputs: Iterable[str | None] = ()
) -> None:
    """Refuse an output as `check_ending` and `files.check_output` do."""
    check_ending(output)
    files.check_output(output, force=force, inputs=inputs)


def check_ending(output: str) -> None:
    """Refuse the ending of another format as the name of a feature file."""
    path = Path(output)
    ending = path.suffix.lower()
    if ending in WRITABLE or ending in OTHER_ENDINGS:
        name = path.with_suffix(".h5")
        hint = f"write {name}"
        if ending in WRITABLE:
            hint += f", then: {suggestions.command('clipkit', 'convert', name, output)}"
        raise UsageError(f"expected an output that ends in .h5, got {output}", hint)
