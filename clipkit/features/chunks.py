"""Read a matrix in chunks of whole rows straight from its file.

HDF5 would check a checksum of each chunk, and it lets only one thread read or write at a time. The
SHA-256 of the matrix detects the same damage.
"""

from __future__ import annotations

import os
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray


class ChunkReader:
    """The chunks of a matrix (N, D) of a `CheckedFile`, each of which has all columns.

    The only filter is fletcher32, which appends to the bytes of a chunk.
    """

    def __init__(self, dataset: h5py.Dataset, descriptor: int) -> None:
        self._dtype = dataset.dtype
        self._shape = dataset.shape
        self._chunk_rows = dataset.chunks[0]
        self._descriptor = descriptor
        offsets: dict[int, int] = {}

        def note(chunk: Any) -> None:
            offsets[chunk.chunk_offset[0]] = chunk.byte_offset

        dataset.id.chunk_iter(note)
        self._offsets = [offsets[row] for row in sorted(offsets)]

    @staticmethod
    def can_read(dataset: h5py.Dataset) -> bool:
        """Whether a matrix is stored in chunks of whole rows."""
        return dataset.chunks is not None and dataset.chunks[1] == dataset.shape[1]

    def read(self, rows: slice) -> NDArray[Any]:
        """Return rows (B, D)."""
        start, stop, _ = rows.indices(self._shape[0])
        block = np.empty((stop - start, self._shape[1]), self._dtype)
        row = start
        while row < stop:
            chunk, skipped = divmod(row, self._chunk_rows)
            end = min(stop, row - skipped + self._chunk_rows)
            part = block[row - start : end - start]
            offset = self._offsets[chunk] + skipped * part.strides[0]
            read_exactly(self._descriptor, part.data, offset)
            row = end
        return block


def read_exactly(descriptor: int, buffer: memoryview, offset: int) -> None:
    """Fill a buffer with the bytes of a file from an offset on: one read may give a part of them."""
    view = buffer.cast("B")
    while view:
        count = os.preadv(descriptor, [view], offset)
        if not count:
            raise OSError(f"the file ends at byte {offset}")
        view = view[count:]
        offset += count
