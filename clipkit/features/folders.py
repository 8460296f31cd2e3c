"""Features in folders of files: what clip-retrieval writes, and tables in parts.

clip-retrieval writes ``img_emb/img_emb_0.npy``, ``text_emb/text_emb_0.npy`` and
``metadata/metadata_0.parquet``, with the same rows, and so on for each partition. dinotool and
others write one table as ``part.0.parquet``, ``part.1.parquet`` and so on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipkit.base.errors import ClipkitError, UsageError, read_errors, shorten, unknown
from clipkit.features.model import Float32

IMAGES, TEXTS, METADATA = "img_emb", "text_emb", "metadata"  # the folders of clip-retrieval
NUMBER = re.compile("[0-9]+")
# Reads a table: its columns, and the number and the cells of each row.
ReadCells = Callable[[Path, str], tuple[list[str], list[tuple[int, list[Any]]]]]


def clip_retrieval(folder: Path) -> Path | None:
    """Return the folder of clip-retrieval's embeddings that is meant; None if there is none."""
    for embeddings in (folder, folder / IMAGES, folder / TEXTS):
        if embeddings.name in (IMAGES, TEXTS) and embeddings.is_dir():
            return embeddings
    return None


def part_files(folder: Path, ending: str) -> list[Path]:
    """Return the parts of one array or table, in the order of their numbers: 2 is before 10."""
    paths = [path for path in folder.glob(f"*{ending}") if not path.name.startswith(".")]
    names = {NUMBER.sub("N", path.name) for path in paths}
    if len(names) != 1:
        got = shorten(", ".join(sorted(names))) or f"no {ending} files"
        raise ClipkitError(
            f"{folder}: expected the parts of one table, numbered, got {got}",
            "convert the files one by one, and join them with clipkit concat",
        )
    return sorted(paths, key=lambda path: list(map(int, NUMBER.findall(path.name))))


def join_parts(parts: Sequence[tuple[Path, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the arrays of a table in parts, one part below the other."""
    joined: dict[str, Any] = {}
    first, expected = parts[0]
    for path, arrays in parts:
        if arrays.keys() != expected.keys():
            columns, others = (", ".join(sorted(names)) for names in (expected, arrays))
            message = f"expected {shorten(columns)}, as in {first.name}, got {shorten(others)}"
            raise ClipkitError(f"{path}: {message}")
    for name, array in expected.items():
        values = [arrays[name] for _, arrays in parts]
        if array is None:
            joined[name] = None
        elif isinstance(array, np.ndarray):
            with read_errors(str(first.parent)):  # of parts with another width
                joined[name] = np.concatenate(values)
        else:
            joined[name] = [value for part in values for value in part]
    return joined


def read_clip_retrieval(
    paths: Sequence[Path],
    read_array: Callable[[Path], Float32],
    read_cells: ReadCells,
    chosen: Mapping[str, str],
) -> dict[str, Any]:
    """Read embeddings of images with their ids, or of texts with the images that they belong to.

    `chosen` names the columns of the metadata that are the ``id`` and the ``label``.
    """
    is_of_images = paths[0].parent.name == IMAGES
    known, roles = {"id"}, {"text": "caption", **chosen}
    if is_of_images:
        known, roles = {"id", "label"}, {"id": "image_path", **chosen}
    for option in chosen.keys() - known:
        raise UsageError(
            f"--{option}-column: no such column in {paths[0].parent} of clip-retrieval"
        )
    parts = []
    for path in paths:
        table = metadata_of(path)
        names, rows = read_cells(table, str(table))
        for column in roles.values():
            if column not in names:
                raise unknown(f"column of {table}", column, names)
        cells = zip(*(values for _, values in rows), strict=True)
        columns = dict(zip(names, map(list, cells), strict=True))
        features = read_array(path)
        if len(rows) != len(features):
            expected = f"{len(rows)} rows, as {table.name} has"
            raise ClipkitError(f"{path}: expected {expected}, got {len(features)}")
        parts.append((path, {**columns, "features": features}))
    columns = join_parts(parts)
    arrays: dict[str, Any] = {"features": columns["features"]}
    ids = columns.get(roles.get("id", "image_path"))
    if is_of_images:
        arrays["ids"] = ids
        if "label" in roles:
            arrays["labels"] = columns[roles["label"]]
        return arrays
    arrays["texts"] = columns["caption"]
    if ids is not None:
        arrays["class_names"] = list(dict.fromkeys(ids))
        arrays["class_index"] = index_of(ids, arrays["class_names"])
    return arrays


def index_of(values: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return the position of each value among different names."""
    number_of = {name: number for number, name in enumerate(names)}
    return [number_of[value] for value in values]


def metadata_of(path: Path) -> Path:
    """Return the table that belongs to a file of clip-retrieval's embeddings."""
    number = path.stem.removeprefix(path.parent.name)
    return path.parent.parent / METADATA / f"{METADATA}{number}.parquet"
