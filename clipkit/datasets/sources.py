"""Find out what the names on a command line stand for, and read them.

`SOURCES` is the one table of all forms of data sets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from clipkit.base.errors import ClipkitError, UsageError, unknown
from clipkit.base.files import STREAM
from clipkit.base.names import escape
from clipkit.datasets import folders, manifests, remote, shards, tars
from clipkit.datasets.dataset import Dataset
from clipkit.datasets.images import readable_suffixes
from clipkit.datasets.registry import REGISTRY
from clipkit.datasets.rows import Columns
from clipkit.features.formats import import_parquet
from clipkit.features.history import drop_none

_PATTERN = re.compile(r"[*?\[{]")
_TAR = re.compile(r"\.(tar|tgz|tbz2?|txz|tar\.\w+)$")


@dataclass(frozen=True)
class SourceOptions:
    """Options for reading a data set; see `datasets.load`.

    `default_columns` are the columns of a manifest that are read unless others are named.
    """

    root: str | Path | None = None
    path_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    default_columns: Columns = manifests.DEFAULTS

    def columns(self) -> dict[str, str]:
        """Return the columns that are named, by the name of their option."""
        return drop_none(
            {
                "path-column": self.path_column,
                "label-column": self.label_column,
                "split-column": self.split_column,
            }
        )


class Source(NamedTuple):
    """A form of data set.

    Attributes
    ----------
    what : str
        What messages call it.
    accepts : callable
        Whether a name stands for this form. It may look at the file, but does not read it.
    read : callable
        Read the data set that one or more names stand for.
    takes_several, takes_root, takes_columns : bool
        Whether it may have several names, a root, and named columns.
    """

    what: str
    accepts: Callable[[str], bool]
    read: Callable[[Sequence[str], SourceOptions], Dataset]
    takes_several: bool = False
    takes_root: bool = False
    takes_columns: bool = False


def _read_named(names: Sequence[str], options: SourceOptions) -> Dataset:
    root = None
    if options.root is not None:
        root = Path(options.root).expanduser()
    return REGISTRY[names[0]](root)


def _read_list(names: Sequence[str], options: SourceOptions) -> Dataset:
    return manifests.read_list(names[0])


def _read_manifest(names: Sequence[str], options: SourceOptions) -> Dataset:
    _check_local(names[0])
    return manifests.read_manifest(
        names[0],
        path_column=options.path_column,
        label_column=options.label_column,
        split_column=options.split_column,
        defaults=options.default_columns,
    )


def _read_parquet_images(names: Sequence[str], options: SourceOptions) -> Dataset:
    data: Dataset = import_parquet("clipkit.datasets.hf_parquet").read_parquet(names)
    return data


def _read_tars(names: Sequence[str], options: SourceOptions) -> Dataset:
    return tars.read_tars(names)


def _accept_any(name: str) -> bool:
    return True


def _read_images(names: Sequence[str], options: SourceOptions) -> Dataset:
    for name in names:
        _check_exists(name)
    return folders.read_images(names)


def _are_tars(name: str) -> bool:
    """Whether a name stands for tars: by its ending, or as a folder that holds tars, not images.

    Compressed tars are among them: their error says what to do.
    """
    return _TAR.search(shards.path_of(name).lower()) is not None or _holds(name, ".tar")


def _are_parquet(name: str) -> bool:
    """Whether a name stands for Parquet files that hold images, or for a folder of them.

    A file on this machine is opened. Of a URL or a pattern, the ending decides.
    """
    if not shards.path_of(name).lower().endswith(".parquet"):
        return _holds(name, ".parquet")
    if Path(name).is_dir():
        return True
    if Path(name).is_file():
        return not manifests.is_manifest(name)
    return remote.protocol_of(name) is not None or _PATTERN.search(name) is not None


def _holds(folder: str, suffix: str) -> bool:
    """Whether a folder holds files with a suffix, at any depth, and no images.

    The search ends at the first image.
    """
    if remote.protocol_of(folder) in ("hf", "s3", "gs"):
        return not _PATTERN.search(folder) and _stored_holds(folder, suffix)
    is_present = False
    suffixes = readable_suffixes()
    for _, _, files in os.walk(folder):
        names = [file.lower() for file in files if not file.startswith(".")]
        if any(file.endswith(suffixes) for file in names):
            return False
        is_present = is_present or any(file.endswith(suffix) for file in names)
    return is_present


def _stored_holds(url: str, suffix: str) -> bool:
    """Whether a folder of a storage holds files with a suffix."""
    try:
        return bool(shards.find_stored(url, suffix))
    except ClipkitError:
        # a storage that does not answer is reported when it is read
        return suffix == ".parquet"


# A name belongs to the first form that accepts it. The last one accepts any name.
SOURCES = (
    Source("the named data set", REGISTRY.__contains__, _read_named, takes_root=True),
    Source("a list of paths", STREAM.__eq__, _read_list),
    Source("tars", _are_tars, _read_tars, takes_several=True),
    Source("Parquet files", _are_parquet, _read_parquet_images, takes_several=True),
    Source("the manifest", manifests.is_manifest, _read_manifest, takes_columns=True),
    Source("images and folders", _accept_any, _read_images, takes_several=True),
)


def read_source(names: Sequence[str | Path], options: SourceOptions) -> Dataset:
    """Read the data set that one or more names stand for.

    Raises
    ------
    UsageError
        If the names stand for different forms of data sets or for several of a form that allows
        only one, or an option does not apply.
    ClipkitError
        If the files are missing or not valid.
    """
    texts = [_as_text(name) for name in names]
    if not texts:
        raise UsageError("expected the name of a data set, got none")
    sources = [_source_of(text) for text in texts]
    source = sources[0]
    if len(texts) > 1:
        _check_together(texts, sources)
    dataset = f"{source.what} {escape(texts[0])}"
    if options.root is not None and not source.takes_root:
        raise UsageError(f"root: expected a named data set, got {dataset}", "leave --root out")
    columns = options.columns()
    if columns and not source.takes_columns:
        option = next(iter(columns))
        raise UsageError(
            f"{option}: expected a manifest, got {dataset}",
            f"leave --{option} out, or name a file that ends in {' '.join(manifests.ENDINGS)}",
        )
    return source.read(texts, options)


def _as_text(name: str | Path) -> str:
    """Return a name as text. A `Path` is never the name of a named data set."""
    if isinstance(name, str):
        return name
    text = str(name)
    return f"./{text}" if text in REGISTRY or text == STREAM else text


def _source_of(name: str) -> Source:
    return next(source for source in SOURCES if source.accepts(name))


def _check_together(names: Sequence[str], sources: Sequence[Source]) -> None:
    """Refuse several names that do not make one data set."""
    for name, source in zip(names, sources, strict=True):
        if source is not sources[0] or not source.takes_several:
            other = names[1] if name == names[0] else names[0]
            raise UsageError(
                f"expected {source.what} {escape(name)} alone, got {escape(other)} too",
                "several arguments must be images and folders, or all tars, or all Parquet files",
            )


def _check_local(name: str) -> None:
    if remote.protocol_of(name) is not None:
        message = f"expected a local path, got the URL {remote.display_url(name)}"
        raise UsageError(message, "download it first")


def _check_exists(name: str) -> None:
    """Refuse a name without a file or folder: it may be a misspelt data set."""
    _check_local(name)
    if name and os.path.lexists(Path(name).expanduser()):
        return
    if Path(name).suffix:
        raise ClipkitError(f"cannot read {escape(name)}: there is no such file or folder")
    if "/" not in name and os.sep not in name:
        error = unknown("data set", name, REGISTRY)
        if error.hint and error.hint.startswith("known"):
            hint = f"there is no such file or folder either; {error.hint}"
            raise UsageError(error.message, hint)
        raise error
    raise ClipkitError(f"cannot read {escape(name)}: there is no such folder")
