"""Damage bytes as disks, downloads and attackers do."""

from __future__ import annotations

from random import Random


def flip_bit(data: bytes, rng: Random) -> bytes:
    out = bytearray(data)
    out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def set_bytes(data: bytes, rng: Random) -> bytes:
    at, count = rng.randrange(len(data)), rng.choice((1, 4, 8, 64, 512))
    new = rng.choice((b"\0" * count, b"\xff" * count, rng.randbytes(count)))
    return (data[:at] + new + data[at + count :])[: len(data)]


def truncate(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(len(data))]


def move(data: bytes, rng: Random) -> bytes:
    """Drop a few bytes, or put others between, so that all that follow are elsewhere."""
    at = rng.randrange(len(data))
    return data[:at] + rng.choice((b"", b"\n", data[:64])) + data[at + rng.choice((0, 1, 8)) :]


def join(data: bytes, rng: Random) -> bytes:
    other = rng.choice((b"\n", b"\0" * 512, b"\xef\xbb\xbf", data))
    return rng.choice((data + other, other + data))


def damaged(data: bytes, rng: Random) -> bytes:
    """Return the bytes with one to three kinds of damage."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        if data:
            data = rng.choice((flip_bit, set_bytes, truncate, move, join))(data, rng)
    return data
