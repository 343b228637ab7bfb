"""Benchmarks that nobody runs for months still run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.project import REPOSITORY

STEPS = """
import torch
from benchmarks.train_step import Setting, build
for precision in ("bf16", "fp32", "bf16"):
    step = build(Setting("embedded", 32, 32, 2, precision, ("recon",)), torch.device("cpu"))
    step(1)
    print(precision)
"""


@pytest.mark.slow
def test_the_table_of_lists_of_videos_has_a_row_for_each_format_and_number_of_files() -> None:
    command = [sys.executable, "benchmarks/manifest.py", "--entries", "300", "--files", "3", "20"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    _, _, *rows = result.stdout.splitlines()
    assert [row.split(" | ")[1] for row in rows] == ["300"] * 6 + ["3", "20"]


LISTS = """
import sys
from pathlib import Path
from benchmarks.manifest import FORMATS, measured, write_list
for suffix in FORMATS:
    for count in (100, 100_000):
        path = Path(sys.argv[1], f"{count}.{suffix}")
        write_list(path, count)
        _, _, megabytes, videos = measured("check_list", path)
        print(suffix, videos, megabytes)
"""


@pytest.mark.slow
def test_a_list_of_a_hundred_thousand_videos_takes_little_more_memory_than_one_of_a_hundred(tmp_path: Path) -> None:
    """Held as objects, these entries would take 100 MB."""
    command = [sys.executable, "-c", LISTS, str(tmp_path)]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [(suffix, int(videos)) for suffix, videos, _ in rows] == [
        (suffix, videos) for suffix in ("json", "jsonl", "csv", "parquet") for videos in (100, 100_000)
    ]
    peaks = [float(megabytes) for _, _, megabytes in rows]
    assert all(long - short < 60 for short, long in zip(peaks[::2], peaks[1::2], strict=True)), peaks


@pytest.mark.slow
def test_the_table_of_a_training_step_has_two_precisions_in_one_process() -> None:
    """accelerate refuses another precision than the first one ("AcceleratorState has already been initialized")."""
    result = subprocess.run([sys.executable, "-c", STEPS], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.stdout.split() == ["bf16", "fp32", "bf16"], result.stderr
