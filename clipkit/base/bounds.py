"""How much data a file may hold: what an archive may unpack to, and how many names and classes."""

from __future__ import annotations

from typing import NamedTuple

from clipkit.base.errors import ClipkitError


class Bound(NamedTuple):
    """How much data may unpack to: some bytes, or a multiple of the file's size if that is more."""

    bytes: int
    ratio: int

    def check(self, unpacked: int, packed: int, name: str) -> None:
        """Refuse data of a file that would unpack to more.

        >>> Bound(1 << 20, 100).check(10_000, 20, "labels")
        """
        if unpacked > max(self.bytes, self.ratio * packed):
            raise ClipkitError(
                f"{name}: expected to unpack to at most {self.bytes >> 20} MiB or {self.ratio} "
                f"times the file's {packed} bytes, got {unpacked} bytes",
                "if the file is intended, save it without compression",
            )


MATRICES = Bound(1 << 26, 100)
# Python's texts and numbers take several times the bytes of an array's
OTHERS = Bound(1 << 24, 10)
MAX_CLASSES = 1 << 20  # without class names; a label must not make a command allocate without end
MAX_NAMES = 4096  # of a group: splits, or columns
