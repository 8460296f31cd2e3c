"""Damage feature files and prompt files as disks and attackers do. A case is a number."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable


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
