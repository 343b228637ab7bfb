"""A small file that decodes to a huge frame, or claims to hold very much, is refused before it costs memory."""

from __future__ import annotations

import csv
import os
import struct
import subprocess
import sys
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from support.project import REPOSITORY
from support.video_files import list_videos, numbered_frame, numbered_video, small_params, write_video

from taehv.cli import main
from taehv.config.params import DEFAULT_LIMITS, VideoLimits, load_params
from taehv.config.profiles import load_profile
from taehv.data.decode import probe, read_frames
from taehv.data.prepare import prepare
from taehv.data.video_error import VideoError
from taehv.model.checkpoints import write_state_dict
from taehv.model.init import create_model
from taehv.model.variants import VARIANTS

SIDE = 16000
"""FFmpeg itself refuses frames much larger than this one, of 256 million pixels."""
MIB = 2**20

MEASURE = """
import resource, sys
from pathlib import Path
from taehv.data.decode import probe
from taehv.data.video_error import VideoError
import av, numpy
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    probe(Path(sys.argv[1]))
except VideoError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def flat_png(side: int) -> bytes:
    """A black grey-scale frame, made row by row."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(side + 1)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def png_video(path: Path, frame: bytes, declared: int, frames: int = 1) -> Path:
    """The frame as a video whose container says that its sides are ``declared``."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = declared, declared, "gray"
        for number in range(frames):
            packet = av.Packet(frame)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 25)
            packet.is_keyframe = True
            container.mux(packet)
    return path


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two bombs of 250 kB: one says what it is, one says that its frame is small."""
    folder = tmp_path_factory.mktemp("bombs")
    frame = flat_png(SIDE)
    png_video(folder / "honest.mov", frame, SIDE)
    png_video(folder / "lying.mov", frame, 64)
    return folder


@pytest.mark.parametrize("name", ["honest.mov", "lying.mov"])
def test_a_huge_frame_in_a_small_file_is_refused_before_it_costs_memory(bombs: Path, name: str) -> None:
    assert (bombs / name).stat().st_size < MIB
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", MEASURE, str(bombs / name)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    message, mib = done.stdout.splitlines()
    assert message == f"too large: a frame of {SIDE}x{SIDE} is 256,000,000 pixels, 35,389,440 pixels are allowed"
    assert int(mib) < 100  # the frame alone has 244


def test_bombs_go_to_quarantine_and_the_run_goes_on(
    bombs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("videos").mkdir()
    numbered_video(Path("videos/good.mkv"), 60)
    for bomb in bombs.iterdir():
        Path("videos", bomb.name).write_bytes(bomb.read_bytes())
    list_videos(["good.mkv", "honest.mov", "lying.mov"])
    profile = load_profile("local", REPOSITORY / "profiles").model_copy(update={"workers": 1})
    dataset = prepare(small_params(), profile)
    assert (dataset["videos"], dataset["splits"]["train"]["first_videos"]) == (1, ["good.mkv"])
    with Path("data/quarantine.csv").open(encoding="utf-8") as file:
        assert {row["path"]: row["reason"] for row in csv.DictReader(file)} == {
            "honest.mov": "too large",
            "lying.mov": "too large",
        }


@pytest.mark.parametrize("command", ["reconstruct", "encode"])
def test_the_commands_refuse_a_bomb_and_name_the_option_that_raises_the_limit(
    bombs: Path, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = create_model(VARIANTS["wan2_2"], 1 / 16, "torch_default", seed=0)
    write_state_dict(tmp_path / "model.safetensors", model.state_dict())
    target = tmp_path / ("out.mp4" if command == "reconstruct" else "z.safetensors")
    options = ["--model", str(tmp_path / "model.safetensors")]
    assert main([command, str(bombs / "lying.mov"), str(target), *options]) == 1
    assert "too large: a frame of" in (message := capsys.readouterr().err)
    assert "--max-pixels raises the limit" in message
    small = write_video(tmp_path / "small.mp4", [numbered_frame(0, 48, 64)] * 4, 48, 64)
    assert main([command, str(small), str(target), *options, "--max-pixels", "3071"]) == 1
    assert "64x48 is 3,072 pixels, 3,071 pixels are allowed" in capsys.readouterr().err
    assert not target.exists()
    assert main([command, str(small), str(target), *options, "--max-pixels", "3072"]) == 0


def test_a_frame_that_grows_during_the_video_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "grows.mov"
    small, large = flat_png(64), flat_png(640)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("png", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "gray"
        for number in range(40):
            packet = av.Packet(large if number == 39 else small)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 25)
            container.mux(packet)
    limits = VideoLimits(pixels=64 * 64, frames=100, streams=1)
    with pytest.raises(VideoError, match="too large: a frame of 640x640"):
        list(read_frames(path, probe(path, limits), limits, stride=1, height=64, width=64, stop=40))


def test_more_frames_and_more_streams_than_allowed_are_refused(tmp_path: Path) -> None:
    mp4 = write_video(tmp_path / "a.mp4", [numbered_frame(0, 48, 64)] * 12, 48, 64)
    mkv = numbered_video(tmp_path / "a.mkv", 12)
    for path, words in ((mp4, "the header promises 12 frames, 11 are allowed"), (mkv, "more than 11 frames")):
        with pytest.raises(VideoError, match=f"too large: {words}"):
            probe(path, VideoLimits(pixels=64 * 48, frames=11, streams=1))
        probe(path, VideoLimits(pixels=64 * 48, frames=12, streams=1))
    many = tmp_path / "many.mkv"
    with av.open(str(many), "w") as container:
        streams: list[Any] = [container.add_stream("ffv1", rate=25) for _ in range(5)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for stream in streams:
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = 0, Fraction(1, 25)
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    probe(many, VideoLimits(pixels=64 * 48, frames=12, streams=5))
    with pytest.raises(VideoError, match="too large: 4 streams, 3 are allowed"):
        probe(many, VideoLimits(pixels=64 * 48, frames=12, streams=3))
    with pytest.raises(VideoError, match="too large: 5 streams, 4 are allowed"):
        probe(many, VideoLimits(pixels=64 * 48, frames=12, streams=4))


def test_the_commands_have_the_limits_of_the_shipped_params() -> None:
    assert load_params(REPOSITORY / "params.yaml").data.limits == DEFAULT_LIMITS
