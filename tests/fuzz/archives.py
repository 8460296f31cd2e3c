"""Small data sets as a folder of images, a tar and a Parquet file."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

ROWS = 4


def png(red: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (red % 256, 3 * red % 256, 0)).save(stream, "PNG")
    return stream.getvalue()


def write_tar(path: Path, rows: int = ROWS, first: int = 0) -> Path:
    """Write a tar in the form of WebDataset, with labels."""
    with tarfile.open(path, "w") as tar:
        for row in range(rows):
            for ending, data in (("png", png(first + 20 * row)), ("cls", b"%d" % (row % 2))):
                info = tarfile.TarInfo(f"{row:04}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def write_parquet(path: Path, rows: int = ROWS, first: int = 0) -> Path:
    """Write a file of images and labels with two rows per row group."""
    pictures = [{"bytes": png(first + 20 * row), "path": f"{row:04}.png"} for row in range(rows)]
    table = pa.table({"image": pictures, "label": ["cat", "dog"] * (rows // 2)})
    pq.write_table(table, path, row_group_size=2)
    return path


WRITERS = {".tar": write_tar, ".parquet": write_parquet}
