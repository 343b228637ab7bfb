"""Latents of a whole video in one safetensors file, written and read a few at a time.

The file holds one tensor, ``latents`` (T, C, h, w), with the exact values that the variant's diffusion model uses, and
what is needed to make the video again as metadata. Files without metadata (latents from elsewhere) can be read too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from taehv import atomic
from taehv.errors import UserError

NAME = "latents"
HEADER_BYTES = 1024
"""Room for the header, which is written last: only then the number of latents is known."""
_TYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


class LatentFileError(UserError):
    """A file that holds no usable latents."""


@dataclass(frozen=True)
class LatentInfo:
    """What the decoder's user wants to know about the video."""

    variant: str
    frames: int
    height: int
    width: int
    rate: str
    """Frames per second as a fraction."""

    @property
    def frames_per_second(self) -> Fraction:
        return Fraction(self.rate)


@dataclass(frozen=True)
class LatentFile:
    """A file that can be read: latents (T, C, h, w)."""

    path: Path
    shape: tuple[int, int, int, int]
    info: LatentInfo | None

    def batches(self, size: int) -> Iterator[Tensor]:
        """All latents in order, ``size`` at a time: (t, C, h, w)."""
        with safe_open(self.path, framework="pt") as file:
            latents = file.get_slice(NAME)
            for start in range(0, self.shape[0], size):
                yield latents[start : min(start + size, self.shape[0])]


def open_latents(path: Path) -> LatentFile:
    """Look at a file of latents.

    Raises:
        LatentFileError: the file is missing or damaged, or holds something else.
    """
    if not path.is_file():
        raise LatentFileError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            names, metadata = list(file.keys()), file.metadata() or {}
            shape = tuple(file.get_slice(NAME).get_shape()) if NAME in names else ()
    except (OSError, SafetensorError) as error:
        raise LatentFileError(f"{path} cannot be read as safetensors: {error}") from error
    if len(shape) != 4 or 0 in shape:
        found = f"one of shape {shape}" if shape else f"{len(names)} others, such as {names[:3]}"
        raise LatentFileError(f"{path} must hold a tensor '{NAME}' of shape (T, C, h, w); it holds {found}")
    return LatentFile(path, shape, _parse_info(metadata, path) if metadata else None)


def _parse_info(metadata: Mapping[str, str], path: Path) -> LatentInfo:
    try:
        info = LatentInfo(
            variant=metadata["variant"],
            frames=int(metadata["frames"]),
            height=int(metadata["height"]),
            width=int(metadata["width"]),
            rate=_parse_rate(metadata["rate"]),
        )
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise LatentFileError(f"the metadata of {path} is not what `taehv encode` writes: {error!r}") from error
    return info


def _parse_rate(text: str) -> str:
    # Not any text that Fraction takes: 1e999999999 would keep it busy for hours.
    if not re.fullmatch(r"[0-9]{1,9}(/[0-9]{1,9})?", text) or Fraction(text) <= 0:
        raise ValueError(f"the rate must be a positive fraction, got {text[:40]!r}")
    return str(Fraction(text))


class LatentWriter:
    """Takes latents (t, C, h, w), t >= 0."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._count = 0
        self._rest: tuple[int, ...] = ()
        self._dtype = torch.float32
        file.write(b" " * HEADER_BYTES)

    def write(self, latents: Tensor) -> None:
        """The next latents."""
        self._count += latents.shape[0]
        self._rest, self._dtype = tuple(latents.shape[1:]), latents.dtype
        # As bytes: numpy has no bfloat16.
        self._file.write(latents.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())

    def finish(self, info: LatentInfo) -> None:
        """Write the header, which says what the bytes are."""
        size = self._file.tell() - HEADER_BYTES
        tensor = {"dtype": _TYPE_NAMES[self._dtype], "shape": [self._count, *self._rest], "data_offsets": [0, size]}
        metadata = {name: str(value) for name, value in asdict(info).items()}
        header = json.dumps({"__metadata__": metadata, NAME: tensor}).encode()
        assert len(header) <= HEADER_BYTES - 8, "the header has fixed room"
        self._file.seek(0)
        self._file.write((HEADER_BYTES - 8).to_bytes(8, "little") + header.ljust(HEADER_BYTES - 8))


@contextmanager
def write_latents(path: Path) -> Iterator[LatentWriter]:
    """A file that appears at ``path`` only when it is complete; the caller must ``finish`` it.

    Raises:
        LatentFileError: the suffix is another, or the file cannot be written.
    """
    if path.suffix != ".safetensors":
        raise LatentFileError(f"{path}: latents are written as .safetensors")
    try:
        with atomic.replacing(path) as partial, partial.open("wb") as file:
            yield LatentWriter(file)
    except OSError as error:
        raise LatentFileError(f"{path} cannot be written: {error.strerror}") from error
