"""Frames as players show them: orientation, HDR, interlacing and colours, against values computed here."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from support.labelled_videos import HEIGHT, WIDTH, RgbFrame, corners_of, labelled_frame, make_video, number_of
from support.video_files import write_video

from taehv.cli import main
from taehv.config.params import DEFAULT_LIMITS, NO_CONVERSIONS, Conversions
from taehv.data.decode import probe, read_frames
from taehv.data.interlacing import combed_share
from taehv.data.sources import sample_videos
from taehv.data.tone_map import tone_mapped
from taehv.data.video_error import VideoError

ONE = 1 << 16
TONEMAP = Conversions(hdr="tonemap")
DEINTERLACE = Conversions(interlaced="deinterlace")


def frames_of(path: Path, conversions: Conversions = NO_CONVERSIONS, scale: int = 1) -> list[RgbFrame]:
    info = probe(path, conversions=conversions)
    height, width = info.height // scale, info.width // scale
    frames = read_frames(path, info, conversions=conversions, stride=1, height=height, width=width, stop=info.frames)
    return list(frames)


def reason_for(path: Path, conversions: Conversions = NO_CONVERSIONS) -> str:
    with pytest.raises(VideoError) as caught:
        frames_of(path, conversions)
    return str(caught.value)


@pytest.mark.parametrize(
    ("matrix", "corners"),
    [
        ((ONE, 0, 0, ONE), ("red", "green", "blue", "yellow")),
        ((-ONE, 0, 0, ONE), ("green", "red", "yellow", "blue")),
        ((ONE, 0, 0, -ONE), ("blue", "yellow", "red", "green")),
        ((-ONE, 0, 0, -ONE), ("yellow", "blue", "green", "red")),
        ((0, ONE, -ONE, 0), ("blue", "red", "yellow", "green")),  # a quarter turn clockwise
        ((0, -ONE, ONE, 0), ("green", "yellow", "red", "blue")),
        ((0, ONE, ONE, 0), ("red", "blue", "green", "yellow")),
        ((0, -ONE, -ONE, 0), ("yellow", "green", "blue", "red")),
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_all_eight_orientations_are_shown_as_the_display_matrix_asks(
    tmp_path: Path, matrix: tuple[int, int, int, int], corners: tuple[str, ...], suffix: str
) -> None:
    a, b, c, d = matrix
    path = make_video(tmp_path / f"a{suffix}", 3, display=(a, b, 0, c, d, 0, 0, 0, 1 << 30))
    info = probe(path)
    assert (info.height, info.width) == ((HEIGHT, WIDTH) if a else (WIDTH, HEIGHT))
    assert [corners_of(frame) for frame in frames_of(path)] == [corners] * 3
    half = frames_of(path, scale=2)[0]
    assert half.shape == (info.height // 2, info.width // 2, 3)
    assert corners_of(half) == corners


def test_a_frame_turned_by_another_angle_is_refused(tmp_path: Path) -> None:
    turned = (46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30)
    assert "unsupported: the frame is turned by" in reason_for(make_video(tmp_path / "a.mp4", 3, display=turned))


# --- HDR

PQ, HLG, BT2020, NON_CONSTANT = 16, 18, 9, 9
"""Numbers of ITU-T H.273."""
TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
"""BT.2087."""


def pq_code(nits: float) -> float:
    """SMPTE ST 2084, written out once more."""
    power = (nits / 10000) ** 0.1593017578125
    return float(((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375)


def hlg_code(scene: float) -> float:
    """ARIB STD-B67: light in the scene, 0 to 1, as a signal."""
    return float(np.sqrt(3 * scene) if scene <= 1 / 12 else 0.17883277 * np.log(12 * scene - 0.28466892) + 0.55991073)


def as_hdr(colour: tuple[int, int, int], transfer: int) -> npt.NDArray[np.float64]:
    """An SDR colour, shown so that white has 203 cd/m2, as the signal of an HDR video with BT.2020 primaries."""
    light = TO_BT2020 @ (203 * (np.array(colour) / 255) ** 2.4)
    if transfer == PQ:
        return np.array([pq_code(value) for value in light])
    luma = light @ [0.2627, 0.6780, 0.0593]
    scene = light / 1000 * (luma / 1000) ** ((1 - 1.2) / 1.2)
    return np.array([hlg_code(value) for value in scene])


def hdr_frames(transfer: int) -> Iterator[av.VideoFrame]:
    """Labelled frames in 10 bits, limited range, BT.2020."""
    rgb = labelled_frame(5).reshape(-1, 3)
    colours, places = np.unique(rgb, axis=0, return_inverse=True)
    signals = np.array([as_hdr(tuple(colour), transfer) for colour in colours])[places.reshape(-1)]
    luma = signals @ [0.2627, 0.6780, 0.0593]
    blue, red = (signals[:, 2] - luma) / 1.8814, (signals[:, 0] - luma) / 1.4746
    planes = [64 + 876 * luma, 512 + 896 * blue, 512 + 896 * red]
    array = np.stack([plane.reshape(HEIGHT, WIDTH).round() for plane in planes]).astype(np.uint16)
    for _ in range(3):
        frame = av.VideoFrame(WIDTH, HEIGHT, "yuv444p10le")
        for plane, values in zip(frame.planes, array, strict=True):
            padded = np.zeros((plane.height, plane.line_size // 2), np.uint16)
            padded[:, :WIDTH] = values
            plane.update(padded.tobytes())
        frame.colorspace, frame.color_trc, frame.color_primaries, frame.color_range = NON_CONSTANT, transfer, BT2020, 1
        yield frame


def hdr_video(path: Path, transfer: int) -> Path:
    tags = {"colorspace": NON_CONSTANT, "color_trc": transfer, "color_primaries": BT2020, "color_range": 1}
    return make_video(path, 3, pixels="yuv444p10le", options={"qp": "0"}, tags=tags, av_frames=hdr_frames(transfer))


@pytest.mark.parametrize(("transfer", "name"), [(PQ, "PQ (SMPTE ST 2084)"), (HLG, "HLG (ARIB STD-B67)")])
def test_hdr_is_left_out_by_name_or_becomes_the_sdr_it_was_made_from(tmp_path: Path, transfer: int, name: str) -> None:
    path = hdr_video(tmp_path / "a.mp4", transfer)
    assert reason_for(path) == (f"hdr: its colours are {name}; data.hdr: tonemap (--hdr tonemap) converts them to SDR")
    frame = frames_of(path, TONEMAP)[2]
    # Below 91 cd/m2 the curve is straight: those colours come back. Yellow's red is at 142 cd/m2, and is held back.
    assert np.abs(frame[4, 4].astype(int) - (200, 40, 40)).max() <= 2
    assert np.abs(frame[4, -5].astype(int) - (40, 180, 40)).max() <= 2
    assert np.abs(frame[-5, 4].astype(int) - (40, 60, 200)).max() <= 3
    assert corners_of(frame) == ("red", "green", "blue", "yellow")
    assert number_of(frame) == 5


@pytest.mark.parametrize(
    ("nits", "grey"),
    # By hand from BT.2390: with s = PQ(nits)/PQ(1000), limit 0.7724, knee 0.6586; white is 203 cd/m2, gamma 2.4.
    [(0, 0), (10, 73), (50, 142), (90, 182), (203, 230), (1000, 255), (4000, 255)],
)
def test_the_tone_curve_is_the_one_of_bt2390(nits: float, grey: int) -> None:
    frame = np.full((1, 1, 3), round(65535 * pq_code(nits)), np.uint16)
    assert np.abs(tone_mapped(frame, "pq").astype(int) - grey).max() <= 1


@pytest.mark.parametrize("command", ["reconstruct", "encode"])
def test_the_commands_refuse_or_convert_hdr_with_the_same_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    from taehv.model.checkpoints import write_state_dict
    from taehv.model.init import create_model
    from taehv.model.variants import VARIANTS

    model = create_model(VARIANTS["wan2_2"], 1 / 16, "torch_default", seed=0)
    write_state_dict(tmp_path / "model.safetensors", model.state_dict())
    source, target = (
        hdr_video(tmp_path / "a.mp4", PQ),
        tmp_path / ("b.mp4" if command == "reconstruct" else "b.safetensors"),
    )
    arguments = [command, str(source), str(target), "--model", str(tmp_path / "model.safetensors")]
    assert main(arguments) == 1
    assert "hdr: its colours are PQ (SMPTE ST 2084); data.hdr: tonemap (--hdr tonemap)" in capsys.readouterr().err
    assert not target.exists()
    assert main([*arguments, "--hdr", "tonemap"]) == 0
    assert target.exists()


# --- interlacing


def striped(number: int) -> RgbFrame:
    """Bands 11 lines high in which fields scaled apart lose their edges, and a number."""
    frame = labelled_frame(number, 288, 360).astype(int)
    frame += np.rint(20 * np.sin(2 * np.pi * np.arange(288) / 11)).astype(int)[:, None, None]
    return np.clip(frame, 0, 255).astype(np.uint8)


def test_a_progressive_frame_is_scaled_as_a_whole_however_it_is_flagged(tmp_path: Path) -> None:
    frames = [
        av.VideoFrame.from_ndarray(striped(number), format="rgb24").reformat(format="yuv420p") for number in range(6)
    ]
    size = (288, 360)
    plain = make_video(tmp_path / "plain.mp4", 6, size=size, av_frames=frames, options={"qp": "0"})
    flagged = make_video(
        tmp_path / "flagged.mp4",
        6,
        size=size,
        av_frames=frames,
        options={"qp": "0", "x264-params": "tff=1"},
    )
    with av.open(str(flagged)) as container:
        assert all(frame.interlaced_frame for frame in container.decode(video=0))
    for scale in (1, 2, 4):
        for first, second in zip(frames_of(plain, scale=scale), frames_of(flagged, scale=scale), strict=True):
            assert np.abs(first.astype(int) - second).max() <= 1


def bikes(count: int) -> list[RgbFrame]:
    path = sample_videos()["bikes.mp4"]
    return list(read_frames(path, probe(path), stride=1, height=272, width=640, stop=count))


def woven(frames: list[RgbFrame], first: int) -> list[RgbFrame]:
    """Two frames in one: lines of the parity ``first`` from the earlier one."""
    made = []
    for early, late in zip(frames[::2], frames[1::2], strict=True):
        made.append(late.copy())
        made[-1][first::2] = early[first::2]
    return made


@pytest.mark.parametrize("flag", ["", "tff", "bff"])
@pytest.mark.parametrize("first", [0, 1])
def test_interlaced_frames_are_left_out_or_fixed_however_they_are_flagged(
    tmp_path: Path, first: int, flag: str
) -> None:
    whole = bikes(24)
    options = {"crf": "10"} | ({"x264-params": f"{flag}=1"} if flag else {})
    path = write_video(tmp_path / "a.mp4", woven(whole, first), 272, 640, options=None)
    if flag:
        frames = [
            av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")
            for frame in woven(whole, first)
        ]
        path = make_video(tmp_path / "b.mp4", 12, size=(272, 640), av_frames=frames, options=options)
    assert reason_for(path).startswith("interlaced: its frames are interlaced; data.interlaced: deinterlace (--inter")
    assert probe(path, conversions=DEINTERLACE).fields == ("tff", "bff")[first]
    fixed = frames_of(path, DEINTERLACE)
    assert len(fixed) == 12
    for number, frame in enumerate(fixed):
        assert combed_share(frame[..., 1]) < 0.0005
        error = float(np.square(frame.astype(float) - whole[2 * number]).mean())
        other = float(np.square(frame.astype(float) - whole[2 * number + 1]).mean())
        assert error < other  # each is the moment of its first field


def test_a_film_with_two_interlaced_frames_in_five_is_interlaced(tmp_path: Path) -> None:
    made = []
    film = bikes(16)
    for a, b, c, d in zip(film[::4], film[1::4], film[2::4], film[3::4], strict=True):
        made += [a, b, *woven([b, c], 0), *woven([c, d], 0), d]
    path = write_video(tmp_path / "a.mp4", made, 272, 640)
    assert reason_for(path).startswith("interlaced: ")


def test_the_sample_videos_and_dithered_gifs_are_progressive(tmp_path: Path) -> None:
    assert {probe(path).fields for path in sample_videos().values()} == {None}
    assert probe(make_video(tmp_path / "a.gif", 12, codec="gif", pixels="rgb8")).fields is None


# --- colours


@pytest.mark.parametrize("matrix", [8, 10, 11, 12, 13, 14])
def test_a_matrix_without_a_conversion_is_that_videos_reason(tmp_path: Path, matrix: int) -> None:
    path = make_video(tmp_path / "a.mkv", 3, tags={"colorspace": matrix})
    assert reason_for(path).startswith("unsupported: its colours cannot be converted to RGB: their matrix is ")


@pytest.mark.parametrize(("matrix", "red", "blue"), [(1, 0.2126, 0.0722), (6, 0.299, 0.114), (9, 0.2627, 0.0593)])
def test_each_known_matrix_gives_the_colours_back(tmp_path: Path, matrix: int, red: float, blue: float) -> None:
    rgb = labelled_frame(170) / 255
    luma = rgb @ [red, 1 - red - blue, blue]
    planes = [
        16 + 219 * luma,
        128 + 112 * (rgb[..., 2] - luma) / (1 - blue),
        128 + 112 * (rgb[..., 0] - luma) / (1 - red),
    ]
    frame = av.VideoFrame(WIDTH, HEIGHT, "yuv444p")
    for plane, values in zip(frame.planes, planes, strict=True):
        padded = np.zeros((plane.height, plane.line_size), np.uint8)
        padded[:, :WIDTH] = values.round()
        plane.update(padded.tobytes())
    frame.colorspace = matrix
    path = make_video(
        tmp_path / "a.mp4", 1, pixels="yuv444p", options={"qp": "0"}, tags={"colorspace": matrix}, av_frames=[frame]
    )
    assert np.abs(frames_of(path)[0].astype(int) - labelled_frame(170)).max() <= 2


def test_names_are_files_whatever_they_look_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_video(Path("x.mp4"), [7] * 3)
    for name in ("file:x.mp4", "12:30 clip.mp4", "http:x.mp4", "concat:x.mp4|x.mp4", "a%03d?.mp4", "pipe:0", "-.mp4"):
        Path(name).write_bytes(make_video(tmp_path / "other.mp4", [9] * 3).read_bytes())
        assert [number_of(frame) for frame in frames_of(Path(name))] == [9] * 3


def test_frames_have_the_times_of_the_source(tmp_path: Path) -> None:
    from taehv.data.decode import frame_times

    times = [0, 40, 80, 200, 210, 700, 740, 1500]
    path = make_video(tmp_path / "a.mkv", 8, times=times, time_base=Fraction(1, 1000))
    info = probe(path)
    found = frame_times(path, info, DEFAULT_LIMITS)
    assert found is not None
    assert [found.seconds(number) for number in range(8)] == [Fraction(time, 1000) for time in times]
    assert info.rate is not None
    assert float(info.rate) == pytest.approx(8 / (1.5 + 1.5 / 7), rel=0.2)
    fine = make_video(tmp_path / "c.mp4", 4, times=[0, 333_681, 667_362, 1_001_111], time_base=Fraction(1, 10_000_000))
    rate = probe(fine).rate  # a clock of 10 MHz; the rate must fit every container's clock
    assert rate is not None
    assert rate.denominator <= 100_000
    assert float(rate) == pytest.approx(29.968, abs=0.01)
    steady = make_video(tmp_path / "b.mkv", 30, rate=Fraction(30000, 1001))
    assert probe(steady).rate == Fraction(30000, 1001)  # although Matroska rounds each time to a millisecond
