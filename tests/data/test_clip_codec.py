from __future__ import annotations

import io
import math
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taehv.config.params import ClipCodecName
from taehv.data.clip_codec import CODECS, Clip, ClipDecodeError, Part, psnr_db
from taehv.data.sources import sample_videos
from taehv.data.video_files import open_video

QUALITY = 20
"""As params.yaml has it."""
VIDEOS: tuple[ClipCodecName, ...] = ("lossless", "near-lossless")


@cache
def real_clip(name: str = "bikes.mp4", start: int = 40) -> Clip:
    """12 frames of a sample video, at most 480x720."""
    batches = open_video(sample_videos()[name]).batches(12)
    for _ in range(start // 12):
        next(batches)
    return np.ascontiguousarray(next(batches)[..., :480, :720].numpy())


def random_clip(seed: int, frames: int, height: int, width: int, step: int) -> Clip:
    """Smooth (small ``step``) to pure noise (255), with all values from 0 to 255."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.integers(-step, step + 1, (frames, 3, height, width)), axis=-1) + 128
    return (walk % 256).astype(np.uint8)


clips = st.builds(
    random_clip,
    seed=st.integers(0, 2**32),
    frames=st.integers(1, 6),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    step=st.sampled_from([0, 2, 30, 255]),
)


@given(clips, st.sampled_from(("raw", "lossless")))
@settings(max_examples=60)
def test_an_exact_codec_gives_back_every_pixel_of_any_clip(clip: Clip, name: ClipCodecName) -> None:
    codec = CODECS[name]
    assert codec.exact
    np.testing.assert_array_equal(codec.decode(codec.encode(clip, QUALITY), clip.shape), clip)


@pytest.mark.parametrize("name", ["bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4"])
def test_lossless_gives_back_every_pixel_of_real_clips_in_half_the_bytes(name: str) -> None:
    clip, codec = real_clip(name), CODECS["lossless"]
    data = codec.encode(clip, QUALITY)
    np.testing.assert_array_equal(codec.decode(data, clip.shape), clip)
    assert len(data) < clip.nbytes / 1.9


def test_near_lossless_needs_a_tenth_of_the_bytes_at_48_db() -> None:
    codec, ratios = CODECS["near-lossless"], []
    for name in sample_videos():
        clip = real_clip(name)
        data = codec.encode(clip, QUALITY)
        ratios.append(len(data) / clip.nbytes)
        assert psnr_db(clip, codec.decode(data, clip.shape)) >= 48, name
    assert np.mean(ratios) <= 0.1


@given(clips, st.integers(1, 51))
@settings(max_examples=40)
def test_near_lossless_codes_clips_of_any_size(clip: Clip, quality: int) -> None:
    codec = CODECS["near-lossless"]
    decoded = codec.decode(codec.encode(clip, quality), clip.shape)
    assert not codec.exact
    assert decoded.shape == clip.shape
    if quality <= QUALITY:
        assert psnr_db(clip, decoded) > 44


def test_a_lower_quality_number_is_nearer_to_the_pixels_and_larger() -> None:
    clip, codec = real_clip(), CODECS["near-lossless"]
    sizes, psnrs = [], []
    for quality in (10, 20, 30):
        data = codec.encode(clip, quality)
        sizes.append(len(data))
        psnrs.append(psnr_db(clip, codec.decode(data, clip.shape)))
    assert sizes == sorted(sizes, reverse=True)
    assert psnrs == sorted(psnrs, reverse=True)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize(
    "part",
    [
        (slice(0, 1), slice(None), slice(None)),
        (slice(3, 12), slice(16, 80), slice(33, 97)),
        (slice(1, 12, 2), slice(0, 64), slice(0, 64)),
        (slice(11, 12), slice(100, 101), slice(7, 8)),
    ],
)
def test_a_part_is_that_part_of_the_whole(name: ClipCodecName, part: Part) -> None:
    clip, codec = real_clip(), CODECS[name]
    data = codec.encode(clip, QUALITY)
    whole = codec.decode(data, clip.shape)
    np.testing.assert_array_equal(codec.decode(data, clip.shape, part), whole[part[0], :, part[1], part[2]])


ENCODE = """
import hashlib, sys
import numpy as np
from taehv.data.clip_codec import CODECS
clip = np.load(sys.argv[1])
for codec in CODECS.values():
    data = codec.encode(clip, 20)
    print(hashlib.sha256(data).hexdigest(), hashlib.sha256(codec.decode(data, clip.shape).tobytes()).hexdigest())
"""


def test_two_processes_make_the_same_bytes_and_the_same_pixels_of_them(tmp_path: Path) -> None:
    np.save(tmp_path / "clip.npy", real_clip())
    command = [sys.executable, "-c", ENCODE, str(tmp_path / "clip.npy")]
    one, other = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert len(one.split()) == 2 * len(CODECS)
    assert one == other


@pytest.mark.parametrize("name", VIDEOS)
def test_the_bytes_name_no_version(name: ClipCodecName) -> None:
    data = CODECS[name].encode(real_clip(), QUALITY)
    assert not [word for word in (b"x264", b"Lavf", b"Lavc") if word in data]


@pytest.mark.parametrize("name", VIDEOS)
def test_the_only_key_frame_is_the_first(name: ClipCodecName) -> None:
    import av

    scenes = [random_clip(seed, frames=100, height=48, width=64, step=20) for seed in range(3)]
    clip = np.concatenate(scenes)
    with av.open(io.BytesIO(CODECS[name].encode(clip, QUALITY)), "r") as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert [packet.is_keyframe for packet in packets] == [True] + [False] * (len(clip) - 1)


@pytest.mark.parametrize(("name", "psnr"), [("lossless", math.inf), ("near-lossless", 48)])
def test_any_player_shows_the_clip_in_its_colours(tmp_path: Path, name: ClipCodecName, psnr: float) -> None:
    clip, file = real_clip(), (tmp_path / "clip").with_suffix(CODECS[name].suffix)
    file.write_bytes(CODECS[name].encode(clip, QUALITY))
    (shown,) = open_video(file).batches(100)
    assert psnr_db(clip, shown.numpy()) >= psnr


def test_a_raw_clip_is_a_npy_file_and_is_read_without_a_copy() -> None:
    clip = real_clip()
    data = CODECS["raw"].encode(clip, QUALITY)
    np.testing.assert_array_equal(np.load(io.BytesIO(data)), clip)
    assert np.shares_memory(CODECS["raw"].decode(data, clip.shape), np.frombuffer(data, np.uint8))


SMALL = random_clip(seed=1, frames=6, height=48, width=64, step=3)
ENCODED = {name: codec.encode(SMALL, QUALITY) for name, codec in CODECS.items()}


@given(st.sampled_from(list(CODECS)), st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_damaged_bytes_are_one_error_or_a_clip_whose_checksum_tells(name: ClipCodecName, random: object) -> None:
    rng = np.random.default_rng(random.getrandbits(64))  # type: ignore[attr-defined]
    damaged = bytearray(ENCODED[name])
    where = int(rng.integers(len(damaged)))
    match int(rng.integers(4)):
        case 0:
            damaged[where] ^= 1 << int(rng.integers(8))
        case 1:
            del damaged[where:]
        case 2:
            damaged[where : where + 16] = rng.bytes(16)
        case 3:
            damaged[where:] = rng.bytes(len(damaged) - where)
    try:
        decoded = CODECS[name].decode(bytes(damaged), SMALL.shape)
    except ClipDecodeError:
        return
    assert decoded.shape == SMALL.shape


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("cut", [0, 1, 100, 5000])
def test_bytes_that_are_cut_off_are_an_error(name: ClipCodecName, cut: int) -> None:
    with pytest.raises(ClipDecodeError):
        CODECS[name].decode(ENCODED[name][:cut], SMALL.shape)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("shape", [(5, 3, 48, 64), (7, 3, 48, 64), (6, 3, 64, 48), (6, 3, 16, 16), (6, 3, 480, 640)])
def test_a_clip_of_another_shape_is_an_error(name: ClipCodecName, shape: tuple[int, int, int, int]) -> None:
    with pytest.raises(ClipDecodeError):
        CODECS[name].decode(ENCODED[name], shape)


def test_bytes_of_another_codec_are_an_error() -> None:
    for name in CODECS:
        for other in ("raw", "lossless"):
            if CODECS[name].suffix != CODECS[other].suffix:
                with pytest.raises(ClipDecodeError):
                    CODECS[name].decode(ENCODED[other], SMALL.shape)


def test_psnr_is_that_of_the_definition() -> None:
    clip = np.zeros((1, 3, 2, 2), np.uint8)
    off = clip.copy()
    off[0, 0, 0, 0] = 6
    assert psnr_db(clip, clip) == math.inf
    assert psnr_db(clip, off) == psnr_db(off, clip) == pytest.approx(10 * math.log10(255**2 / (36 / 12)))
