"""Load a data set by name or from files, by the first form in `SOURCES` that accepts its name."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from clipkit.base import console, suggestions
from clipkit.base.csv_rows import has_many_numbers, is_no_value
from clipkit.base.errors import MAX_COMPARED, ClipkitError, UsageError, unknown
from clipkit.base.files import STREAM, expand_user, missing
from clipkit.base.names import escape
from clipkit.datasets import folders, manifests, remote, shards, tars
from clipkit.datasets.clusters import FOLDER, cluster_by_folder
from clipkit.datasets.dataset import Dataset, describe_splits
from clipkit.datasets.images import readable_suffixes
from clipkit.datasets.manifests import read_manifest
from clipkit.datasets.registry import REGISTRY
from clipkit.datasets.rows import Columns
from clipkit.features.arguments import FilePath, Several, as_list, checked
from clipkit.features.endings import FEATURE_ENDINGS, import_parquet
from clipkit.features.history import drop_none

_PATTERN = re.compile(r"[*?\[{]")
_TAR = re.compile(r"\.(tar|tgz|tbz2?|txz|tar\.\w+)$")


@checked
def load(  # noqa: PLR0913 (the options of `clipkit embed`)
    name: Several[FilePath],
    *,
    root: str | Path | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    cluster: str | None = None,
    splits: Several[str] | None = None,
    limit: int | None = None,
    classes: int | None = None,
    seed: int = 42,
) -> Dataset:
    """Load a data set by its name, or from files.

    Parameters
    ----------
    name : str, Path or sequence of them
        A name of `REGISTRY`; ``-`` for a list of paths on standard input (`manifests.read_list`); a
        manifest (`read_manifest`); tars (`tars.read_tars`) or Parquet files with images
        (`parquet_images.read_parquet`), also several and at URLs; or images and folders
        (`read_folder`), also several.
    root : str or Path, optional
        The folder that holds a named data set or that it is downloaded to;
        `registry.cache_folder()` by default.
    path_column, label_column, split_column : str, optional
        The columns of a manifest; `path`, `label` and `split` by default.
    cluster : str, optional
        A column of a manifest, or else ``folder``: images with the same value, or in the same
        folder, depend on each other.
    splits : sequence of str, optional
        Only these splits; all by default.
    limit : int, optional
        At most so many rows per split: a seeded draw, balanced by class, in the order of the data
        set. A smaller limit selects a subset.
    classes : int, optional
        A seeded draw of so many classes, renumbered in their order. (The thesis takes 100 of the
        200 of Tiny ImageNet.)
    seed : int
        For `limit` and `classes`.

    Returns
    -------
    Dataset
        Its `details` hold the `name`, what the data set adds, a `draw` with `limit`, `classes` and
        `seed` where rows were drawn, and `splits`: for each, the number of `images` and as `rows`
        the SHA-256 of ids and labels.

    Raises
    ------
    UsageError
        If the name or a split is unknown, `limit` or `classes` is out of range, or a `root` or a
        column is given with a form of data set that has none.
    ClipkitError
        If the files are missing and cannot be downloaded, or are not valid.

    Examples
    --------
    >>> test = load("digits", limit=20).splits["test"]
    >>> len(test), test.image(0).size
    (20, (8, 8))
    """
    names, splits = as_list(name, "name", str), as_list(splits, "splits", str)
    options = SourceOptions(root, path_column, label_column, split_column, cluster)
    data = read_source(names, options)
    if names[0] not in REGISTRY:
        _note_odd_classes(data.name, data.class_names)
    draw: dict[str, int] = {}
    if splits is not None:
        data = data.select_splits(splits)
    if classes is not None:
        data = data.draw_classes(classes, seed)
        draw |= {"classes": classes, "seed": seed}
    if limit is not None:
        data = data.draw_rows(limit, seed)
        draw |= {"limit": limit, "seed": seed}
    details = {"name": data.name, **data.details}
    if cluster is not None:
        details["cluster"] = cluster
    if draw:
        details["draw"] = draw
    details["splits"] = describe_splits(data.splits)
    return replace(data, details=details)


@dataclass(frozen=True)
class SourceOptions:
    """Options for reading a data set; see `load`.

    `default_columns` are the columns of a manifest that are read unless others are named.
    """

    root: str | Path | None = None
    path_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    cluster: str | None = None
    default_columns: Columns = manifests.DEFAULTS

    def columns(self) -> dict[str, Any]:
        """Return the columns that are named, by the argument of `read_manifest`."""
        names = ("path_column", "label_column", "split_column", "cluster")
        return drop_none({name: getattr(self, name) for name in names})


class Source(NamedTuple):
    """A form of data set."""

    what: str  # its name in messages
    accepts: Callable[[str], bool]  # whether a name stands for it; it does not read the file
    read: Callable[[Sequence[str], SourceOptions], Dataset]
    takes: str = ""  # what it may have: `several` names, a `root`, or named `columns`


def _note_odd_classes(where: str, names: list[str]) -> None:
    """Note classes that are spellings of one name, stand for no value, or are measurements."""
    console.note_spellings(where, names)
    for name in filter(is_no_value, names):
        console.note(f"{where}: {name!r} is a class; hint: leave cells without a label empty")
    if has_many_numbers(names) and names != list(map(str, range(len(names)))):
        hint = "if they are measurements, cut them into ranges"
        console.note(f"{where}: {len(names):,} classes are numbers; hint: {hint}")


def _read_named(names: Sequence[str], options: SourceOptions) -> Dataset:
    root = None if options.root is None else expand_user(options.root)
    return REGISTRY[names[0]].load(root)


def _read_manifest(names: Sequence[str], options: SourceOptions) -> Dataset:
    _check_local(names[0])
    return read_manifest(names[0], **options.columns(), defaults=options.default_columns)


def _read_parquet_images(names: Sequence[str], options: SourceOptions) -> Dataset:
    data: Dataset = import_parquet(manifests.PARQUET_READER).read_parquet(names)
    return data


def _read_images(names: Sequence[str], options: SourceOptions) -> Dataset:
    for name in names:
        _check_exists(name)
    return folders.read_images(names)


def _are_tars(name: str) -> bool:
    """Return True for the name of a tar, and for a folder that holds tars and no images.

    Compressed tars are accepted: their error says what to do.
    """
    return _TAR.search(remote.path_of(name).lower()) is not None or _holds(name, ".tar")


def _are_parquet(name: str) -> bool:
    """Return True for Parquet files that hold images, and for a folder of them.

    A file on this machine is opened. The ending decides for a URL or a pattern.
    """
    if not remote.path_of(name).lower().endswith(".parquet"):
        return _holds(name, ".parquet")
    if Path(name).is_dir():
        return True
    if Path(name).is_file():
        return not manifests.is_manifest(name)
    return remote.protocol_of(name) is not None or _PATTERN.search(name) is not None


def _holds(folder: str, suffix: str) -> bool:
    """Return True if a folder holds, at any depth, files with a suffix and no images.

    A folder of a storage may hold images, too.
    """
    if remote.protocol_of(folder) is not None and not remote.is_http(folder):
        if _PATTERN.search(folder):
            return False
        try:
            return bool(shards.find_stored(folder, suffix))
        except ClipkitError:
            # a storage that does not answer is reported when it is read
            return suffix == ".parquet"
    is_present = False
    suffixes = readable_suffixes()
    for _, _, files in os.walk(folder):
        names = [file.lower() for file in files if not file.startswith(".")]
        if any(file.endswith(suffixes) for file in names):
            return False
        is_present = is_present or any(file.endswith(suffix) for file in names)
    return is_present


# A name belongs to the first form that accepts it. The last one accepts any name.
SOURCES = (
    Source("the named data set", REGISTRY.__contains__, _read_named, "root"),
    Source("a list of paths", STREAM.__eq__, lambda names, _: manifests.read_list(names[0])),
    Source("tars", _are_tars, lambda names, _: tars.read_tars(names), "several"),
    Source("Parquet files", _are_parquet, _read_parquet_images, "several"),
    Source("the manifest", manifests.is_manifest, _read_manifest, "columns"),
    Source("images and folders", lambda _: True, _read_images, "several"),
)


def read_source(names: Sequence[str | Path], options: SourceOptions) -> Dataset:
    """Read the data set that one or more names stand for."""
    texts = [_as_text(name) for name in names]
    if not texts:
        raise UsageError("expected the name of a data set, got none")
    sources = [_source_of(text) for text in texts]
    source = sources[0]
    for text, its_source in zip(texts, sources, strict=True):
        if len(texts) == 1 or (its_source is source and source.takes == "several"):
            continue
        other = texts[1] if text == texts[0] else texts[0]
        raise UsageError(
            f"expected {its_source.what} {escape(text)} alone, got {escape(other)} too",
            "several arguments must be images and folders, or all tars, or all Parquet files",
        )
    dataset = f"{source.what} {escape(texts[0])}"
    if options.root is not None and source.takes != "root":
        raise UsageError(f"root: expected a named data set, got {dataset}", "leave --root out")
    is_by_folder = options.cluster == FOLDER and source.takes != "columns"
    if is_by_folder:
        options = replace(options, cluster=None)
    if options.columns() and source.takes != "columns":
        option = next(iter(options.columns())).replace("_", "-")
        raise UsageError(
            f"{option}: expected a manifest, got {dataset}",
            f"leave --{option} out, or name a file that ends in {' '.join(manifests.ENDINGS)}",
        )
    data = source.read(texts, options)
    return cluster_by_folder(data) if is_by_folder else data


def _as_text(name: str | Path) -> str:
    """Return a name as text. A `Path` is never the name of a named data set."""
    if isinstance(name, str):
        return name
    text = str(name)
    return f"./{text}" if text in REGISTRY or text == STREAM else text


def _source_of(name: str) -> Source:
    return next(source for source in SOURCES if source.accepts(name))


def _check_local(name: str) -> None:
    if remote.protocol_of(name) is not None:
        message = f"expected a local path, got the URL {remote.display_url(name)}"
        raise UsageError(message, "download it first")


def _check_exists(name: str) -> None:
    """Refuse a name without a file or folder: it may be a misspelt data set."""
    _check_local(name)
    if name and os.path.lexists(expand_user(name)):
        return
    if Path(name).suffix:
        hint = missing(name).hint
        if Path(name).suffix in FEATURE_ENDINGS:
            hint = f"choose another name, or name the output: -o {suggestions.command(name)}"
        raise ClipkitError(f"cannot read {escape(name)}: there is no such file or folder", hint)
    if "/" in name or os.sep in name:
        raise ClipkitError(
            f"cannot read {escape(name)}: there is no such folder",
            "name a folder, such as photos/: all images in it are taken",
        )
    with os.scandir() as entries:
        beside = [one.name for one in itertools.islice(entries, MAX_COMPARED) if one.is_dir()]
    error = unknown("data set", name, REGISTRY, beside)
    if error.hint and error.hint.startswith("known"):
        error.hint = _hint_of_name(name) or f"there is no such file or folder either; {error.hint}"
    raise error


def _hint_of_name(name: str) -> str:
    """Return what is meant by a name of no data set: a model, a text or names of classes, or ""."""
    from clipkit.models.hub import ALIASES, BUNDLED, KNOWN  # only an error needs it

    word = suggestions.command(name)
    if any(map(str.isspace, name)):
        return f"to embed a text: echo {word} | clipkit textembed -"
    if name in {*ALIASES, *BUNDLED, *KNOWN}:
        return f"to choose the model: --model {word}"
    if "," in name:
        return "write names of classes to a file, one a line: textembed --classes FILE"
    return ""
