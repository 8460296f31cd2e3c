"""How much data of an archive or a table may unpack to."""

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
