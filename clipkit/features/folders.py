"""Features in folders of files: what clip-retrieval writes, and tables in parts.

clip-retrieval writes ``img_emb/img_emb_0.npy``, ``text_emb/text_emb_0.npy`` and
``metadata/metadata_0.parquet``, with the same rows, and so on for each partition. dinotool and
others write one table as ``part.0.parquet``, ``part.1.parquet`` and so on.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from clipkit.base import console
from clipkit.base.errors import ClipkitError, shorten
from clipkit.base.names import escape

IMAGES, TEXTS, METADATA = "img_emb", "text_emb", "metadata"  # the folders of clip-retrieval
NUMBER = re.compile("[0-9]+")
OF_TOTAL = re.compile("-of-([0-9]+)")


def clip_retrieval(folder: Path) -> Path | None:
    """Return the folder of clip-retrieval's embeddings that is meant; None if there is none."""
    for embeddings in (folder, folder / IMAGES, folder / TEXTS):
        if embeddings.name in (IMAGES, TEXTS) and embeddings.is_dir():
            return embeddings
    return None


def part_files(folder: Path, ending: str) -> list[Path]:
    """Return the parts of one array or table, in the order of their numbers: 2 is before 10.

    A part that is missing in between is an error, as is a part that is no file. Links to files are
    named and followed.
    """
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
    for path in paths:
        if not path.is_file():
            raise ClipkitError(f"{path}: expected a file, got a folder, FIFO, device or lost link")
    links = [path for path in paths if path.is_symlink()]
    if links:
        verb = "is a link" if len(links) == 1 else "are links"
        first = f"the first leads to {escape(str(links[0].resolve()))}"
        parts = console.count(len(links), "part")
        console.note(f"{folder}: {parts} of {len(paths)} {verb}, {first}")
    paths.sort(key=lambda path: _numbers(path.name))
    _check_gaps(paths)
    return paths


def _check_gaps(paths: list[Path]) -> None:
    """Refuse parts of which one is missing. Names may state their number: 00000-of-00002."""
    for before, path in itertools.pairwise(paths):
        steps = [
            after - number
            for number, after in zip(_numbers(before.name), _numbers(path.name), strict=True)
        ]
        moved = next((step for step in steps if step), 0)  # 1-0 may follow 0-7
        if moved != 1:
            raise _missing(path.parent, f"{path.name} after {before.name}")
    total = OF_TOTAL.search(paths[-1].name)
    if total and int(total[1]) != len(paths):
        raise _missing(paths[0].parent, f"{len(paths)} files, the last of them {paths[-1].name}")


def note_start(paths: list[Path]) -> None:
    """Name a first part whose number is not 0: others may come before it."""
    first = paths[0]
    number = _numbers(first.name)[-1:]
    may_lack_some = number == [1] or (number > [0] and len(paths) > 1)
    if may_lack_some and not OF_TOTAL.search(first.name):
        message = f"the parts begin with {first.name}; check that none is missing"
        console.note(f"{first.parent}: {message}")


def _missing(folder: Path, got: str) -> ClipkitError:
    return ClipkitError(
        f"{folder}: expected parts whose numbers follow each other, got {got}",
        "bring the missing part, or convert the files one by one and join them: clipkit concat",
    )


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
