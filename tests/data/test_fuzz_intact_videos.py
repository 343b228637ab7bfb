"""Hundreds of intact videos with random options, read frame by frame as FFmpeg's own command line tool shows them.

File number n is always the same one, and a failure names n. The tool is the independent reference; where it is not
installed, what the frames themselves say (their number, and which way up they are) is.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.labelled_videos import RgbFrame, copied, edited, key_packets, make_video, number_of

from taehv.data.decode import FewerFramesError, probe, read_frames
from taehv.data.video_error import VideoError

SHORT = range(10)
LONG = [range(first, first + 50) for first in range(0, 200, 50)]
ONE = 1 << 16
ORIENTATIONS = [
    (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    for a, b, c, d in [
        (ONE, 0, 0, ONE), (-ONE, 0, 0, ONE), (ONE, 0, 0, -ONE), (-ONE, 0, 0, -ONE),
        (0, ONE, -ONE, 0), (0, -ONE, ONE, 0), (0, ONE, ONE, 0), (0, -ONE, -ONE, 0),
    ]
]  # fmt: skip
YUV = ["yuv420p", "yuv422p", "yuv444p"]


@dataclass(frozen=True)
class Codec:
    name: str
    containers: tuple[str, ...]
    pixels: tuple[str, ...] = ("yuv420p",)
    b_frames: bool = False
    open_gops: str | None = None
    """The option that makes groups of pictures lean on the ones before."""


CODECS = [
    Codec("libx264", ("mp4", "mov", "mkv", "ts", "flv", "m2ts"), (*YUV, "yuv420p10le"), True, "x264-params"),
    Codec("libx265", ("mp4", "mkv", "ts"), (*YUV, "yuv420p10le"), True, "x265-params"),
    Codec("mpeg2video", ("ts", "mpg", "mkv", "vob"), ("yuv420p", "yuv422p"), True),
    Codec("mpeg1video", ("mpg", "mkv"), b_frames=True),
    Codec("mpeg4", ("mp4", "avi", "mkv", "3gp", "mov"), b_frames=True),
    Codec("libvpx", ("webm", "mkv", "ogv")),
    Codec("libvpx-vp9", ("webm", "mkv", "mp4"), ("yuv420p", "yuv444p")),
    Codec("mjpeg", ("mov", "avi", "mkv"), ("yuvj420p", "yuvj422p", "yuvj444p")),
    Codec("ffv1", ("mkv", "avi"), (*YUV, "yuv420p10le", "gray")),
    Codec("prores", ("mov", "mkv"), ("yuv422p10le",)),
    Codec("huffyuv", ("avi",), ("yuv422p", "rgb24")),
    Codec("wmv2", ("wmv",)),
    Codec("flv", ("flv",)),
    Codec("gif", ("gif",), ("rgb8",)),
    Codec("apng", ("apng",), ("rgb24", "gray")),
]
CUT_IN = ("mp4", "mkv", "ts", "mov")
FORMATS = {"m2ts": "mpegts", "ogv": "ogg", "vob": "vob", "apng": "apng"}


@dataclass(frozen=True)
class Intact:
    """An intact video."""

    path: Path
    what: str
    numbers: list[int] | None
    """Of its frames; None where they are to be shown turned, so that they cannot be read off."""
    is_cut: bool = False
    """Begins at a later key frame: only the last of the numbers are there."""


def intact_video(folder: Path, seed: int) -> Intact:
    """Video number ``seed``."""
    rng = random.Random(seed)
    codec = rng.choice(CODECS)
    container, frames = rng.choice(codec.containers), rng.randint(20, 70)
    made = encoding(rng, codec) | timing(rng, codec, container, frames) | wrapping(rng, container)
    path = make_video(folder / f"{seed}.{container}", frames, **made)
    what = f"{seed}: {container}, {frames} frames, {made}"
    turned = made.get("display", ORIENTATIONS[0]) != ORIENTATIONS[0]
    numbers = None if turned else list(range(frames))
    if container in ("mp4", "mov") and not made["muxer"] and made["rate"] == 25 and "times" not in made:
        if rng.random() < 0.6:
            first = rng.randint(0, frames // 2)
            edits = rng.choice([[(first, frames - first)], [(-1, 5), (0, frames)], [(frames // 2, 10), (0, 10)]])
            shown = [number for start, count in edits if start >= 0 for number in range(start, start + count)]
            return Intact(edited(path, edits), f"{what}, edit list {edits}", None if turned else shown)
    elif container in CUT_IN and "display" not in made and "frag" not in str(made.get("muxer")) and rng.random() < 0.5:
        keys = key_packets(path)
        start = keys[len(keys) // 3]
        path = copied(path, folder / f"{seed} cut.{container}", first=start)
        return Intact(path, f"{what}, cut at packet {start}", numbers, is_cut=True)
    return Intact(path, what, numbers)


def encoding(rng: random.Random, codec: Codec) -> dict[str, Any]:
    """Codec, pixel format, size and the encoder's options, at qualities that leave the numbers readable."""
    options = {"g": str(rng.choice([1, 5, 12, 30]))}
    if codec.name.startswith("mpeg") or codec.name in ("wmv2", "flv", "mjpeg"):
        options |= {"qmin": "2", "qmax": "6"}
    if codec.b_frames:
        options["bf"] = str(rng.randint(0, 3))
    if codec.name.startswith("libvpx"):
        options |= {"b": "1M", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "8"}
        options["auto-alt-ref"] = str(rng.randint(0, 1))
    if codec.open_gops:
        options |= {"crf": "16", "preset": rng.choice(["ultrafast", "medium"])}
        quiet = ["log-level=none"] * (codec.name == "libx265")
        options[codec.open_gops] = ":".join([f"open-gop={rng.randint(0, 1)}", "scenecut=0", *quiet])
    size = rng.choice([(80, 112), (64, 176), (96, 96), (72, 98), (80, 134)])
    return {"codec": codec.name, "pixels": rng.choice(codec.pixels), "size": size, "options": options}


def timing(rng: random.Random, codec: Codec, container: str, frames: int) -> dict[str, Any]:
    """A rate, or times of their own for each frame."""
    rates = [Fraction(25), Fraction(24000, 1001), Fraction(30), Fraction(50)]
    if codec.name.startswith("mpeg1") or codec.name.startswith("mpeg2") or container not in ("mp4", "mov", "mkv"):
        return {"rate": rng.choice(rates)}
    if rng.random() < 0.7:
        return {"rate": rng.choice([*rates, Fraction(15)])}
    steps = [rng.choice([10, 33, 40, 41, 200]) for _ in range(frames)]
    return {"rate": 25, "times": list(accumulate(steps)), "time_base": Fraction(1, 1000)}


def wrapping(rng: random.Random, container: str) -> dict[str, Any]:
    """The muxer, its options, and which way up the frames are to be shown."""
    made: dict[str, Any] = {"format": FORMATS.get(container), "muxer": {}}
    if container == "m2ts":
        made["muxer"] = {"mpegts_m2ts_mode": "1"}
    if container in ("mp4", "mov"):
        made["muxer"] = rng.choice([{}, {}, {"movflags": "faststart"}, {"movflags": "frag_keyframe+empty_moov"}])
        if rng.random() < 0.5:
            made["display"] = rng.choice(ORIENTATIONS)
    return made


def read(path: Path) -> list[RgbFrame]:
    info = probe(path)
    frames = read_frames(path, info, stride=1, height=info.height, width=info.width, stop=info.frames)
    return list(until_the_end(frames))


def until_the_end(frames: Iterator[RgbFrame]) -> Iterator[RgbFrame]:
    try:
        yield from frames
    except FewerFramesError:
        return


def reference(tool: str, path: Path, height: int, width: int) -> list[RgbFrame]:
    """All frames as FFmpeg's tool shows them."""
    scaler = "bicubic+accurate_rnd+full_chroma_int+bitexact"
    command = [tool, "-v", "error", "-threads", "1", "-i", f"file:{path}", "-map", "0:v:0", "-vsync", "passthrough",
               "-vf", f"setfield=prog,scale=flags={scaler}", "-sws_flags", scaler,
               "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]  # fmt: skip
    data = subprocess.run(command, capture_output=True, check=True, timeout=120).stdout
    return list(np.frombuffer(data, np.uint8).reshape(-1, height, width, 3))


def difference_from(tool: str, intact: Intact) -> str | None:
    """What is wrong with what is read, compared with what FFmpeg's tool shows."""
    try:
        frames = read(intact.path)
    except VideoError as error:
        return f"refused: {error}"
    expected = reference(tool, intact.path, *frames[0].shape[:2])
    if len(frames) != len(expected):
        return f"{len(frames)} frames, not {len(expected)}"
    for number, (ours, theirs) in enumerate(zip(frames, expected, strict=True)):
        levels = np.abs(ours.astype(int) - theirs)
        # Another version's decoder and scaler may round otherwise; a wrong frame is far off.
        if levels.mean() > 1.5 or np.quantile(levels, 0.95) > 8:
            return f"frame {number} is {levels.mean():.1f} levels off"
    return None


@pytest.mark.soak
@pytest.mark.parametrize("seeds", LONG)
def test_intact_videos_are_read_as_ffmpeg_shows_them(tmp_path: Path, seeds: range) -> None:
    tool = shutil.which("ffmpeg")
    if tool is None:
        pytest.skip("FFmpeg's command line tool, the reference, is not installed")
    wrong = []
    for seed in seeds:
        intact = intact_video(tmp_path, seed)
        problem = difference_from(tool, intact)
        if problem:
            wrong.append(f"{problem}: {intact.what}")
        intact.path.unlink()
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("seed", SHORT)
def test_intact_videos_show_their_own_numbers(tmp_path: Path, seed: int) -> None:
    intact = intact_video(tmp_path, seed)
    shown = [number_of(frame) for frame in read(intact.path)]
    if intact.numbers is None:
        assert len(shown) >= 20, intact.what
    elif intact.is_cut:
        assert len(shown) >= len(intact.numbers) // 3, intact.what
        assert shown == intact.numbers[-len(shown) :], intact.what
    else:
        assert shown == intact.numbers, intact.what
