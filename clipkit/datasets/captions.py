"""Read captions: texts that belong to images, from tables, tars and Parquet files."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clipkit import datasets
from clipkit.base import console, files
from clipkit.base.csv_rows import ending_of, find_column, load_json, table_objects
from clipkit.base.errors import ClipkitError, UsageError, shorten
from clipkit.base.names import escape
from clipkit.datasets.dataset import ImageDataset, describe_splits
from clipkit.datasets.rows import CAPTION_COLUMNS, as_text
from clipkit.features.arguments import FilePath, Several, as_list, checked
from clipkit.features.endings import CAPTION_TABLES
from clipkit.prompts.texts import check_count, clean

ID_COLUMNS = ("image", "image_id", "id", "path", "filename", "file_name", "filepath")
EXAMPLE = '{"image": "a.jpg", "caption": "a cat on a mat"}'


class Captions(NamedTuple):
    """K captions, and the id of the image that each belongs to."""

    name: str  # what messages call the source
    texts: list[str]
    ids: list[str]
    source: dict[str, Any]  # for the history


@checked
def read_captions(names: Several[FilePath], split: str | None = None) -> Captions:
    """Read captions and the ids of their images, as `embed` gives them to these images.

    Parameters
    ----------
    names : str or sequence of str
        One table (.csv, .tsv, .jsonl) with a row for each caption: the image's id in the first
        column of ID_COLUMNS that it has, and the text in the first of CAPTION_COLUMNS. Or captions
        as COCO publishes them (.json), whose ids are the names of the images' files. Or tars in
        the form of WebDataset, with the caption in ``.txt``; or Parquet files with images, and the
        texts, one or a list for each image, in one of CAPTION_COLUMNS. Or `shapes`.
    split : str, optional
        Of tars, Parquet files and `shapes`: `test` by default, else the first.

    Raises
    ------
    UsageError
        If there is no such split, or a table is given with a split.
    ClipkitError
        If a source has no captions, or a caption is too long.
    """
    names = as_list(names, "names", str)
    name, ending = escape(files.display_name(names[0])), Path(names[0]).suffix.lower()
    if ending in CAPTION_TABLES or files.is_stream(names[0]):
        if split is not None:
            raise UsageError(f"split: expected tars or Parquet files, got the table {name}")
        if len(names) > 1:
            hint = "join them into one file"
            raise UsageError(f"expected one table of captions, got {len(names)}", hint)
        data = files.read_bytes(names[0])
        ending = ending_of(names[0], data)
        pairs = _coco_rows(data, name) if ending == ".json" else _table_rows(data, name, ending)
        return _collect(pairs, name, {"inputs": {"captions": files.digest(data)}})
    named = datasets.REGISTRY.get(names[0])
    if named and not named.captions:
        raise UsageError(f"captions: expected a data set with captions, got {name}")
    data_set = datasets.load(names)
    usual = "test" if "test" in data_set.splits else next(iter(data_set.splits))
    data_set = data_set.select_splits([split or usual])
    ((split, images),) = data_set.splits.items()
    details = {**data_set.details, "splits": describe_splits(data_set.splits)}
    pairs = _data_set_rows(images, split, name)
    return _collect(pairs, data_set.name, {"dataset": details})


def _collect(pairs: Iterator[tuple[str, str]], name: str, source: dict[str, Any]) -> Captions:
    texts, ids = [], []
    blank = 0
    for row_id, caption in pairs:
        text = clean(caption, f"{name}, {shorten(row_id)}")
        if text:
            texts.append(text)
            ids.append(row_id)
        blank += not text
        check_count(len(texts), f"{name}: ", "captions")
    if not texts:
        hint = "the first line of a table is its header; a tar has the caption of 1.jpg in 1.txt"
        raise ClipkitError(f"{name}: expected captions, got none", hint)
    if blank:
        console.warn(f"{name}: {console.count(blank, 'blank caption')} left out")
    return Captions(name, texts, ids, source)


# ---- Tables --------------------------------------------------------------------------------------


def _table_rows(data: bytes, name: str, ending: str) -> Iterator[tuple[str, str]]:
    """Yield the id and the caption of each row of a table."""
    needed = (ID_COLUMNS, CAPTION_COLUMNS)
    for line, content in table_objects(data, name, ending, needed, EXAMPLE):
        where = f"{name}, line {line}"
        row_id = as_text(content[find_column(ID_COLUMNS, content, where)], where).removeprefix("./")
        if not row_id:
            raise ClipkitError(f"{where}: expected the id of an image, got none")
        yield from _captions(row_id, content[find_column(CAPTION_COLUMNS, content, where)], where)


def _coco_rows(data: bytes, name: str) -> Iterator[tuple[str, str]]:
    """Yield the name of the image's file and the caption of each annotation of COCO."""
    content = load_json(data, name)
    try:
        name_of = {image["id"]: image["file_name"] for image in content["images"]}
        pairs = [(name_of[note["image_id"]], note["caption"]) for note in content["annotations"]]
    except (LookupError, TypeError):
        expected = "expected captions in COCO's form, with images and annotations, got other JSON"
        raise ClipkitError(
            f"{name}: {expected}", f"or write a .jsonl line each: {EXAMPLE}"
        ) from None
    for row_id, caption in pairs:
        yield from _captions(str(row_id), caption, name)


def _captions(row_id: str, value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Yield an image's captions: a text, a list of texts, or nothing."""
    values = value if isinstance(value, list) else [value]
    for caption in values or [""]:
        yield escape(row_id), as_text(caption, where)


# ---- Images with captions ------------------------------------------------------------------------


def _data_set_rows(images: ImageDataset, split: str, name: str) -> Iterator[tuple[str, str]]:
    """Yield the id and the captions of each image that has them in its source."""
    captions: Callable[[], Sequence[Any]] | None = getattr(images.source, "captions", None)
    named = datasets.REGISTRY.get(name)
    if named and named.captions:
        captions = functools.partial(named.captions, images, split)
    if captions is None:
        raise ClipkitError(
            f"{name}: expected a table of captions, tars or Parquet files, got images alone",
            "write a table with the columns image and caption",
        )
    for row_id, value in zip(images.ids, captions(), strict=True):
        yield from _captions(row_id, value, f"{name}, {row_id}")
