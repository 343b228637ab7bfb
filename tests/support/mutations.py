"""Damage to files that can be repeated: a pure function of the bytes and a number."""

from __future__ import annotations

import random


def mutate(data: bytes, seed: int) -> bytes:
    """The file with one to three kinds of damage."""
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 3)):
        data = rng.choice(KINDS)(data, rng)
    return data


def _flip_bits(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 4, 64])):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _duplicate(data: bytes, rng: random.Random) -> bytes:
    start, size = _block(data, rng)
    return data[: start + size] + data[start:]


def _delete(data: bytes, rng: random.Random) -> bytes:
    start, size = _block(data, rng)
    return data[:start] + data[start + size :]


def _insert(data: bytes, rng: random.Random) -> bytes:
    start, size = _block(data, rng)
    return data[:start] + rng.randbytes(min(size, 4096)) + data[start:]


def _edit_header(data: bytes, rng: random.Random) -> bytes:
    """Another number of 1, 2, 4 or 8 bytes near the start or the end, where sizes and counts are."""
    changed, size = bytearray(data), rng.choice([1, 2, 4, 8])
    if len(changed) < size:
        return data
    near = rng.randrange(min(1024, len(changed) - size + 1))
    place = near if rng.random() < 0.5 else len(changed) - size - near
    top = (1 << 8 * size) - 1
    value = rng.choice([0, 1, top, top >> 1, (top >> 1) + 1, rng.randint(0, top)])
    changed[place : place + size] = value.to_bytes(size, "big")
    return bytes(changed)


def _block(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(rng.choice([1, 16, 512, 16384]), len(data) - start)


KINDS = (_flip_bits, _truncate, _duplicate, _delete, _insert, _edit_header)
