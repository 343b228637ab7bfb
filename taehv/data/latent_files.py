"""Latents of a whole video in one safetensors file, written and read a few at a time.

The file holds one tensor, ``latents`` (T, C, h, w), with the exact values that the variant's diffusion model uses, and
what is needed to make the video again as metadata. Where the frame rate varies, a second tensor, ``frame_ticks``
(frames + 1,), has the time of each frame. Files without that metadata (latents from elsewhere) can be read too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from taehv.data.variable_rate import LARGEST_TERM, VariableRate
from taehv.runtime import atomic_files
from taehv.runtime.errors import UserError
from taehv.runtime.user_files import regular_file

NAME = "latents"
TICKS = "frame_ticks"
CLOCK = "clock"
"""Metadata: seconds per tick, as a fraction."""
_MOST_TICKS = 2**53
HEADER_BYTES = 1024
"""Room for the header, which is written last: only then the number of latents is known."""
_TYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
READABLE_TYPES = (*_TYPE_NAMES.values(), "F64", "F8_E4M3", "F8_E5M2")
"""Of safetensors' types, those whose every bit pattern is one number that the decoder can take."""


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
    """None where the file does not say it: latents from elsewhere."""
    times: VariableRate | None
    """When each frame is shown, where the rate varies."""

    def batches(self, size: int) -> Iterator[Tensor]:
        """All latents in order, ``size`` at a time: (t, C, h, w).

        Raises:
            LatentFileError: they are not finite.
        """
        with safe_open(self.path, framework="pt") as file:
            latents = file.get_slice(NAME)
            for start in range(0, self.shape[0], size):
                batch = latents[start : min(start + size, self.shape[0])]
                if not torch.isfinite(batch.float()).all():
                    raise LatentFileError(f"{self.path}: latents {start} and following hold NaN or infinity")
                yield batch


def open_latents(path: Path) -> LatentFile:
    """Look at a file of latents.

    Raises:
        LatentFileError: the file is missing or damaged, or holds something else.
    """
    regular_file(path, LatentFileError)
    try:
        with safe_open(path, framework="pt") as file:
            names, metadata = list(file.keys()), file.metadata() or {}
            found = file.get_slice(NAME) if NAME in names else None
            shape, kind = (tuple(found.get_shape()), str(found.get_dtype())) if found else ((), "")
            ticks = file.get_tensor(TICKS) if TICKS in names and CLOCK in metadata else None
    except (OSError, SafetensorError) as error:
        raise LatentFileError(f"{path} cannot be read as safetensors: {error}") from error
    if len(shape) != 4 or 0 in shape:
        there = f"one of shape {shape}" if shape else f"{len(names)} others, such as {names[:3]}"
        raise LatentFileError(f"{path} must hold a tensor '{NAME}' of shape (T, C, h, w); it holds {there}")
    if kind not in READABLE_TYPES:
        raise LatentFileError(
            f"{path} holds latents of type {kind}; latents are floating-point numbers ({', '.join(READABLE_TYPES)})"
        )
    info = _parse_info(metadata, path)
    return LatentFile(path, shape, info, _parse_times(ticks, metadata[CLOCK], path) if ticks is not None else None)


def _parse_info(metadata: Mapping[str, str], path: Path) -> LatentInfo | None:
    """What `taehv encode` noted; None where nothing of it is there (other programs note the format, for example)."""
    wanted = [field.name for field in fields(LatentInfo)]
    missing = [name for name in wanted if name not in metadata]
    if missing == wanted:
        return None
    if missing:
        raise LatentFileError(
            f"the metadata of {path} is not what `taehv encode` writes: {', '.join(missing)} missing. Encode the video "
            "again, or take the metadata out"
        )
    try:
        info = LatentInfo(
            variant=metadata["variant"],
            frames=int(metadata["frames"]),
            height=int(metadata["height"]),
            width=int(metadata["width"]),
            rate=str(parse_rate(metadata["rate"])),
        )
    except ValueError as error:
        raise LatentFileError(f"the metadata of {path} is not what `taehv encode` writes: {error}") from error
    return info


def _parse_times(ticks: Tensor, clock: str, path: Path) -> VariableRate:
    try:
        if ticks.dtype != torch.int64 or ticks.ndim != 1 or len(ticks) < 2 or int(ticks[0]) != 0:
            raise ValueError(f"{TICKS} must be integers from 0 on, one more than frames")
        if not bool((ticks.diff() > 0).all()) or int(ticks[-1]) > _MOST_TICKS:
            raise ValueError(f"{TICKS} must rise, and stay below 2^53")
        return VariableRate(parse_rate(clock), ticks.numpy().astype(np.int64))
    except ValueError as error:
        raise LatentFileError(f"the frame times of {path} are not what `taehv encode` writes: {error}") from error


def parse_rate(text: str) -> Fraction:
    """A positive fraction or decimal number with terms below 2^31, as FFmpeg's are.

    Not any text that Fraction takes: 1e999999999 would keep it busy for hours.

    Raises:
        ValueError: the text is something else.
    """
    if re.fullmatch(r"[0-9]{1,10}(/0*[1-9][0-9]{0,9}|\.[0-9]{1,9})?", text):
        rate = Fraction(text)
        if rate > 0 and max(rate.numerator, rate.denominator) <= LARGEST_TERM:
            return rate
    raise ValueError(f"must be a positive number or fraction of numbers below 2^31, got {text[:40]!r}")


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

    def finish(self, info: LatentInfo, times: VariableRate | None = None) -> None:
        """Write the header, which says what the bytes are."""
        size = self._file.tell() - HEADER_BYTES
        metadata = {name: str(value) for name, value in asdict(info).items()}
        tensors = {NAME: _described(_TYPE_NAMES[self._dtype], [self._count, *self._rest], 0, size)}
        if times is not None:
            metadata[CLOCK] = str(times.clock)
            data = times.ticks.astype("<i8").tobytes()
            self._file.write(data)
            tensors[TICKS] = _described("I64", [len(times.ticks)], size, size + len(data))
        header = json.dumps({"__metadata__": metadata, **tensors}).encode()
        assert len(header) <= HEADER_BYTES - 8, "the header has fixed room"
        self._file.seek(0)
        self._file.write((HEADER_BYTES - 8).to_bytes(8, "little") + header.ljust(HEADER_BYTES - 8))


def _described(kind: str, shape: Sequence[int], start: int, stop: int) -> dict[str, object]:
    return {"dtype": kind, "shape": list(shape), "data_offsets": [start, stop]}


@contextmanager
def write_latents(path: Path) -> Iterator[LatentWriter]:
    """A file that appears at ``path`` only when it is complete; the caller must ``finish`` it.

    Raises:
        LatentFileError: the suffix is another, or the file cannot be written.
    """
    if path.suffix != ".safetensors":
        raise LatentFileError(f"{path}: latents are written as .safetensors")
    try:
        with atomic_files.replacing(path) as partial, partial.open("wb") as file:
            yield LatentWriter(file)
    except OSError as error:
        raise LatentFileError(f"{path} cannot be written: {error.strerror}") from error
