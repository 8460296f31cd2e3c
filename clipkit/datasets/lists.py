"""Read a list of image paths from standard input, as `find` and `ls` print it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from clipkit import files
from clipkit.csv_rows import BOM
from clipkit.datasets.dataset import Dataset
from clipkit.datasets.rows import Row, Table, collect
from clipkit.errors import ClipkitError, UsageError

MAX_LIST_BYTES = 1 << 28  # a million paths of 256 bytes

BLOCK_BYTES = 1 << 16  # split at a time; the entries take three times as much memory

# How feature files, PNG, JPEG, GIF, Parquet and gzip begin.
CONTENTS = (b"\x89HDF", b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"PAR1", b"\x1f\x8b")


def read_list(source: str = files.STREAM) -> Dataset:
    """Read a list of paths: one a line, or separated by NUL as `find -print0` does.

    Relative paths start at the current folder. Blank lines are dropped. An id is the path without
    "./" at its start. The split is `all`, and there are no labels.

    Parameters
    ----------
    source : str
        A file, or ``-`` for standard input.

    Raises
    ------
    UsageError
        If standard input is a terminal.
    ClipkitError
        If the list is empty, too long or the content of another file, or a path is a URL or is
        there twice.
    """
    name = files.display_name(source)
    if source == files.STREAM and sys.stdin.isatty():
        raise UsageError(
            "expected a list of paths on standard input, got a terminal",
            "pipe one in: find photos -name '*.jpg' | clipkit embed - -o img.h5",
        )
    data = files.read_bytes(source, MAX_LIST_BYTES)
    if not data:
        hint = "check whether the command before it found files"
        raise ClipkitError(f"{name}: expected a list of paths, got an empty input", hint)
    if data.startswith(CONTENTS):
        hint = "name the file itself: clipkit embed FILE"
        raise ClipkitError(f"{name}: expected a list of paths, got the content of a file", hint)
    is_nul = b"\0" in data
    separator = b"\0" if is_nul else b"\n"
    details = {"source": "list", "list": files.digest(data)}
    table = Table(_rows(data, separator))
    del data  # so that it is freed with the rows
    class_names, splits = collect(table, name, unit="entry" if is_nul else "line")
    return Dataset(name, class_names, splits, details)


def _rows(data: bytes, separator: bytes) -> Iterator[Row]:
    blocks = _blocks(data, separator)
    del data
    place = 0
    for block in blocks:
        for entry in block.split(separator):
            if separator == b"\n":
                entry = entry.removesuffix(b"\r")
            place += 1
            if entry:
                yield Row(place, os.fsdecode(entry))


def _blocks(data: bytes, separator: bytes) -> Iterator[bytes]:
    """Yield blocks of whole entries, without the separator at their end. Free what was yielded."""
    rest = bytearray(data.removeprefix(BOM))
    del data
    while rest:
        end = rest.find(separator, BLOCK_BYTES)
        if end < 0:
            end = len(rest)
        yield bytes(rest[:end])
        del rest[: end + 1]  # cheap: moves the start, and seldom copies
