"""Benchmarks that nobody runs for months still run."""

from __future__ import annotations

import subprocess
import sys

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
def test_the_table_of_a_training_step_has_two_precisions_in_one_process() -> None:
    """accelerate refuses another precision than the first one ("AcceleratorState has already been initialized")."""
    result = subprocess.run([sys.executable, "-c", STEPS], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.stdout.split() == ["bf16", "fp32", "bf16"], result.stderr


@pytest.mark.slow
def test_every_clip_codec_has_a_row() -> None:
    command = [sys.executable, "benchmarks/clip_codecs.py", "--smoke"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    rows = [line.split("|")[1].strip() for line in result.stdout.splitlines()[2:]]
    assert result.returncode == 0, result.stderr
    assert len(rows) == len(set(rows)) > 15 and "**near-lossless**, quality 20" in rows


@pytest.mark.slow
def test_the_table_of_the_index_has_a_row_for_each_size() -> None:
    command = [sys.executable, "-m", "benchmarks.data_index", "--clips", "1000", "2000"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert [row.split("|")[1].strip() for row in result.stdout.splitlines()[2:]] == ["1,000", "2,000"], result.stderr
