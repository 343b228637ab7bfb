"""How one clip lies in a shard: a ``.npy`` file whose pixels can be used where they are."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

Clip = npt.NDArray[np.uint8]
"""(T, 3, H, W) RGB in 0..255."""

RAW = "raw"
"""The codec of a ``.npy`` member: the pixels themselves."""
SUFFIXES = {RAW: ".npy"}
"""What the members of each codec are called."""


class MemberError(ValueError):
    """The bytes are not those of the clip."""


@lru_cache(maxsize=16)
def raw_header(shape: Sequence[int]) -> bytes:
    """What stands before the pixels of a raw clip of this shape (a tuple)."""
    header = io.BytesIO()
    facts = {"descr": npy.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": tuple(shape)}
    npy.write_array_header_1_0(header, facts)
    return header.getvalue()


def pixels_of(member: npt.NDArray[np.uint8], codec: str, shape: tuple[int, int, int, int]) -> Clip:
    """The clip in a member's bytes: of a raw one a view, not a copy.

    Raises:
        MemberError: they are not those of a clip of this shape.
    """
    if codec != RAW:
        raise MemberError(f"has a clip of the codec {codec!r}, which this version does not read")
    header = raw_header(shape)
    pixels = member[len(header) :]
    if member[: len(header)].tobytes() != header or len(pixels) != np.prod(shape):
        raise MemberError(f"is damaged: a clip is not uint8 {shape}, as the index says")
    return pixels.reshape(shape)
