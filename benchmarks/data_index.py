"""What the index of clips and a draw cost, by the number of clips: time, memory, microseconds per slot.

    python -m benchmarks.data_index                       # 10^3, 10^5 and 10^7 clips; 1 GB of disk, 2 minutes
    python -m benchmarks.data_index --clips 1000

The indexes are simulated: all columns, no pixels; 8 clips of each video, 80 of a shard, as in the full scale. Each row
is measured in a process of its own, on a file that lies in the page cache. Times are those of the process on a core, so
that other programs do not count.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

SIZES = (10**3, 10**5, 10**7)
CLIPS_PER_VIDEO, CLIPS_PER_SHARD = 8, 80
GLOBAL_BATCH = 128
STEPS = 30
BLOCK_SHARDS = 16
HEADER = (
    "| clips | file, MB | open, s | resident after opening, MB | after 30 steps, MB | us per slot | us in blocks "
    "| sha256, s |"
)


def simulated(path: Path, clips: int) -> None:
    """Write an index of so many training clips."""
    from taehv.data.clip_codec import RAW
    from taehv.data.clip_index import write_columns
    from taehv.data.clip_shards import shard_name

    number = np.arange(clips)
    videos, shards = -(-clips // CLIPS_PER_VIDEO), -(-clips // CLIPS_PER_SHARD)
    frames, height, width = 12, 480, 720
    length = len(RAW.header((frames, 3, height, width))) + 3 * frames * height * width
    video = number // CLIPS_PER_VIDEO
    same = {"frame_stride": 1, "frames": frames, "top": 0, "left": 0, "height": height, "width": width}
    columns: dict[str, Any] = {name: np.full(clips, value) for name, value in same.items()}
    columns |= {"scaled_height": columns["height"], "scaled_width": columns["width"]}
    columns |= {
        "source": (video, [f"folder/{name:09d}.mp4" for name in range(videos)]),
        "video_sha256": (video, [f"{name:064x}" for name in range(videos)]),
        "split": (np.zeros(clips, int), ["train"]),
        "codec": (np.zeros(clips, int), ["raw"]),
        "shard": (number // CLIPS_PER_SHARD, [shard_name("train", name) for name in range(shards)]),
        "offset": number % CLIPS_PER_SHARD * (length + 512) + 512,
        "length": np.full(clips, length),
        "first_frame": number % CLIPS_PER_VIDEO * frames,
        "sha256": np.random.default_rng(0).integers(0, 256, 32 * clips, dtype=np.uint8),
    }
    write_columns(path, columns)


def measure(path: Path) -> dict[str, float]:
    """In a process of its own: open the index, then draw steps."""
    import pyarrow  # noqa: F401  (its own memory is not the index's)

    from taehv.data.clip_index import ClipIndex
    from taehv.data.sampler import SlotSampler
    from taehv.runtime.hashing import sha256_of_file

    size: dict[str, Any] = {"height": 480, "width": 720, "frames": 12, "horizontal_flip": True}
    ClipIndex.open(path)  # what is loaded at the first use of the library is not the index's either
    before, started = psutil.Process().memory_info().rss, time.process_time()
    index = ClipIndex.open(path)
    columns = index.columns("train")
    sampler = SlotSampler(columns, seed=42, global_batch=GLOBAL_BATCH, **size)
    opened = time.process_time() - started
    opened_rss = psutil.Process().memory_info().rss - before
    drawn = microseconds_per_slot(sampler)
    drawn_rss = psutil.Process().memory_info().rss - before
    blocked = SlotSampler(columns, seed=42, global_batch=GLOBAL_BATCH, block_shards=BLOCK_SHARDS, **size)
    started = time.process_time()
    sha256_of_file(path)
    return {
        "clips": len(index),
        "open_seconds": opened,
        "opened_mb": opened_rss / 1e6,
        "drawn_mb": drawn_rss / 1e6,
        "microseconds_per_slot": drawn,
        "microseconds_per_slot_in_blocks": microseconds_per_slot(blocked),
        "checksum_seconds": time.process_time() - started,
        "file_mb": path.stat().st_size / 1e6,
    }


def microseconds_per_slot(sampler: Any) -> float:
    """Mean over the slots of a step; the median of the steps, for other programs take their share now and then."""
    seconds = []
    for step in range(1, STEPS + 1):
        started = time.process_time()
        sampler.draw_step(step, range(GLOBAL_BATCH))
        seconds.append(time.process_time() - started)
    return float(np.median(seconds)) / GLOBAL_BATCH * 1e6


def main() -> None:
    """Print a row for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="*", default=SIZES, help="sizes of the simulated indexes")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure)))
        return
    print(HEADER)
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for clips in options.clips:
            path = Path(folder) / "index.arrow"
            simulated(path, clips)
            child = [sys.executable, "-m", "benchmarks.data_index", "--measure", str(path)]
            done = subprocess.run(child, check=True, capture_output=True, text=True)
            row = json.loads(done.stdout)
            print(
                f"| {row['clips']:,} | {row['file_mb']:,.1f} | {row['open_seconds']:.3f} | {row['opened_mb']:.0f} | "
                f"{row['drawn_mb']:.0f} | {row['microseconds_per_slot']:.1f} | "
                f"{row['microseconds_per_slot_in_blocks']:.1f} | {row['checksum_seconds']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
