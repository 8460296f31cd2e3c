"""Features in folders of files: what clip-retrieval writes, and tables in parts.

clip-retrieval writes ``img_emb/img_emb_0.npy``, ``text_emb/text_emb_0.npy`` and
``metadata/metadata_0.parquet``, with the same rows, and so on for each partition. dinotool and
others write one table as ``part.0.parquet``, ``part.1.parquet`` and so on.
"""

from __future__ import annotations

import re
from pathlib import Path

from clipkit.base.errors import ClipkitError, shorten

IMAGES, TEXTS, METADATA = "img_emb", "text_emb", "metadata"  # the folders of clip-retrieval
NUMBER = re.compile("[0-9]+")


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
    if not names:
        raise ClipkitError(
            f"{folder}: expected {ending} files, got none",
            "clipkit convert reads features; clipkit embed reads a folder of images",
        )
    if len(names) > 1:
        raise ClipkitError(
            f"{folder}: expected the parts of one table, numbered, got "
            f"{shorten(', '.join(sorted(names)))}",
            "convert the files one by one, and join them with clipkit concat",
        )
    return sorted(paths, key=lambda path: _numbers(path.name))


def metadata_files(paths: list[Path]) -> list[Path]:
    """Return the table of each part of clip-retrieval's embeddings; none may be missing."""
    folder = paths[0].parent
    tables = part_files(folder.parent / METADATA, ".parquet")
    numbers = [_numbers(path.name) for path in paths]
    if [_numbers(path.name) for path in tables] != numbers:
        got = f"{len(paths)} and {len(tables)} files or other numbers"
        raise ClipkitError(f"{folder}: expected the same parts as in {tables[0].parent}, got {got}")
    return tables


def _numbers(name: str) -> list[int]:
    return list(map(int, NUMBER.findall(name)))
