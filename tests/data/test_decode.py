from __future__ import annotations

import random
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from support.video_files import (
    HEIGHT,
    WIDTH,
    numbered_frame,
    numbered_video,
    write_audio_only,
    write_mp4,
    write_video,
)

from taehv.data.decode import FewerFramesError, VideoInfo, probe, read_frames
from taehv.data.sources import sample_videos
from taehv.data.video_error import VideoError


def decode_all(path: Path) -> int:
    info = probe(path)
    frames = read_frames(path, info, stride=1, height=info.height, width=info.width, stop=info.frames)
    return sum(1 for _ in frames)


def reason_for(path: Path) -> str:
    with pytest.raises(VideoError) as caught:
        decode_all(path)
    return f"{caught.value.reason}: {caught.value.detail}"


def test_frames_come_in_order_with_their_exact_pixels(tmp_path: Path) -> None:
    path = numbered_video(tmp_path / "a.mkv", 20)
    info = probe(path)
    assert info == VideoInfo(frames=20, height=HEIGHT, width=WIDTH, rate=Fraction(25))
    frames = list(read_frames(path, info, stride=3, height=HEIGHT, width=WIDTH, stop=7))
    expected = [numbered_frame(number, HEIGHT, WIDTH) for number in (0, 3, 6, 9, 12, 15, 18)]
    np.testing.assert_array_equal(frames, expected)


def test_the_sample_videos_are_what_they_should_be() -> None:
    infos = {name: probe(path) for name, path in sample_videos().items()}
    assert infos == {
        "bigbuckbunny.mp4": VideoInfo(132, 720, 1280, Fraction(25)),
        "bikes.mp4": VideoInfo(250, 272, 640, Fraction(25)),
        "carphone_pristine.mp4": VideoInfo(120, 144, 176, Fraction(30000, 1001)),
    }


def test_colours_survive_the_way_through_yuv(tmp_path: Path) -> None:
    colours = [(200, 60, 60), (60, 200, 60), (60, 60, 200), (128, 128, 128), (235, 235, 20)]
    frames = [np.full((HEIGHT, WIDTH, 3), colour, np.uint8) for colour in colours]
    path = write_video(tmp_path / "colours.mp4", frames, HEIGHT, WIDTH)
    decoded = read_frames(path, probe(path), stride=1, height=HEIGHT, width=WIDTH, stop=5)
    for frame, colour in zip(decoded, colours, strict=True):
        assert np.abs(frame.astype(int).mean((0, 1)) - colour).max() < 4


def test_a_scaled_frame_has_the_size_asked_for_and_stays_in_place(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "a.mp4", 4, height=96, width=160)
    (frame,) = read_frames(path, probe(path), stride=1, height=48, width=80, stop=1)
    assert frame.shape == (48, 80, 3)
    original = next(read_frames(path, probe(path), stride=1, height=96, width=160, stop=1)).astype(int)
    halved = original.reshape(48, 2, 80, 2, 3).mean((1, 3))
    difference = np.abs(frame[1:-1, 1:-1] - halved[1:-1, 1:-1])[..., 1]
    assert np.median(difference) < 4


def test_portrait_video_from_a_phone_is_turned_upright(tmp_path: Path) -> None:
    upright, lying = tmp_path / "upright.mp4", tmp_path / "lying.mp4"
    data = write_mp4(upright, 4).read_bytes()
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    clockwise = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, HEIGHT << 16, 0, 1 << 30)
    track_header = data.index(identity, data.index(b"tkhd"))
    lying.write_bytes(data[:track_header] + clockwise + data[track_header + len(identity) :])
    info = probe(lying)
    assert (info.height, info.width) == (WIDTH, HEIGHT)
    turned = next(read_frames(lying, info, stride=1, height=WIDTH, width=HEIGHT, stop=1))
    stored = next(read_frames(upright, probe(upright), stride=1, height=HEIGHT, width=WIDTH, stop=1))
    np.testing.assert_array_equal(turned, np.rot90(stored, -1))


def test_a_file_cut_off_before_its_table_of_contents_is_corrupt(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "cut.mp4", 30)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert reason_for(path).startswith("corrupt: it cannot be opened")


def test_a_file_cut_off_after_its_table_of_contents_is_truncated_with_both_counts(tmp_path: Path) -> None:
    path = write_mp4(tmp_path / "cut.mp4", 30, index_first=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    reason = reason_for(path)
    assert reason.startswith("truncated: its index lists 30 frames, ")
    assert reason.endswith(" can be read")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("zero.mp4", b"", "corrupt: it cannot be opened"),
        ("text.mp4", b"this is not a video\n" * 200, "corrupt: it cannot be opened"),
        ("playlist.mp4", b"#EXTM3U\n#EXTINF:10,\n/etc/hostname\n", "corrupt: it cannot be opened"),
        ("concat.mp4", b"ffconcat version 1.0\nfile good.mkv\n", "unsupported: it is not a supported container"),
    ],
)
def test_what_is_not_a_video_is_refused_whatever_its_suffix(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    numbered_video(tmp_path / "good.mkv", 3)
    path = tmp_path / name
    path.write_bytes(content)
    assert reason_for(path).startswith(reason)


def test_audio_without_frames_is_named_as_such(tmp_path: Path) -> None:
    path = write_audio_only(tmp_path / "audio.mp4")
    assert reason_for(path) == "no video stream: streams in the file: audio"


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes_in_the_frames_are_an_error_and_never_painted_over(tmp_path: Path, seed: int) -> None:
    data = bytearray(sample_videos()["bikes.mp4"].read_bytes())
    generator = random.Random(seed)
    for _ in range(20):
        data[generator.randrange(len(data) // 4, len(data) * 3 // 4)] ^= 0xFF
    path = tmp_path / "flipped.mp4"
    path.write_bytes(bytes(data))
    assert reason_for(path).startswith("corrupt: frame ")


def test_a_video_without_a_promised_length_that_ends_early_says_how_many_frames_it_has(tmp_path: Path) -> None:
    path = numbered_video(tmp_path / "a.mkv", 9)
    believed = VideoInfo(frames=12, height=HEIGHT, width=WIDTH)
    with pytest.raises(FewerFramesError) as caught:
        list(read_frames(path, believed, stride=1, height=HEIGHT, width=WIDTH, stop=12))
    assert caught.value.frames == 9
