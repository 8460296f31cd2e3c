"""Damage to feature files and prompt files: what disks, links and strangers do to bytes. A case is a number."""

from __future__ import annotations

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
    """A run of bytes becomes zeros, ones, noise or a large number."""
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
    """The beginning of one file and the rest of another, or a piece of another in the middle."""
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


def mutated(seeds: list[bytes], case: int) -> tuple[bytes, int]:
    """Case `case`: one to three pieces of damage to one of the seeds, and the seed's number."""
    rng = random.Random(case)
    number = rng.randrange(len(seeds))
    data = seeds[number]
    for _ in range(rng.choice((1, 1, 2, 3))):
        if data:
            data = rng.choice(MUTATIONS)(data, rng, seeds)
    return data, number


def resigned(seeds: list[bytes], case: int) -> tuple[bytes, int]:
    """As `mutated`, by a stranger who repairs HDF5's own checksums, so that the damage reaches its parsers."""
    rng = random.Random(case)
    number = rng.randrange(len(seeds))
    out = bytearray(seeds[number])
    blocks = checked_blocks(seeds[number])
    for _ in range(rng.choice((1, 1, 2, 4))):
        start, end = rng.choice(blocks)
        at = rng.randrange(start, end)
        if rng.random() < 0.5:
            out[at] ^= 1 << rng.randrange(8)
        else:
            new = rng.choice(
                (
                    b"\0",
                    b"\xff",
                    rng.randbytes(1),
                    struct.pack("<I", 1 << rng.randrange(32)),
                    b"\xff" * 8,
                )
            )
            new = new[: end - at]
            out[at : at + len(new)] = new
        out[end : end + 4] = struct.pack("<I", lookup3(bytes(out[start:end])))
    return bytes(out), number


def checked_blocks(data: bytes) -> list[tuple[int, int]]:
    """Where the blocks of metadata that end in a checksum lie in a file: found by the checksums themselves."""
    found = [(0, 44)]
    for signature in (b"OHDR", b"OCHK", b"FAHD", b"FADB", b"FRHP", b"FHDB", b"BTHD", b"BTLF"):
        at = data.find(signature)
        while at >= 0:
            limit = min(len(data) - 4, at + 70_000)
            end = next(
                (e for e in _ends(data, at, signature) if e <= limit and _checked(data, at, e)),
                None,
            )
            if end is not None:
                found.append((at, end))
            at = data.find(signature, at + 1)
    return found


def _ends(data: bytes, at: int, signature: bytes) -> range | list[int]:
    if signature == b"OHDR":  # version, flags, times and phase change if flagged, size of chunk 0
        flags = data[at + 5]
        head = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        return [at + head + width + int.from_bytes(data[at + head : at + head + width], "little")]
    return range(at + 8, min(len(data) - 4, at + 700))


def _checked(data: bytes, start: int, end: int) -> bool:
    return lookup3(data[start:end]) == struct.unpack_from("<I", data, end)[0]


def lookup3(data: bytes) -> int:
    """Jenkins's lookup3 with initial value 0, the checksum of HDF5's metadata."""
    a = b = c = (0xDEADBEEF + len(data)) & MASK
    rot = lambda x, k: ((x << k) | (x >> (32 - k))) & MASK
    at, left = 0, len(data)
    while left > 12:
        x, y, z = struct.unpack_from("<III", data, at)
        a, b, c = (a + x) & MASK, (b + y) & MASK, (c + z) & MASK
        a = ((a - c) & MASK) ^ rot(c, 4)
        c = (c + b) & MASK
        b = ((b - a) & MASK) ^ rot(a, 6)
        a = (a + c) & MASK
        c = ((c - b) & MASK) ^ rot(b, 8)
        b = (b + a) & MASK
        a = ((a - c) & MASK) ^ rot(c, 16)
        c = (c + b) & MASK
        b = ((b - a) & MASK) ^ rot(a, 19)
        a = (a + c) & MASK
        c = ((c - b) & MASK) ^ rot(b, 4)
        b = (b + a) & MASK
        at, left = at + 12, left - 12
    if left:
        x, y, z = struct.unpack("<III", data[at:].ljust(12, b"\0"))
        a, b, c = (a + x) & MASK, (b + y) & MASK, (c + z) & MASK
        c = ((c ^ b) - rot(b, 14)) & MASK
        a = ((a ^ c) - rot(c, 11)) & MASK
        b = ((b ^ a) - rot(a, 25)) & MASK
        c = ((c ^ b) - rot(b, 16)) & MASK
        a = ((a ^ c) - rot(c, 4)) & MASK
        b = ((b ^ a) - rot(a, 14)) & MASK
        c = ((c ^ b) - rot(b, 24)) & MASK
    return c
