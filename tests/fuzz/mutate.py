"""Damage feature files and prompt files as disks and attackers do. A case is a number."""

from __future__ import annotations

import functools
import random
import struct
from collections.abc import Callable

MASK = 0xFFFFFFFF


def flip_bits(data: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    out = bytearray(data)
    for _bit in range(rng.choice((1, 1, 1, 2, 8, 64))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def set_bytes(data: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    """Set a run of bytes to zeros, ones, noise or a large number."""
    at, count = rng.randrange(len(data)), rng.choice((1, 2, 4, 8, 64, 512))
    new = rng.choice(
        (
            b"\0" * count,
            b"\xff" * count,
            rng.randbytes(count),
            struct.pack("<Q", 1 << rng.randrange(64)),
        )
    )
    return (data[:at] + new + data[at + len(new) :])[: len(data)]


def truncate(data: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    return data[: rng.randrange(len(data))]


def remove(data: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice((1, 8, 100)) :]


def splice(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Join the start of one file with the rest of another, or put a piece of that into it."""
    other = rng.choice(others)
    at, count = rng.randrange(len(data)), rng.choice((8, 64, 512, 4096))
    if rng.random() < 0.5:
        return data[:at] + other[at:]
    start = rng.randrange(len(other))
    return data[:at] + other[start : start + count] + data[at + count :]


def append(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    return data + rng.choice((b"\n", b"\0" * 512, rng.choice(others), data))


def prepend(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    return rng.choice((b"\n", b"\0" * 512, b"\xef\xbb\xbf", rng.choice(others))) + data


MUTATIONS: list[Callable[[bytes, random.Random, list[bytes]], bytes]] = [
    flip_bits, flip_bits, set_bytes, truncate, remove, splice, append, prepend,
]  # fmt: skip


def damaged(originals: list[bytes], case: int) -> bytes:
    """Return one of the files with one to three kinds of damage."""
    rng = random.Random(case)
    data = originals[rng.randrange(len(originals))]
    for _ in range(rng.choice((1, 1, 2, 3))):
        if data:
            data = rng.choice(MUTATIONS)(data, rng, originals)
    return data


def damaged_with_fixed_checksums(originals: list[bytes], case: int) -> bytes:
    """Damage the metadata of a file and fix HDF5's own checksums, so that its parsers see it."""
    rng = random.Random(case)
    out = bytearray(originals[rng.randrange(len(originals))])
    blocks = checked_blocks(bytes(out))
    for _ in range(rng.choice((1, 1, 2, 4))):
        start, end = rng.choice(blocks)
        at = rng.randrange(start, end)
        if rng.random() < 0.5:
            out[at] ^= 1 << rng.randrange(8)
        else:
            number = struct.pack("<I", 1 << rng.randrange(32))
            new = rng.choice((b"\0", b"\xff", rng.randbytes(1), number, b"\xff" * 8))[: end - at]
            out[at : at + len(new)] = new
        out[end : end + 4] = struct.pack("<I", lookup3(bytes(out[start:end])))
    return bytes(out)


@functools.cache  # the search takes far longer than a case
def checked_blocks(data: bytes) -> list[tuple[int, int]]:
    """Find the blocks of metadata that a checksum follows, by the checksums themselves."""
    blocks = [(0, 44)]
    for signature in (b"OHDR", b"OCHK", b"FAHD", b"FADB", b"FRHP", b"FHDB", b"BTHD", b"BTLF"):
        start = data.find(signature)
        while start >= 0:
            checked = (end for end in _ends(data, start) if _is_checked(data, start, end))
            end = next(checked, None)
            if end is not None:
                blocks.append((start, end))
            start = data.find(signature, start + 1)
    return blocks


def _ends(data: bytes, start: int) -> list[int]:
    """Return where the block that starts here may end."""
    last = len(data) - 4
    if data[start : start + 4] != b"OHDR":
        return list(range(start + 8, min(last, start + 700)))
    flags = data[start + 5]
    times, phase_change = flags & 0x20, flags & 0x10
    at = start + 6 + (16 if times else 0) + (4 if phase_change else 0)
    width = 1 << (flags & 3)
    end = at + width + int.from_bytes(data[at : at + width], "little")
    return [end] if end <= min(last, start + 70_000) else []


def _is_checked(data: bytes, start: int, end: int) -> bool:
    return lookup3(data[start:end]) == struct.unpack_from("<I", data, end)[0]


def lookup3(data: bytes) -> int:
    """Return Jenkins's lookup3 with initial value 0: the checksum of HDF5's metadata."""
    a = b = c = (0xDEADBEEF + len(data)) & MASK
    at, remaining = 0, len(data)

    def rot(x: int, k: int) -> int:
        return ((x << k) | (x >> (32 - k))) & MASK

    while remaining > 12:
        x, y, z = struct.unpack_from("<III", data, at)
        a, b, c = (a + x) & MASK, (b + y) & MASK, (c + z) & MASK
        for k in (4, 6, 8, 16, 19, 4):
            a, b, c = b, (b + c) & MASK, ((a - c) & MASK) ^ rot(c, k)
        at, remaining = at + 12, remaining - 12
    if remaining:
        x, y, z = struct.unpack("<III", data[at:].ljust(12, b"\0"))
        a, b, c = (a + x) & MASK, (b + y) & MASK, (c + z) & MASK
        for k in (14, 11, 25, 16, 4, 14, 24):
            a, b, c = b, ((c ^ b) - rot(b, k)) & MASK, a
        return b
    return c
