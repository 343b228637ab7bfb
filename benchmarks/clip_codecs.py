"""What the clip store's codecs, and those that were not chosen, cost: bytes, fidelity, and time on one core.

    python benchmarks/clip_codecs.py                 # the table of benchmarks/RESULTS.md, 10 minutes
    python benchmarks/clip_codecs.py --chosen        # only what `data.store.codec` offers
    python benchmarks/clip_codecs.py --smoke         # one small clip each, seconds

Clips of the three sample videos, at most 480x720. Clips/s are for clips of 12x480x720 pixels, by processor time of one
thread: `encode` for the bytes of one clip, `decode` for a whole clip as (T, 3, H, W) RGB.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # runs without being installed

from taehv.data.clip_codec import CODECS, Clip, ClipCodec, VideoCodec, psnr_db
from taehv.data.decode import probe, read_frames
from taehv.data.sources import sample_videos

FRAMES, HEIGHT, WIDTH = 12, 480, 720
QUALITIES = (14, 17, 20, 23, 26)
ONE_THREAD_X265 = {"preset": "superfast", "x265-params": "pools=none:frame-threads=1:log-level=none"}
FFV1 = {"level": "3", "coder": "1", "context": "1", "g": "100", "slices": "4"}
NOT_CHOSEN: Mapping[str, tuple[VideoCodec, int]] = {
    "FFV1, RGB": (VideoCodec("ffv1", "ffv1", "bgr0", FFV1, container="matroska"), 0),
    "FFV1, RGB, key frames, Rice": (
        VideoCodec("ffv1", "ffv1", "bgr0", FFV1 | {"coder": "0", "context": "0", "g": "1"}, container="matroska"),
        0,
    ),
    "x264 RGB, qp 0, veryfast": (
        VideoCodec("libx264rgb", "h264", "rgb24", {"qp": "0", "preset": "veryfast", "bf": "0"}),
        0,
    ),
    "x264 RGB, crf 8, veryfast": (
        VideoCodec("libx264rgb", "h264", "rgb24", {"preset": "veryfast", "bf": "0"}, quality_option="crf"),
        8,
    ),
    "x264 4:4:4, crf 4, superfast": (
        VideoCodec("libx264", "h264", "yuv444p", {"preset": "superfast", "bf": "0"}, quality_option="crf"),
        4,
    ),
    "x264 4:4:4 10 bit, crf 4, superfast": (
        VideoCodec("libx264", "h264", "yuv444p10le", {"preset": "superfast", "bf": "0"}, quality_option="crf"),
        4,
    ),
    "x264 4:4:4 10 bit, crf 2, veryfast": (
        VideoCodec("libx264", "h264", "yuv444p10le", {"preset": "veryfast", "bf": "0"}, quality_option="crf"),
        2,
    ),
    "x264 4:2:0, crf 8, medium": (
        VideoCodec("libx264", "h264", "yuv420p", {"preset": "medium", "bf": "0"}, quality_option="crf"),
        8,
    ),
    "x265 4:4:4 10 bit, crf 4, superfast": (
        VideoCodec("libx265", "hevc", "yuv444p10le", ONE_THREAD_X265, "crf", container="matroska"),
        4,
    ),
    "AV1 4:2:0 10 bit (SVT), crf 4, preset 10": (
        VideoCodec(
            "libsvtav1",
            "av1",
            "yuv420p10le",
            {"preset": "10", "svtav1-params": "lp=1"},
            quality_option="crf",
            container="matroska",
        ),
        4,
    ),
    "VP9 4:4:4, crf 4, realtime": (
        VideoCodec(
            "libvpx-vp9",
            "vp9",
            "yuv444p",
            {"b": "0", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"},
            quality_option="crf",
            container="matroska",
        ),
        4,
    ),
}


@dataclass(frozen=True)
class Cost:
    """What a codec makes of some clips."""

    ratio: float
    """Raw bytes divided by encoded bytes."""
    psnr_db: float
    """Mean over the clips."""
    worst_db: float
    encoded_per_second: float
    """Clips of 12x480x720 per second of processor time."""
    decoded_per_second: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chosen", action="store_true", help="only the codecs of data.store.codec")
    parser.add_argument("--clips", type=int, default=4, help="of each video (default: %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="one small clip of each video")
    options = parser.parse_args()
    size = (2, 64, 96) if options.smoke else (FRAMES, HEIGHT, WIDTH)
    count = 1 if options.smoke else options.clips
    clips = {name: sample_clips(path, count, *size) for name, path in sample_videos().items()}
    print("| codec | " + " | ".join(f"{name}: x, dB (worst)" for name in clips) + " | x, all | encode | decode |")
    print("|---" * (len(clips) + 4) + "|")
    for label, codec, quality in codecs(chosen_only=options.chosen):
        print_row(label, codec, quality, clips)


def codecs(*, chosen_only: bool) -> Iterator[tuple[str, ClipCodec, int]]:
    for name, codec in CODECS.items():
        for quality in QUALITIES if not codec.exact else (0,):
            yield f"**{name}**" + (f", quality {quality}" if quality else ""), codec, quality
    if not chosen_only:
        for label, (codec, quality) in NOT_CHOSEN.items():
            yield label, codec, quality


def print_row(label: str, codec: ClipCodec, quality: int, clips: Mapping[str, Sequence[Clip]]) -> None:
    costs = [measure(codec, quality, some) for some in clips.values()]
    cells = [f"{cost.ratio:.1f}, {cost.psnr_db:.1f} ({cost.worst_db:.1f})" for cost in costs]
    overall = len(costs) / sum(1 / cost.ratio for cost in costs)
    largest = costs[0]
    print(
        f"| {label} | {' | '.join(cells)} | {overall:.1f} "
        f"| {largest.encoded_per_second:.1f} | {largest.decoded_per_second:.1f} |",
        flush=True,
    )


def measure(codec: ClipCodec, quality: int, clips: Sequence[Clip]) -> Cost:
    """Each clip once, after one that is not timed."""
    codec.decode(codec.encode(clips[0], quality), _shape(clips[0]))
    raw = encoded = 0
    encoding = decoding = 0.0
    psnrs = []
    for clip in clips:
        started = time.process_time()
        data = codec.encode(clip, quality)
        made = time.process_time()
        # A raw clip is only mapped until its pixels are copied.
        decoded = codec.decode(data, _shape(clip)).copy()
        encoding += made - started
        decoding += time.process_time() - made
        raw += clip.nbytes
        encoded += len(data)
        psnrs.append(psnr_db(clip, decoded))
    full_clips = raw / (FRAMES * 3 * HEIGHT * WIDTH)
    return Cost(
        raw / encoded, float(np.mean(psnrs)), min(psnrs), full_clips / encoding, full_clips / max(decoding, 1e-9)
    )


def sample_clips(path: Path, count: int, frames: int, height: int, width: int) -> list[Clip]:
    """Clips spread evenly over a video, scaled down until they cover height and width, cut from the middle."""
    info = probe(path)
    scale = min(max(height / info.height, width / info.width), 1)
    scaled_height, scaled_width = round(info.height * scale), round(info.width * scale)
    pictures = read_frames(path, info, stride=1, height=scaled_height, width=scaled_width, stop=info.frames)
    top, left = max(scaled_height - height, 0) // 2, max(scaled_width - width, 0) // 2
    starts = [round(number * (info.frames - frames) / max(count - 1, 1)) for number in range(count)]
    cut = [picture[top : top + height, left : left + width] for picture in islice(pictures, starts[-1] + frames)]
    return [np.ascontiguousarray(np.stack(cut[s : s + frames]).transpose(0, 3, 1, 2)) for s in starts]


def _shape(clip: Clip) -> tuple[int, int, int, int]:
    frames, channels, height, width = clip.shape
    return frames, channels, height, width


if __name__ == "__main__":
    main()
