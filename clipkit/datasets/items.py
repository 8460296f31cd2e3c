"""Read items: images with texts to choose from, in a table or as benchmarks publish them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipkit.base import console, files
from clipkit.base.csv_rows import read_objects
from clipkit.base.errors import ClipkitError, UsageError, shorten
from clipkit.base.names import escape
from clipkit.datasets.captions import MAX_BYTES, TABLES, clean, csv_objects, find_column
from clipkit.datasets.rows import CAPTION_COLUMNS, as_text
from clipkit.features.history import as_object

COLUMNS = (("item",), ("image",), CAPTION_COLUMNS, ("correct",))
HEADER = "a table of items begins with the header: item,image,text,correct"
EXAMPLE = '{"item": "1", "image": "a.jpg", "text": "a cat", "correct": 1}'
PUBLISHED = "the items of SugarCrepe, ARO or Winoground"
CORRECT = {"1": True, "true": True, "0": False, "false": False}


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
        return list(dict.fromkeys(text for item in self.items for text in item.texts))


class _Form(NamedTuple):
    """The members of a published item: its images, its texts, and the first of its categories."""

    images: tuple[str, ...]
    texts: tuple[str, ...]
    categories: tuple[str, ...] = ()


FORMS = {  # by the member that only this form has
    "negative_caption": _Form(("filename",), ("caption", "negative_caption")),  # SugarCrepe
    "false_caption": _Form(  # ARO, from Visual Genome
        ("image_path",), ("true_caption", "false_caption"), ("relation_name", "attributes")
    ),
    "caption_options": _Form(("image",), ("caption_options",)),  # ARO, the order of words
    "caption_0": _Form(  # Winoground
        ("image_0", "image_1"), ("caption_0", "caption_1"), ("collapsed_tag", "tag")
    ),
}


def read_items(names: str | Sequence[str], split: str | None = None) -> Items:
    """Read items from files and folders, or make those of `shapes`.

    Parameters
    ----------
    names : str or sequence of str
        Tables (.csv, .tsv, .jsonl) with a row for each image and text, and the columns `item`,
        `image`, `text`, `correct` (1 or 0) and optionally `category`. Or .json and .jsonl files as
        SugarCrepe, ARO and Winoground publish them, whose categories are relations, attributes or
        tags, or else the names of the files. Or folders of such files. Or `shapes`.
    split : str, optional
        Of `shapes`: its images, of all splits by default.

    Raises
    ------
    ClipkitError
        If a file has another form, or an item has fewer than two texts.
    """
    names = [names] if isinstance(names, str) else list(names)
    source: dict[str, Any] = {"items": [escape(Path(name).name) for name in names]}
    if names == ["shapes"]:
        return Items("shapes", list(_shapes_items(split)), source)
    items: dict[str, Item] = {}
    digests = []
    for path in _expand(names):
        data = files.read_bytes(path, MAX_BYTES)
        digests.append(files.digest(data))
        for item in _read(data, escape(path), Path(path)):
            if item.id in items:
                raise ClipkitError(
                    f"{escape(path)}: expected different items, got {item.id!r} twice"
                )
            items[item.id] = item
    name = ", ".join(map(escape, names))
    if not items:
        raise ClipkitError(f"{name}: expected items, got none", HEADER)
    source["inputs"] = {"items": files.digest(" ".join(digests).encode())}
    return Items(name, list(items.values()), source)


def _expand(names: Iterable[str]) -> Iterator[str]:
    """Yield files, and the tables of folders in the order of their names."""
    for name in names:
        paths = [name]
        if Path(name).is_dir():
            paths = [str(path) for path in sorted(Path(name).iterdir()) if path.suffix in TABLES]
        for path in paths:
            if Path(path).suffix.lower() not in TABLES:
                raise UsageError(
                    f"items: expected {', '.join(TABLES)} or shapes, got {escape(path)}"
                )
            yield path


def _read(data: bytes, name: str, path: Path) -> Iterator[Item]:
    """Yield the items of a file: of a table, or of a published form."""
    objects = list(_objects(data, name, path.suffix.lower()))
    if objects and "correct" in objects[0][1]:
        yield from _table_items(objects, name)
        return
    for key, content in objects:
        yield _published_item(content, key, path.stem, f"{name}, {key}")
    if any("bbox_x" in content for _, content in objects):
        console.note(f"{name}: ARO crops its images to boxes, which are not used here")


def _objects(data: bytes, name: str, ending: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the line, place or key of each object of a file, and the object."""
    if ending == ".jsonl":
        for line, content in read_objects(io.BytesIO(data), name, EXAMPLE):
            yield f"line {line}", content
    elif ending != ".json":
        for line, content in csv_objects(data, name, ending, COLUMNS, HEADER):
            yield f"line {line}", content
    else:
        try:
            content = json.loads(data)
        except (ValueError, RecursionError):
            content = None
        if isinstance(content, list):
            content = {str(number): value for number, value in enumerate(content)}
        for key, value in as_object(content).items():
            yield key, as_object(value)


def _published_item(content: Mapping[str, Any], key: str, stem: str, where: str) -> Item:
    form = next((form for name, form in FORMS.items() if name in content), None)
    if form is None or not {*form.images, *form.texts} <= content.keys():
        got = shorten(", ".join(map(escape, content)) or "none", 200)
        raise ClipkitError(f"{where}: expected {PUBLISHED}, got an object with {got}", HEADER)
    texts = []
    if isinstance(content.get("caption"), str):
        texts = [content["caption"]]
    for name in form.texts:
        value = content[name]
        texts += value if isinstance(value, list) else [value]
    category = stem
    for name in reversed(form.categories):
        value = content.get(name) or category
        category = " and ".join(map(str, value)) if isinstance(value, list) else str(value)
    images = [content[name] for name in form.images]
    number = str(content.get("id", key)).removeprefix("line ")
    return _item(f"{stem}/{number}", category, images, texts, where)


def _table_items(objects: Iterable[tuple[str, dict[str, Any]]], name: str) -> Iterator[Item]:
    """Yield the items of a table, whose rows are pairs of an image and a text."""
    rows: dict[str, list[tuple[str, str, bool]]] = {}
    categories: dict[str, str] = {}
    for place, content in objects:
        where = f"{name}, {place}"
        cells = [content[find_column(names, content, where, HEADER)] for names in COLUMNS]
        item, image, text = [as_text(cell, where) for cell in cells[:3]]
        correct = shorten(cells[3], 40).strip().lower()  # JSON may hold true, too
        if correct not in CORRECT:
            raise ClipkitError(f"{where}: expected 1 or 0 in the column correct, got {correct!r}")
        rows.setdefault(item, []).append((image, clean(text, where), CORRECT[correct]))
        categories.setdefault(item, as_text(content.get("category"), where))
    for item, pairs in rows.items():
        right = [(image, text) for image, text, is_right in pairs if is_right]
        images = list(dict.fromkeys(image for image, _, _ in pairs))
        texts = list(dict.fromkeys([text for _, text in right] + [text for _, text, _ in pairs]))
        where = f"{name}, item {escape(shorten(item, 80))}"
        is_matched = sorted(images) == sorted(image for image, _ in right)
        if not is_matched or len(images) == 2 != len(texts):
            raise ClipkitError(
                f"{where}: expected one right text for each of its images, got {len(right)} for "
                f"{console.count(len(images), 'image')} and {console.count(len(texts), 'text')}"
            )
        yield _item(item, categories[item], [image for image, _ in right], texts, where)


def _item(
    name: str, category: str, images: Sequence[Any], texts: Iterable[Any], where: str
) -> Item:
    """Return an item with one text twice once; check how many images and texts it has."""
    cleaned = list(dict.fromkeys(clean(as_text(text, where), where) for text in texts))
    if len(cleaned) < 2 or not all(cleaned):
        raise ClipkitError(f"{where}: expected two different texts or more, got {cleaned}")
    if len(images) > 2:
        raise ClipkitError(f"{where}: expected one or two images, got {len(images)}")
    ids = [escape(as_text(image, where).removeprefix("./")) for image in images]
    return Item(escape(name), " ".join(category.split()), ids, cleaned)


def _shapes_items(split: str | None) -> Iterator[Item]:
    from clipkit.datasets.registry import shapes
    from clipkit.shapes.attributes import items

    for name, images in shapes(None).splits.items():
        if split in (None, name):
            rows = np.array(images.ids, np.int64)
            for category, row, *texts in items(rows, split=name, seed=0):
                row_id = images.ids[row]
                yield Item(f"{category}/{row_id}", category, [row_id], texts)
