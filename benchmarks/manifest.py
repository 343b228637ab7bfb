"""Lists of millions of videos, and `taehv manifest` over thousands of files: seconds and memory.

    python benchmarks/manifest.py                                # about 20 minutes on 2 cores, 2 GB of temporary files
    python benchmarks/manifest.py --entries 1000 --files 20 100  # a rehearsal, in seconds

Each row is measured in a process of its own. Memory is that process's largest resident size; where workers read the
files, theirs is not in it. CPU seconds are those of all of them, the start of Python included. Entries are as the
training guide has them: a path, frames, duration and a caption. Prints rows of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.memory import peak_resident_bytes  # noqa: E402

FORMATS = ("json", "jsonl", "csv", "parquet")
ROWS = 65_536
CLIP_BYTES = 4_000
"""Of a clip of 64x64x12, encoded."""


def entries(count: int) -> Iterator[dict[str, Any]]:
    """Made-up annotations."""
    for number in range(count):
        path = f"part-{number // 10_000:04}/video-{number:08}.mp4"
        caption = f"A person walks through scene {number % 977}, and the camera follows slowly."
        yield {"path": path, "frames": 96 + number % 31, "duration": 4.0 + number % 7, "caption": caption}


def write_list(path: Path, count: int) -> None:
    """An annotation file of that many entries, itself written piece by piece."""
    if path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        rows, writer = entries(count), None
        while some := list(islice(rows, ROWS)):
            table = pyarrow.Table.from_pylist(some)
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
        assert writer is not None
        writer.close()
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            table_rows = csv.DictWriter(file, ["path", "frames", "duration", "caption"])
            table_rows.writeheader()
            table_rows.writerows(entries(count))
            return
        ends = ("", "\n", "") if path.suffix == ".jsonl" else ('{"list": [', ",\n", "]}")
        file.write(ends[0])
        for number, entry in enumerate(entries(count)):
            file.write((ends[1] if number else "") + json.dumps(entry))
        file.write(ends[2])


def check_list(path: Path) -> int:
    """What `taehv manifest` does before it looks at the first video: every entry read, repeated ones looked for."""
    from taehv.data.annotations import read_annotations
    from taehv.data.list_videos import check_listing
    from taehv.data.sources import FolderFiles

    return check_listing(lambda: read_annotations(path), FolderFiles(path.parent), path).videos


def write_rows(path: Path, count: int) -> int:
    """A manifest of that many entries."""
    from taehv.data.manifest import ManifestEntry
    from taehv.data.manifest_writer import write_manifest

    def rows() -> Iterator[tuple[ManifestEntry, dict[str, str]]]:
        for number, entry in enumerate(entries(count)):
            further = {name: str(value) for name, value in entry.items() if name != "path"}
            yield ManifestEntry(entry["path"], number, hashlib.sha256(b"%d" % number).hexdigest()), further

    write_manifest(path, rows(), videos=count, further=("frames", "duration", "caption"))
    return count


def read_rows(path: Path) -> int:
    """Check a manifest, then go through it, as prepare_data does."""
    from taehv.data.manifest import read_manifest

    manifest = read_manifest(path)
    assert sum(1 for _ in manifest) == len(manifest)
    return len(manifest)


def make_files(folder: Path, count: int) -> None:
    """Small files, each of its own content."""
    content = os.urandom(CLIP_BYTES)
    for number in range(count):
        path = folder / f"{number // 1000:03}" / f"{number:06}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content + str(number).encode())


def list_files(folder: Path) -> int:
    """`taehv manifest` of a folder."""
    from taehv.cli import main
    from taehv.data.manifest import read_manifest

    output = folder.with_name("manifest")
    assert main(["manifest", str(folder), "--output", str(output)]) == 0
    return len(read_manifest(output))


JOBS = {"check_list": check_list, "read_rows": read_rows, "list_files": list_files}


def measured(what: str, path: Path, *arguments: int) -> tuple[float, float, float, int]:
    """Seconds, CPU seconds, MB and videos of one job, in a fresh process."""
    command = [sys.executable, __file__, "--only", what, str(path), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=path.parent)
    if done.returncode:
        sys.exit(f"{what} {path} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    seconds, cpu, mb, videos = done.stdout.splitlines()[-1].split()
    return float(seconds), float(cpu), float(mb), int(videos)


def only(what: str, path: str, *arguments: str) -> None:
    """One job, in this process."""
    start = time.perf_counter()
    videos = write_rows(Path(path), *map(int, arguments)) if what == "write_rows" else JOBS[what](Path(path))
    seconds, mb = time.perf_counter() - start, peak_resident_bytes() / 1e6
    print(f"\n{seconds:.3f} {sum(os.times()[:4]):.3f} {mb:.1f} {videos}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=5_000_000, help="of each list")
    parser.add_argument("--files", type=int, nargs="*", default=[100, 1_000, 10_000], help="that are read")
    parser.add_argument("--only", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        only(*arguments.only)
        return
    print("| what | entries | file, MB | seconds | CPU seconds | us per entry | peak memory, MB |\n" + "|---" * 7 + "|")
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        for suffix in FORMATS:
            path = place / f"list.{suffix}"
            write_list(path, arguments.entries)
            row(f"check a list, {suffix}", path.stat().st_size, *measured("check_list", path))
            path.unlink()
        manifest = place / "manifest"
        written = measured("write_rows", manifest, arguments.entries)
        size = sum(file.stat().st_size for file in manifest.iterdir())
        row("write the manifest", size, *written)
        row("check the manifest, then go through it", size, *measured("read_rows", manifest))
        for count in arguments.files:
            make_files(place / "videos", count)
            row("`taehv manifest`, files of 4 kB", count * CLIP_BYTES, *measured("list_files", place / "videos"))
            shutil.rmtree(place / "videos")


def row(what: str, size: int, seconds: float, cpu: float, mb: float, videos: int) -> None:
    each = seconds / videos * 1e6
    print(
        f"| {what} | {videos:,} | {size / 1e6:,.1f} | {seconds:,.1f} | {cpu:,.1f} | {each:,.1f} | {mb:,.0f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
