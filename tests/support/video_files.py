"""Real video files for the tests, and small parameters that fit them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import yaml
from support.project import REPOSITORY

from taehv.config.params import Params, parse_params
from taehv.data.list_videos import describe
from taehv.data.manifest_writer import write_manifest
from taehv.data.sources import FolderFiles

RgbFrame = npt.NDArray[np.uint8]


HEIGHT, WIDTH = 48, 64
"""Size of a numbered video unless another is asked for."""


def numbered_frame(number: int, height: int, width: int) -> RgbFrame:
    """Red is the frame's number, green tells the place: (x + 3 y) mod 256, blue is noise."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(number).integers(0, 256, (height, width))
    return np.stack([np.full((height, width), number), (x + 3 * y) % 256, noise], axis=-1).astype(np.uint8)


def numbered_video(path: Path, frames: int, height: int = HEIGHT, width: int = WIDTH, first: int = 0) -> Path:
    """A lossless video (FFV1 in Matroska) whose pixels tell frame number and place exactly."""
    rgb = (numbered_frame(first + number, height, width) for number in range(frames))
    return write_video(path, rgb, height, width, codec="ffv1", pixels="bgr0")


def write_video(
    path: Path,
    frames: Iterable[RgbFrame],
    height: int,
    width: int,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> Path:
    # Bit-exact: Matroska would get a random id, and a video's split follows from its bytes.
    with av.open(str(path), "w", options={"fflags": "+bitexact"} | (options or {})) as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        for number, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_mp4(path: Path, frames: int, height: int = HEIGHT, width: int = WIDTH, *, index_first: bool = False) -> Path:
    """An H.264 MP4; with ``index_first`` its table of contents comes before the frames."""
    rgb = (numbered_frame(number, height, width) for number in range(frames))
    return write_video(path, rgb, height, width, options={"movflags": "faststart"} if index_first else None)


def write_audio_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def small_params(folder: str = "videos", samples: int = 4, **data: Any) -> Params:
    """The embedded scale shrunk to the numbered videos: canvases of 8 frames x 32 x 48, clips of 4 x 16 x 16."""
    raw = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    raw["data"] |= {"source": "videos", "path": folder}
    scale = raw["scales"][raw["scale"]]
    sizes = {"height": 16, "width": 16, "frames": 4, "canvas_height": 32, "canvas_width": 48, "canvas_frames": 8}
    split = {"train": 0.6, "val": 0.2, "test": 0.2, "guard_frames": 2, "by_video_from": 100}
    scale["data"] |= {**sizes, "frame_stride": 1, "resize": "native", "clips_per_video": 12, "split": split}
    scale["data"]["store"]["shard_mb"] = 0.1  # most videos fill one
    scale["data"]["split"] |= data.pop("split", {})
    scale["data"]["store"] |= data.pop("store", {})
    scale["data"] |= data
    scale["validation"]["samples"] = samples
    scale["seraena"]["group_frames"] = 1
    return parse_params(raw)


def list_videos(names: Sequence[str], folder: Path = Path("videos")) -> None:
    """Write data/manifest for files of the folder."""
    entries = describe(FolderFiles(folder), names)
    write_manifest(Path("data/manifest"), ((entry, {}) for entry in entries), videos=len(entries))
