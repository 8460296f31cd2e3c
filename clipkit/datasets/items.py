"""Read items: images with texts to choose from, in tables or as benchmarks publish them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipkit.base import console, files
from clipkit.base.csv_rows import ending_of, find_column, load_json, table_objects
from clipkit.base.errors import ClipkitError, UsageError, shorten
from clipkit.base.names import escape
from clipkit.datasets.rows import CAPTION_COLUMNS, as_text
from clipkit.features.arguments import FilePath, Several, as_list, checked
from clipkit.features.endings import CAPTION_TABLES
from clipkit.features.history import as_object
from clipkit.prompts.texts import clean

COLUMNS = (("item",), ("image",), CAPTION_COLUMNS, ("correct",))
HINT = "a table has the columns item,image,text,correct; SugarCrepe, ARO and Winoground are known"
EXAMPLE = '{"item": "1", "image": "a.jpg", "text": "a cat", "correct": 1}'


class Item(NamedTuple):
    """One image with T texts, of which the first is right; or two images, each with its text."""

    id: str
    category: str  # "" without one
    images: list[str]  # their ids
    texts: list[str]


class Items(NamedTuple):
    """N items, and their source for the history."""

    name: str  # what messages call the source
    items: list[Item]
    source: dict[str, Any]

    def texts(self) -> list[str]:
        """Return the different texts of all items."""
        different: dict[str, None] = {}
        for item in self.items:
            different |= dict.fromkeys(item.texts)
        return list(different)


class Form(NamedTuple):
    """The form in which a benchmark publishes items: which members of an object hold what."""

    mark: str  # a member that no other form has
    images: tuple[str, ...]
    texts: tuple[str, ...]  # the right one of each image first
    category: tuple[str, ...] = ()


SUGARCREPE = Form("negative_caption", ("filename",), ("caption", "negative_caption"))
ARO = Form(
    "false_caption",
    ("image_path",),
    ("true_caption", "false_caption"),
    ("relation_name", "attributes"),
)
ARO_ORDER = Form("caption_options", ("image",), ("caption", "caption_options"))
WINOGROUND = Form(
    "caption_0", ("image_0", "image_1"), ("caption_0", "caption_1"), ("collapsed_tag",)
)
LISTS = ("caption_options", "attributes")  # members that may hold several texts
FORMS = (SUGARCREPE, ARO, ARO_ORDER, WINOGROUND)


@checked
def read_items(names: Several[FilePath], split: str | None = None) -> Items:
    """Read items from files and folders of files, or make those of `shapes`.

    A table (.csv, .tsv, .jsonl) has a row for each image and text, and the columns `item`, `image`,
    `text`, `correct` (1 or 0) and optionally `category`. Files of SugarCrepe, ARO and Winoground
    (.json, .jsonl) are read as they are. Their categories are relations, attributes or tags, or
    else the names of the files. The items of `shapes` are those of a `split`, or of all.
    """
    names = as_list(names, "names", str)
    name = ", ".join(map(escape, names))
    source: dict[str, Any] = {"items": [escape(Path(path).name) for path in names]}
    if names == ["shapes"]:
        return Items(name, list(_shapes_items(split)), source)
    items: dict[str, Item] = {}
    digests = []
    for path in _files(names):
        data = files.read_bytes(str(path))
        digests.append(files.digest(data))
        for item in _read(data, path):
            if item.id in items:
                where = escape(files.display_name(path))
                raise ClipkitError(f"{where}: expected different items, got {item.id!r} twice")
            items[item.id] = item
    if not items:
        raise ClipkitError(f"{name}: expected items, got none", HINT)
    source["inputs"] = {"items": files.digest(" ".join(digests).encode())}
    return Items(name, list(items.values()), source)


def _files(names: Sequence[str]) -> list[Path]:
    """Return the files that are named, and after them those of the folders that are named."""
    named: list[Path] = []
    in_folders: list[Path] = []
    for path in map(Path, names):
        if path.is_dir():
            in_folders += sorted(file for file in path.iterdir() if file.suffix in CAPTION_TABLES)
        else:
            named.append(path)
    return named + in_folders


def _read(data: bytes, path: Path) -> Iterator[Item]:
    """Yield the items of a file: of a table, or of a published form."""
    name = escape(files.display_name(path))
    stem = Path(files.display_name(path)).stem
    ending = ending_of(str(path), data)
    objects = list(_objects(data, name, ending))
    if objects and "correct" in objects[0][1]:
        yield from _table_items(objects, name)
        return
    if any("bbox_x" in content for _, content in objects):
        console.note(f"{name}: ARO crops its images to boxes, which are not used here")
    for key, content in objects:
        where = f"{name}, {key}"
        form = _find_form(content, where)
        category = " and ".join(_values(content, form.category, where)) or stem
        images = _values(content, form.images, where)
        texts = _values(content, form.texts, where)
        yield _item(f"{stem}/{content.get('id', key)}", category, images, texts, where)


def _find_form(content: Mapping[str, Any], where: str) -> Form:
    for form in FORMS:
        if form.mark in content:
            return form
    got = shorten(", ".join(content) or "none", 200)
    raise ClipkitError(f"{where}: expected a known item, got the members {got}", HINT)


def _values(content: Mapping[str, Any], members: Iterable[str], where: str) -> list[str]:
    """Return the texts of some members of an object, and the elements of those in LISTS."""
    values: list[str] = []
    for member in members:
        value = content.get(member)
        elements = value if member in LISTS and isinstance(value, list) else [value]
        for element in elements:
            text = as_text(element, f"{where}, {member}")
            if text:
                values.append(text)
    return values


def _objects(data: bytes, name: str, ending: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield the line, place or key of each object of a file, and the object."""
    if ending not in CAPTION_TABLES:
        raise UsageError(f"items: expected shapes or files {', '.join(CAPTION_TABLES)}, got {name}")
    if ending != ".json":
        yield from table_objects(data, name, ending, COLUMNS, EXAMPLE)
        return
    content = load_json(data, name)
    if isinstance(content, list):
        content = dict(enumerate(content))
    for key, value in as_object(content).items():
        yield key, as_object(value)


class TableRow(NamedTuple):
    """A row of a table: an image, a text, and whether the text is right."""

    image: str
    text: str
    is_right: bool
    category: str


def _table_items(objects: Iterable[tuple[Any, dict[str, Any]]], name: str) -> Iterator[Item]:
    """Yield the items of a table, whose rows are pairs of an image and a text."""
    rows_of: dict[str, list[TableRow]] = defaultdict(list)
    for line, content in objects:
        where = f"{name}, line {line}"
        item, image, text, correct = [_cell(content, column, where) for column in COLUMNS]
        if correct not in ("0", "1"):
            raise ClipkitError(f"{where}: expected 1 or 0 in the column correct, got {correct!r}")
        category = as_text(content.get("category"), where)
        rows_of[item].append(TableRow(image, text, correct == "1", category))
    for item, rows in rows_of.items():
        where = f"{name}, item {shorten(item)}"
        _check_rows(rows, where)
        right = [row for row in rows if row.is_right]
        images = [row.image for row in right]
        if sorted(images) != sorted({row.image for row in rows}):
            raise ClipkitError(f"{where}: expected one right text for each image, got others")
        texts = [row.text for row in [*right, *rows]]
        yield _item(item, rows[0].category, images, texts, where)


def _check_rows(rows: Sequence[TableRow], where: str) -> None:
    """Refuse a text that is both right and wrong of an image, and an item of two categories."""
    categories = sorted({row.category for row in rows})
    if len(categories) > 1:
        got = " and ".join(repr(shorten(category)) for category in categories[:2])
        raise ClipkitError(f"{where}: expected one category, got {got}")
    answer_of: dict[tuple[str, str], bool] = {}
    for row in rows:
        if answer_of.setdefault((row.image, row.text), row.is_right) != row.is_right:
            got = repr(shorten(row.text))
            raise ClipkitError(f"{where}: expected a text to be right or wrong, got {got} as both")


def _cell(content: Mapping[str, Any], names: Sequence[str], where: str) -> str:
    """Return the text in the column that has one of these names."""
    return as_text(content[find_column(names, content, where)], where)


def _item(
    name: str, category: str, images: Sequence[str], texts: Iterable[str], where: str
) -> Item:
    """Return an item, each of its texts once, if it has as many images and texts as it must."""
    different = list(dict.fromkeys(clean(text, where) for text in texts))
    is_pair = len(images) == len(different) == 2
    is_choice = len(images) == 1 and len(different) >= 2 and all(different)
    if not is_pair and not is_choice:
        got = f"{console.count(len(images), 'image')} and {console.count(len(different), 'text')}"
        expected = "an image with two different texts or more, or two images with a text each"
        raise ClipkitError(f"{where}: expected {expected}, got {got}")
    ids = [escape(image.removeprefix("./")) for image in images]
    return Item(escape(name), " ".join(category.split()), ids, different)


def _shapes_items(split: str | None) -> Iterator[Item]:
    from clipkit.datasets.registry import REGISTRY, SHAPES_SEED
    from clipkit.shapes.attributes import items

    for name, images in REGISTRY["shapes"].load().splits.items():
        if split in (None, name):
            rows = np.array(images.ids, np.int64)
            for category, row, *texts in items(rows, split=name, seed=SHAPES_SEED):
                row_id = images.ids[row]
                yield Item(f"{category}/{row_id}", category, [row_id], texts)
