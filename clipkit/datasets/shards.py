"""Find the files of a data set in several parts, and say which split each of them belongs to."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from clipkit.base import console
from clipkit.base.csv_rows import check_text
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.base.names import escape, escape_text
from clipkit.base.prefetch import prefetch_map
from clipkit.datasets import remote
from clipkit.datasets.dataset import (
    SPLIT_ALIASES,
    SPLIT_NAMES,
    Dataset,
    ImageDataset,
    attach_labels,
    split_name,
)
from clipkit.datasets.labels import NamedClasses
from clipkit.datasets.remote import display_url
from clipkit.datasets.wordnet import (
    FILE_NAMES,
    MAX_NAME,
    ClassIndex,
    load_class_index,
    rename_classes,
    wordnet_names,
)
from clipkit.features.model import is_split_name

MAX_FILES = 100_000
MAX_NAMES_BYTES = 1 << 26  # of a file of class names, which a server may send
REMOTE_FILES = 8  # that are read at the same time
NAMES_FILES = ("classnames.txt", "class_index.json")

_Item = TypeVar("_Item")

_BRACES = re.compile(r"\{([^{}]*)\}")
_NUMBERS = re.compile(r"(\d+)\.\.(\d+)")
_WILDCARD = re.compile(r"[*?\[]")
_SPLIT = re.compile(rf"(?<![a-z])({'|'.join([*SPLIT_ALIASES, *SPLIT_NAMES])})(?![a-z])")
# As `datasets` names files: test-00000-of-00002
_NUMBERED = re.compile(r"(\w[\w.-]*?)-(\d+)-of-(\d+)")
_OF_SPARK = re.compile(r"(part)-(\d{5})\b.*")  # as Spark names files, from part-00000


def find_files(patterns: Sequence[str], suffix: str) -> list[str]:
    """Return the files that patterns stand for, each once, in the order of the patterns.

    A pattern is a path or URL of files, with brace ranges (``{0000..0099}``), brace lists
    (``{a,b}``) and globs, or a folder, which is searched at any depth for files that end in
    `suffix`. What a glob or a folder holds is sorted. A path that exists is taken as it is written.
    """
    names: dict[str, str] = {}  # by the URL or the absolute path
    for pattern in patterns:
        written: Iterable[str] = [pattern]
        if remote.is_url(pattern) or not Path(pattern).exists():
            written = expand_braces(pattern)
        for name in written:
            for file in _find(name, suffix):
                absolute = file if remote.is_url(file) else str(Path(file).absolute())
                names.setdefault(absolute, file)
            if len(names) > MAX_FILES:
                raise ClipkitError(f"{escape(pattern)}: expected at most {MAX_FILES:,} files")
    return list(names.values())


def expand_braces(pattern: str) -> Iterator[str]:
    """Yield the names that brace ranges and lists stand for, as bash does.

    >>> list(expand_braces("{a,b}-{08..10}.tar"))[:4]
    ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar']
    """
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    for option in _options(match[1], pattern):
        yield from expand_braces(pattern[: match.start()] + option + pattern[match.end() :])


def _options(text: str, pattern: str) -> Iterable[str]:
    numbers = _NUMBERS.fullmatch(text)
    if numbers is None:
        if "," in text:
            return text.split(",")
        hint = "write {0000..0099} or {a,b}"
        raise UsageError(f"{escape(pattern)}: expected a range in braces, got {text!r}", hint)
    first, last = int(numbers[1]), int(numbers[2])
    if first > last:
        raise UsageError(f"{escape(pattern)}: expected a rising range, got {text}")
    width = len(numbers[1])
    return (f"{number:0{width}}" for number in range(first, last + 1))


def _find(name: str, suffix: str) -> list[str]:
    if not remote.is_url(name):
        return _find_local(name, suffix)
    if remote.is_http(name):
        path = remote.path_of(name).split("/", 3)[-1]  # a host may be [::1]
        if "*" in path or "[" in path:
            hint = "write a range instead: {0000..0099}"
            message = f"{display_url(name)}: a web server cannot be searched for a wildcard"
            raise UsageError(message, hint)
        return [name]
    return find_stored(name, suffix)


def _find_local(name: str, suffix: str) -> list[str]:
    path = Path(name)
    try:
        if path.is_dir():
            files = [str(file) for file in path.rglob(f"*{suffix}") if _is_visible(file, path)]
            return _check_any(sorted(files), name, f"files that end in {suffix}")
        if _WILDCARD.search(name) and not path.exists():
            anchor = Path(path.anchor)
            files = [str(file) for file in anchor.glob(str(path.relative_to(anchor)))]
            return _check_any(sorted(files), name, "matching files")
    except (OSError, ValueError) as error:
        raise ClipkitError(f"cannot read {escape(name)}: {error}") from error
    return [name]


def _is_visible(file: Path, folder: Path) -> bool:
    return not any(part.startswith(".") for part in file.relative_to(folder).parts)


def find_stored(url: str, suffix: str) -> list[str]:
    """Return the files that a glob or a folder in a storage of fsspec stands for."""
    system, path = remote.filesystem(url)
    protocol = remote.protocol_of(url)
    try:
        if _WILDCARD.search(path):
            files = sorted(system.glob(path))
            what = "matching files"
        elif path.lower().endswith(suffix):
            return [url]
        else:
            files = [file for file in sorted(system.find(path)) if file.endswith(suffix)]
            what = f"files that end in {suffix}"
    except Exception as error:  # the errors of storage clients have no common base
        raise remote.read_error(url, error) from error
    return _check_any([f"{protocol}://{file}" for file in files], url, what)


def _check_any(files: list[str], name: str, what: str) -> list[str]:
    if not files:
        raise ClipkitError(f"{display_url(name)}: expected {what}, got none")
    return files


def split_names(files: Sequence[str]) -> list[str]:
    """Return the split of each file, by its name or else by its folder's name.

    The split is train, val (also valid, validation) or test if the file's name holds that as a
    word; else what comes before a number such as ``-00000-of-00002``; else the name of its folder
    if it is one of these words. If no file says so, all belong to the split `all`.

    Examples
    --------
    >>> split_names(["data/test-00000-of-00001.parquet", "train/0.tar", "pets-val-01.tar"])
    ['test', 'train', 'val']
    >>> split_names(["contest/0.tar"])
    ['all']
    """
    splits = [_split_name(file) for file in files]
    if not any(splits):
        return ["all"] * len(files)
    if not all(splits):
        unnamed = files[splits.index("")]
        named = files[next(number for number, split in enumerate(splits) if split)]
        raise ClipkitError(
            f"{display_url(unnamed)}: expected train, val or test in its name, "
            f"as in {display_url(named)}",
            "rename it, or embed the files separately",
        )
    return splits


def read_by_split(
    read: Callable[[str], _Item], files: Sequence[str], what: str, unit: str
) -> dict[str, list[_Item]]:
    """Call a function for each file, and return what it gives for the files of each split.

    Several remote files are read at the same time. `what` and `unit` describe the progress.
    """
    split_of = split_names(files)
    _note_missing_parts(files)
    workers = REMOTE_FILES if any(map(remote.is_url, files)) else 1
    items: dict[str, list[_Item]] = {}
    with console.progress(what, unit) as report_progress:
        for number, item in enumerate(prefetch_map(read, files, workers, ahead=workers)):
            items.setdefault(split_of[number], []).append(item)
            report_progress(number + 1, len(files))
    return items


def _note_missing_parts(files: Sequence[str]) -> None:
    """Name files of which others are missing, by their numbers.

    Names such as ``-00001-of-00002`` give the total. Spark's do not, so its last part may be
    missing without a note.
    """
    parts: dict[tuple[str, str, int], set[int]] = {}
    for file in files:
        folder, name = _folder_and_name(file)
        stem = name.rpartition(".")[0]
        if numbered := _NUMBERED.fullmatch(stem):
            key = (folder, numbered[1], int(numbered[3]))
            parts.setdefault(key, set()).add(int(numbered[2]))
        elif numbered := _OF_SPARK.fullmatch(stem):
            parts.setdefault((folder, numbered[1], 0), set()).add(int(numbered[2]))
    for (_, name, named_total), numbers in parts.items():
        total = named_total or max(numbers) + 1
        if len(numbers) < total:
            absent = min(set(range(total)) - numbers)
            console.note(
                f"{escape_text(name)}: {len(numbers):,} of {total:,} parts; the first that is left "
                f"out has number {absent}"
            )


def _split_name(file: str) -> str:
    folder, name = _folder_and_name(file)
    stem = name.rpartition(".")[0]
    numbered = _NUMBERED.fullmatch(stem)
    word = _SPLIT.search(stem.lower())
    if word:
        return split_name(word[1])
    if numbered:
        if not is_split_name(numbered[1]):
            raise ClipkitError(f"{display_url(file)}: {numbered[1]!r} cannot name a split")
        return numbered[1]
    parent = _folder_and_name(folder)[1].lower()
    return split_name(parent) if _SPLIT.fullmatch(parent) else ""


def _folder_and_name(file: str) -> tuple[str, str]:
    """Return the folder and the name of a path, or of a URL without its query."""
    if remote.protocol_of(file) is None:
        file = str(Path(file).absolute())
    folder, _, name = remote.path_of(file).rpartition("/")
    return folder, name


def stem(file: str) -> str:
    """Return the name of a file without its folder and ending.

    >>> stem("https://host/pets-0001.tar?key=1")
    'pets-0001'
    """
    name = _folder_and_name(file)[1]
    return escape(name.rpartition(".")[0] or name)


def distinct_stems(files: Sequence[str]) -> list[str]:
    """Return the stem of each file, with as many of its folders as distinguish the files.

    Raises
    ------
    ClipkitError
        If a file is there twice, as URLs that differ in their query alone.

    Examples
    --------
    >>> distinct_stems(["a/0.tar", "b/0.tar"]), distinct_stems(["a/x/0.tar", "b/x/0.tar"])
    (['a/0', 'b/0'], ['a/x/0', 'b/x/0'])
    """
    names = stems = [stem(file) for file in files]
    folders = [escape(_folder_and_name(file)[0]).split("/") for file in files]
    for depth in range(1, max(map(len, folders), default=0) + 1):
        if len(set(names)) == len(names):
            break
        pairs = zip(folders, stems, strict=True)
        names = ["/".join([*folder[-depth:], name]) for folder, name in pairs]
    if len(set(names)) < len(names):
        raise ClipkitError(f"{display_url(files[0])}: expected each file once")
    return names


def data_set_name(files: Sequence[str]) -> str:
    """Return a name for files: the only one's, the repository's, or the first one's folder.

    >>> data_set_name(["hf://datasets/org/pets/data/train-00000-of-00001.parquet"])
    'pets'
    """
    repository = re.match(r"hf://datasets/[^/]+/([^/@]+)", files[0])
    if repository:
        return escape(repository[1])
    if len(files) == 1:
        return stem(files[0])
    folder, _ = _folder_and_name(files[0])
    parent, name = _folder_and_name(folder)
    if _is_part(name):
        name = _folder_and_name(parent)[1] if remote.protocol_of(parent) else Path(parent).name
    return escape(name) or "files"


def _is_part(folder: str) -> bool:
    """Whether a folder is called like a split, or `data` as in repositories."""
    return folder == "data" or _SPLIT.fullmatch(folder.lower()) is not None


def read_class_names(file: str) -> NamedClasses | None:
    """Read the class names in ``classnames.txt`` or ``class_index.json`` beside a file.

    See `_read_beside`. If there are none, a note says so, and None is returned.
    """
    content = _read_beside(file, NAMES_FILES)
    if content is not None:
        names = parse_class_names(*content)
        if remote.is_url(file):  # a server may answer anything
            console.note(f"{content[1]} names the {len(names):,} classes")
        return NamedClasses(names, content[1])
    console.note(
        f"{display_url(file)}: the labels are numbers; a file classnames.txt beside it with a name "
        "per line names the classes"
    )
    return None


def to_dataset(
    files: Sequence[str],
    splits: Mapping[str, ImageDataset],
    codes: Mapping[str, NDArray[np.int32]],
    texts: Collection[str],
    details: Mapping[str, Any],
    class_names: list[str] | None = None,
) -> Dataset:
    """Make a data set of the splits in several files; see `dataset.attach_labels` for the labels.

    Labels that are numbers have the given class names, or else those of a file beside the first
    one. WordNet ids have the names of a class index there, or in the folder above.
    """
    where = files[0]

    def names_of_numbers() -> NamedClasses | None:
        return NamedClasses(class_names) if class_names else read_class_names(where)

    def find_index() -> ClassIndex | None:
        content = _read_beside(where, FILE_NAMES)
        return None if content is None else wordnet_names(*content)

    place = f"labels of {display_url(where)}"
    labelled, names = attach_labels(splits, codes, texts, lambda _: place, names_of_numbers)
    names, index = rename_classes(names, find_index)
    return Dataset(data_set_name(files), names, labelled, {**details, **index})


def _read_beside(file: str, names: Sequence[str]) -> tuple[bytes, str] | None:
    """Return the content and the path of the first file of these names beside another one.

    If the folder is called like a split, or `data`, the folder above is searched, too.
    """
    folder = _folder_and_name(file)[0]
    above, name = _folder_and_name(folder)
    places = [folder, above] if _is_part(name) else [folder]
    for place in places:
        for name in names:
            path = f"{place}/{name}"
            is_remote = remote.is_url(path)
            if not is_remote and not Path(path).exists():
                continue
            try:
                return remote.read_whole(path, MAX_NAMES_BYTES), display_url(path)
            except ClipkitError:
                if not is_remote:
                    raise  # a server may answer anything where there is no file
    return None


def parse_class_names(data: bytes, where: str) -> list[str]:
    """Return class names, a line each, or from a class index."""
    if where.endswith(".json"):
        entries = load_class_index(data, where)
        names = [entry.name for entry in entries]
        has_all = [entry.number for entry in entries] == list(range(len(entries)))
    else:
        check_text(data, where)
        names = list(map(escape_text, data.decode("utf-8-sig").split("\n")))
        while names and not names[-1]:
            names.pop()
        has_all = bool(names) and all(names)
    if not has_all:
        raise ClipkitError(f"{where}: expected a class name for each label 0, 1, 2, ...")
    longest = max(map(len, names))
    if longest > MAX_NAME:
        expected = f"expected class names of at most {MAX_NAME:,} characters"
        raise ClipkitError(f"{where}: {expected}, got one of {longest:,}")
    return names
