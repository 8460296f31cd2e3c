"""Matrices that come in blocks of rows, and the types of arrays."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clipkit.base.errors import ClipkitError

BLOCK_BYTES = 1 << 24
CHUNK_ROWS = 512
CHUNK_BYTES = 1 << 22
SMALL = 1 << 26  # numbers of features (256 MiB) that are read once, and then kept
FEW = 1 << 22  # numbers of a block that float64 copies are made of

Float32 = NDArray[np.float32]
Floats = NDArray[np.floating[Any]]
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class BlockMatrix:
    """A matrix (N, D) of float32 that is read or computed a block of rows at a time.

    Attributes
    ----------
    shape : (int, int)
        (N, D).
    iter_blocks : callable
        Each call starts anew and yields blocks (B, D) in row order. The blocks of a file end with
        an error if the digest does not match.
    sha256 : str or None
        Digest of the bytes, if a file states it, or once `as_stored` has read them.
    """

    shape: tuple[int, int]
    iter_blocks: Callable[[], Iterator[Float32]]
    sha256: str | None = None

    @classmethod
    def from_array(cls, array: ArrayLike | BlockMatrix) -> BlockMatrix:
        """Wrap an array (N, D). A `BlockMatrix` is returned as it is."""
        if isinstance(array, BlockMatrix):
            return array
        matrix = as_float32(np.asarray(array))
        if matrix.ndim != 2:
            raise ClipkitError(f"features: expected a matrix (N, D), got {matrix.ndim} dimensions")
        step = block_rows(matrix.shape[1])

        def iter_blocks() -> Iterator[Float32]:
            for start in range(0, len(matrix), step):
                yield matrix[start : start + step]

        return cls(matrix.shape, iter_blocks)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Read the matrix when numpy asks for an array."""
        return np.asarray(self.read(), dtype=dtype)

    def iter_rows(self, most: int) -> Iterator[Float32]:
        """Yield the rows in smaller blocks, of at most `most` rows."""
        for block in self.iter_blocks():
            for start in range(0, len(block), most):
                yield block[start : start + most]

    def read(self) -> Float32:
        """Read the whole matrix (N, D) into memory."""
        out = np.empty(self.shape, np.float32)
        start = 0
        for block in self.iter_blocks():
            out[start : start + len(block)] = block
            start += len(block)
        return out

    def read_if_small(self) -> Float32 | BlockMatrix:
        """Return an array or, of a large matrix, the matrix itself: to be read whenever needed."""
        return self if math.prod(self.shape) > SMALL else self.read()

    def map(self, function: Callable[[Float32], Float32]) -> BlockMatrix:
        """Apply a function to every block (B, D) when it is read; it keeps the shape."""
        return BlockMatrix(self.shape, lambda: map(function, self.iter_blocks()))

    @classmethod
    def join(cls, matrices: Iterable[ArrayLike | BlockMatrix]) -> BlockMatrix:
        """Return the rows of all matrices (N, D), one matrix after another."""
        parts = list(map(cls.from_array, matrices))

        def iter_blocks() -> Iterator[Float32]:
            for part in parts:
                yield from part.iter_blocks()

        return cls((sum(map(len, parts)), parts[0].shape[1]), iter_blocks)

    def take(self, rows: Int64) -> BlockMatrix:
        """Return the given rows (n,), in ascending order; they are selected when it is read."""

        def iter_blocks() -> Iterator[Float32]:
            start = 0
            for block in self.iter_blocks():
                first, last = np.searchsorted(rows, [start, start + len(block)])
                if first < last:  # a block is never empty
                    yield block[rows[first:last] - start]
                start += len(block)

        return BlockMatrix((len(rows), self.shape[1]), iter_blocks)


def as_stored(matrix: BlockMatrix) -> BlockMatrix:
    """Return the same matrix (N, D) in the blocks of a file, for what a file of it would give.

    Its digest is known once all blocks were read, so that a computed matrix is not computed again.
    """
    step = block_rows(matrix.shape[1])

    def iter_blocks() -> Iterator[Float32]:
        sha, rows = hashlib.sha256(), 0
        for block in _blocks_of(matrix.iter_blocks(), step):
            sha.update(block.data)
            rows += len(block)
            if rows == len(matrix):
                object.__setattr__(stored, "sha256", sha.hexdigest())
            yield block

    stored = BlockMatrix(matrix.shape, iter_blocks)
    return stored


def _blocks_of(blocks: Iterable[Float32], step: int) -> Iterator[Float32]:
    """Yield the same rows in blocks of `step` rows; the last one may have fewer."""
    pending: list[Float32] = []
    count = 0
    for block in blocks:
        pending.append(block)
        count += len(block)
        if count < step:
            continue
        joined = np.concatenate(pending) if len(pending) > 1 else block
        end = count - count % step
        for start in range(0, end, step):
            yield joined[start : start + step]
        pending, count = [joined[end:]], count - end
    if count:
        yield np.concatenate(pending)


def row_blocks(X: Floats | BlockMatrix, size: int = FEW) -> Iterable[Floats]:
    """Return all rows of X (N, D) in blocks: views of about `size` numbers, or a matrix's own."""
    if isinstance(X, BlockMatrix):
        return X.iter_blocks()
    step = max(size // max(X.shape[1], 1), 1)
    return [X[start : start + step] for start in range(0, max(len(X), 1), step)]


def as_float32(numbers: NDArray[Any]) -> Float32:
    """Return numbers as float32; what is too large becomes Inf, which no file may hold."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(numbers, dtype=np.float32)


def chunk_rows(width: int) -> int:
    """Return the rows of an HDF5 chunk: 512, or fewer where a row is long."""
    return max(1, min(CHUNK_ROWS, CHUNK_BYTES // (width * 4)))


def block_rows(width: int) -> int:
    """Return the rows of a block of about 16 MiB, a multiple of the chunk's."""
    chunk = chunk_rows(width)
    return chunk * max(1, BLOCK_BYTES // (chunk * width * 4))
