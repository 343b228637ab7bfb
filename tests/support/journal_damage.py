"""Ways in which a file on a disk goes wrong."""

from __future__ import annotations

import random
from collections.abc import Callable


def flip_bit(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :]


def overwrite(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content))
    length = min(chance.randrange(1, 400), len(content) - start)
    filling = chance.choice([bytes(length), chance.randbytes(length), b"\n" * length])
    return content[:start] + filling + content[start + length :]


def cut_off(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


def cut_out(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content))
    return content[:start] + content[start + chance.randrange(1, 400) :]


def insert(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content))
    return content[:place] + chance.randbytes(chance.randrange(1, 50)) + content[place:]


def lose_line(content: bytes, chance: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    del lines[chance.randrange(len(lines))]
    return b"".join(lines)


def repeat_line(content: bytes, chance: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    lines.insert(chance.randrange(len(lines)), chance.choice(lines))
    return b"".join(lines)


def change_digit(content: bytes, chance: random.Random) -> bytes:
    """The most treacherous one: still JSON, another number."""
    digits = [place for place, byte in enumerate(content) if chr(byte).isdigit()]
    place = chance.choice(digits)
    return content[:place] + str((int(chr(content[place])) + 1) % 10).encode() + content[place + 1 :]


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flip_bit, overwrite, cut_off, cut_out, insert, lose_line, repeat_line, change_digit,
)  # fmt: skip


def mutate(content: bytes, chance: random.Random) -> bytes:
    """One or two of them."""
    for _ in range(chance.randrange(1, 3)):
        content = chance.choice(MUTATIONS)(content, chance) or content
    return content
