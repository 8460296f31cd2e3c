"""The formats that `clipkit convert` reads and writes, by the endings of files' names.

Each is one record, `Format`, of `FORMATS`; to add one, add its record. Commands name the endings in
their help, so importing this module loads no heavy library.
"""

from __future__ import annotations

import contextlib
import importlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipkit.base import files
from clipkit.base.errors import ClipkitError, UsageError, import_error

if TYPE_CHECKING:
    from clipkit.features.model import FeatureFile

# Arrays named as in an .npz: npz.StoredArray, array or list; None for what cannot be used.
Arrays = dict[str, Any]
Thumbnails = Mapping[str, Iterator[bytes]]  # of each split, an encoded image per row

FEATURE_ENDINGS = (".h5", ".hdf5")
OTHER_ENDINGS = (".tsv", ".json", ".txt", ".md", ".png", ".pdf", ".svg")
CAPTION_TABLES = (".csv", ".tsv", ".jsonl", ".json")  # captions or items
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".joblib")
PICKLE_HINT = (
    "reading a pickle runs the code in it; where you trust it, save its arrays: "
    "numpy.savez('features.npz', train_features=..., train_labels=...)"
)


@dataclass(frozen=True)
class Format:
    """A format of files: how it is read and written, and what it can hold.

    Parameters
    ----------
    ending : str
    read : function, optional
        Returns the arrays of a file, given its path, its name in messages, the stack that closes
        what stays open, and the chosen columns.
    write : function, optional
        Writes a feature file to a path, with thumbnails if they are given.
    holds_features, holds_results : bool
        Whether features, and predictions or runs, are written in this format.
    is_table : bool
        Whether a result is written as a table of its predictions or runs, and not as its arrays.
    has_columns : bool
        Whether columns can be chosen when it is read.
    has_thumbnails : bool
    library, extra : str
        A library that it needs, and the extra of clipkit-vl that installs it.
    """

    ending: str
    read: Callable[[Path, str, contextlib.ExitStack, Mapping[str, str]], Arrays] | None = None
    write: Callable[[Path, FeatureFile, Thumbnails | None], None] | None = None
    holds_features: bool = False
    holds_results: bool = False
    is_table: bool = False
    has_columns: bool = False
    has_thumbnails: bool = False
    library: str = ""
    extra: str = ""

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


def _read_npz(
    path: Path, source: str, archives: contextlib.ExitStack, _: Mapping[str, str]
) -> Arrays:
    from clipkit.features import npz

    archive = archives.enter_context(zipfile.ZipFile(path))
    return npz.open_npz(archive, path.stat().st_size, source)


def _read_npy(
    path: Path, _source: str, _archives: contextlib.ExitStack, _columns: Mapping[str, str]
) -> Arrays:
    from clipkit.features import npz

    return {"features": npz.open_npy(path)}


def _read_safetensors(
    path: Path, _source: str, _archives: contextlib.ExitStack, _columns: Mapping[str, str]
) -> Arrays:
    from clipkit.features import npz

    return npz.read_safetensors(path)


def _read_parquet(
    path: Path, source: str, _: contextlib.ExitStack, columns: Mapping[str, str]
) -> Arrays:
    from clipkit.features import parquet

    return parquet.read_table([path], source, columns)


def _write_npz(path: Path, file: FeatureFile, _: Thumbnails | None) -> None:
    from clipkit.features import exporting

    exporting.write_npz(path, file)


def _write_npy(path: Path, file: FeatureFile, _: Thumbnails | None) -> None:
    from clipkit.features import exporting

    exporting.write_npy(path, file)


def _write_parquet(path: Path, file: FeatureFile, thumbnails: Thumbnails | None) -> None:
    from clipkit.features import exporting

    exporting.write_parquet(path, file, thumbnails)


def _write_csv(path: Path, file: FeatureFile, _: Thumbnails | None) -> None:
    from clipkit.features import exporting

    exporting.write_csv(path, file)


PARQUET = Format(
    ".parquet",
    _read_parquet,
    _write_parquet,
    holds_features=True,
    holds_results=True,
    is_table=True,
    has_columns=True,
    has_thumbnails=True,
    library="pyarrow",
    extra="parquet",
)
_FORMATS = (
    Format(".npz", _read_npz, _write_npz, holds_features=True, holds_results=True),
    Format(".npy", _read_npy, _write_npy, holds_features=True),
    PARQUET,
    Format(".safetensors", _read_safetensors),
    Format(".csv", None, _write_csv, holds_results=True, is_table=True),
)
FORMATS = {known.ending: known for known in _FORMATS}
READABLE = tuple(known.ending for known in _FORMATS if known.read)
WRITABLE = tuple(known.ending for known in _FORMATS if known.write)
FOR_FEATURES = tuple(known.ending for known in _FORMATS if known.holds_features)
FOR_RESULTS = tuple(known.ending for known in _FORMATS if known.holds_results)
# as messages list them
FOR_TABLES = " or ".join(known.ending for known in _FORMATS if known.is_table)
WITH_COLUMNS = " or ".join(known.ending for known in _FORMATS if known.has_columns)
WITH_THUMBNAILS = " or ".join(known.ending for known in _FORMATS if known.has_thumbnails)
KNOWN_ENDINGS = (*FEATURE_ENDINGS, *FORMATS, *OTHER_ENDINGS)


def import_parquet(module: str = "clipkit.features.parquet") -> Any:
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
            hint += f", then: clipkit convert {name} {output}"
        raise UsageError(f"expected an output that ends in .h5, got {output}", hint)
