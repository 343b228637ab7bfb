"""What is intact is used, frame by frame; what is damaged is left out: a table of both, over containers and codecs."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from support.labelled_videos import copied, edited, key_packets, make_video, number_of

from taehv.data.decode import FewerFramesError, probe, read_frames
from taehv.data.video_error import VideoError

FRAMES = 30
X265 = {"x265-params": "log-level=none"}
VP8 = {"b": "300k", "deadline": "realtime", "cpu-used": "8"}

PLAIN: Mapping[str, Mapping[str, Any]] = {
    "a.mp4": {},
    "index first.mp4": {"muxer": {"movflags": "faststart"}},
    "fragments.mp4": {"muxer": {"movflags": "frag_keyframe+empty_moov"}, "options": {"g": "12"}},
    "hevc.mp4": {"codec": "libx265", "options": X265, "muxer": {"movflags": "faststart"}},
    "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "12", "crf": "10"}, "muxer": {"movflags": "faststart"}},
    "mjpeg.mov": {"codec": "mjpeg", "pixels": "yuvj420p", "muxer": {"movflags": "faststart"}},
    "prores.mov": {"codec": "prores", "pixels": "yuv422p10le", "muxer": {"movflags": "faststart"}},
    "animation.mov": {"codec": "qtrle", "pixels": "rgb24", "muxer": {"movflags": "faststart"}},
    "a.3gp": {"codec": "mpeg4", "muxer": {"movflags": "faststart"}},
    "a.mkv": {},
    "live.mkv": {"muxer": {"live": "1"}},
    "index first.mkv": {"muxer": {"cues_to_front": "1", "reserve_index_space": "1000"}},
    "ffv1.mkv": {"codec": "ffv1", "pixels": "yuv444p"},
    "10 bits.mkv": {"codec": "libx265", "pixels": "yuv420p10le", "options": X265},
    "vp8.webm": {"codec": "libvpx", "options": VP8},
    "vp9.webm": {"codec": "libvpx-vp9", "options": VP8},
    "hidden frames.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "12", "b": "300k"}},
    "mpeg4.avi": {"codec": "mpeg4"},
    "h264.avi": {"options": {"bf": "0"}},
    "huffyuv.avi": {"codec": "huffyuv", "pixels": "yuv422p"},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj422p"},
    "h264.ts": {},
    "mpeg2.ts": {"codec": "mpeg2video", "options": {"bf": "2"}},
    "blu-ray.m2ts": {"format": "mpegts", "muxer": {"mpegts_m2ts_mode": "1"}},
    "mpeg1.mpg": {"codec": "mpeg1video"},
    "mpeg2.vob": {"codec": "mpeg2video", "format": "vob"},
    "vp8.ogv": {"codec": "libvpx", "options": VP8, "format": "ogg"},
    "h264.flv": {},
    "sorenson.flv": {"codec": "flv"},
    "wmv2.wmv": {"codec": "wmv2"},
    "a.gif": {"codec": "gif", "pixels": "rgb8"},
    "a.apng": {"codec": "apng", "pixels": "rgb24", "format": "apng"},
}
Made = tuple[Path, list[int]]
"""A file, and the numbers of the frames that are in it."""


def read(path: Path) -> list[int]:
    """The numbers of all frames, as prepare_data and the commands read them."""
    info = probe(path)
    frames = read_frames(path, info, stride=1, height=info.height, width=info.width, stop=info.frames)
    numbers = []
    try:
        for frame in frames:
            numbers.append(number_of(frame))
    except FewerFramesError as error:
        assert error.frames == len(numbers)
    return numbers


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The plain videos by name, each made once."""
    folder = tmp_path_factory.mktemp("plain")

    def made(name: str) -> Path:
        path = folder / name
        return path if path.exists() else make_video(path, FRAMES, **PLAIN[name])

    return made


@pytest.mark.parametrize("name", PLAIN)
def test_videos_of_all_containers_are_read_whole(plain: Callable[[str], Path], name: str) -> None:
    assert read(plain(name)) == list(range(FRAMES))


def edit_list(folder: Path) -> Made:
    return edited(make_video(folder / "a.mp4", 60), [(30, 30)]), list(range(30, 60))


def swapped_edits(folder: Path) -> Made:
    path = edited(make_video(folder / "a.mp4", 60, options={"bf": "0"}), [(36, 12), (0, 12)])
    return path, [*range(36, 48), *range(12)]


def pause_first(folder: Path) -> Made:
    return edited(make_video(folder / "a.mp4", FRAMES), [(-1, 10), (0, FRAMES)]), list(range(FRAMES))


def empty_chunks(folder: Path) -> Made:
    times = [number + (number >= 10) * 3 + (number >= 20) * 5 for number in range(FRAMES)]
    path = make_video(folder / "a.avi", FRAMES, codec="mpeg4", times=times)
    assert path.read_bytes().count(b"00dc\0\0\0\0") >= 8
    return path, list(range(FRAMES))


def empty_sample(folder: Path) -> Made:
    path = make_video(folder / "a.mov", FRAMES, codec="mjpeg", pixels="yuvj420p")
    data = bytearray(path.read_bytes())
    last = data.index(b"stsz") + 12 + 4 * (FRAMES + 1) - 4
    data[last : last + 4] = bytes(4)
    path.write_bytes(bytes(data))
    return path, list(range(FRAMES - 1))


def one_time_too_many(folder: Path) -> Made:
    path = make_video(folder / "a.mp4", FRAMES)
    data = bytearray(path.read_bytes())
    place = data.index(b"stts") + 12
    assert struct.unpack(">I", data[place : place + 4]) == (FRAMES,)
    data[place : place + 4] = struct.pack(">I", FRAMES + 1)
    path.write_bytes(bytes(data))
    return path, list(range(FRAMES))


def cut_in_open_gops(codec: str, target: str, **options: str) -> Callable[[Path], Made]:
    """From the second key frame on; its leading pictures lean on what is gone."""

    def make(folder: Path) -> Made:
        whole = make_video(folder / f"whole{Path(target).suffix}", 60, codec=codec, options=options)
        first = key_packets(whole)[1]
        with_leading = copied(whole, folder / target, first=first)
        numbers = read(whole)
        assert numbers == list(range(60))
        shown = read(with_leading)
        return with_leading, list(range(shown[0], 60))

    return make


def short_sei(folder: Path) -> Made:
    path = make_video(folder / "a.mp4", FRAMES)
    data = bytearray(path.read_bytes())
    size = data.index(b"\x06\x05\xff\xff") + 4
    data[size] = min(data[size] + 60, 254)
    path.write_bytes(bytes(data))
    return path, list(range(FRAMES))


def in_the_middle_of_a_broadcast(codec: str) -> Callable[[Path], Made]:
    """A transport stream that begins anywhere: players show it from the first key frame on."""

    def make(folder: Path) -> Made:
        path = make_video(folder / "a.ts", 60, codec=codec, options={"g": "12", "bf": "0"})
        data = path.read_bytes()
        path.write_bytes(data[188 * (len(data) // 188 // 4) :])
        shown = read(path)
        return path, list(range(shown[0], 60))

    return make


def varying_rate(folder: Path) -> Made:
    times = [number * 40 + (number % 7) * 5 for number in range(FRAMES)]
    return make_video(folder / "a.mkv", FRAMES, times=times, time_base=Fraction(1, 1000)), list(range(FRAMES))


def zeros_behind(folder: Path) -> Made:
    path = make_video(folder / "a.mp4", FRAMES)
    path.write_bytes(path.read_bytes() + bytes(5000))
    return path, list(range(FRAMES))


OPEN_GOPS = "open-gop=1:keyint=20:bframes=3:scenecut=0"
OPEN_X264, OPEN_X265 = {"x264-params": OPEN_GOPS}, {"x265-params": f"log-level=none:{OPEN_GOPS}"}

STRANGE: Mapping[str, Callable[[Path], Made]] = {
    "an edit list that shows the second half": edit_list,
    "edits in another order": swapped_edits,
    "an edit list that begins with a pause": pause_first,
    "AVI with empty chunks": empty_chunks,
    "MOV with an empty sample": empty_sample,
    "one sample time too many": one_time_too_many,
    "H.264 cut in open GOPs, MP4": cut_in_open_gops("libx264", "cut.mp4", **OPEN_X264),
    "H.264 cut in open GOPs, Matroska": cut_in_open_gops("libx264", "cut.mkv", **OPEN_X264),
    "H.264 cut in open GOPs, TS": cut_in_open_gops("libx264", "cut.ts", **OPEN_X264),
    "HEVC with leading pictures, MP4": cut_in_open_gops("libx265", "cut.mp4", **OPEN_X265),
    "HEVC with leading pictures, TS": cut_in_open_gops("libx265", "cut.ts", **OPEN_X265),
    "MPEG-2 cut in open GOPs": cut_in_open_gops("mpeg2video", "cut.ts", g="15", bf="2"),
    "a short SEI": short_sei,
    "MPEG-2 TS from the middle": in_the_middle_of_a_broadcast("mpeg2video"),
    "H.264 TS from the middle": in_the_middle_of_a_broadcast("libx264"),
    "a rate that varies": varying_rate,
    "zeros behind the end": zeros_behind,
}


@pytest.mark.parametrize("kind", STRANGE)
def test_strange_but_intact_videos_are_used(tmp_path: Path, kind: str) -> None:
    path, numbers = STRANGE[kind](tmp_path)
    assert len(numbers) >= 20
    assert read(path) == numbers


def assert_damaged(path: Path) -> None:
    with pytest.raises(VideoError) as caught:
        read(path)
    assert caught.value.reason in ("corrupt", "truncated")


@pytest.mark.parametrize("name", PLAIN)
def test_a_video_of_any_container_that_is_cut_off_is_left_out(
    plain: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    data = plain(name).read_bytes()
    for percent in (40, 60):
        path = tmp_path / name
        path.write_bytes(data[: len(data) * percent // 100])
        assert_damaged(path)


CHECKED = ["a.mp4", "index first.mp4", "fragments.mp4", "hevc.mp4", "av1.mp4", "animation.mov", "a.mkv", "ffv1.mkv",
           "mpeg4.avi", "h264.avi", "h264.ts", "mpeg2.ts", "blu-ray.m2ts", "mpeg1.mpg", "mpeg2.vob", "h264.flv",
           "sorenson.flv", "wmv2.wmv", "a.gif", "a.apng", "vp8.ogv"]  # fmt: skip
"""Codecs or containers in which damage can be told from data; VP8 and VP9 alone have nothing to check."""


@pytest.mark.parametrize("name", CHECKED)
def test_a_video_with_a_hole_in_the_middle_is_left_out(plain: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    data = bytearray(plain(name).read_bytes())
    # In a transport stream most of so small a video is padding: the hole must be wider than that.
    first, last = len(data) * 6 // 10, len(data) * 8 // 10
    data[first:last] = bytes(byte ^ 0x5A for byte in data[first:last])
    path = tmp_path / name
    path.write_bytes(bytes(data))
    assert_damaged(path)
