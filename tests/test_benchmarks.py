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
def test_the_table_of_lists_of_videos_has_a_row_for_each_format_and_number_of_files() -> None:
    command = [sys.executable, "benchmarks/manifest.py", "--entries", "300", "--files", "3", "20"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    _, _, *rows = result.stdout.splitlines()
    assert [row.split(" | ")[1] for row in rows] == ["300"] * 6 + ["3", "20"]


@pytest.mark.slow
def test_the_table_of_a_training_step_has_two_precisions_in_one_process() -> None:
    """accelerate refuses another precision than the first one ("AcceleratorState has already been initialized")."""
    result = subprocess.run([sys.executable, "-c", STEPS], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.stdout.split() == ["bf16", "fp32", "bf16"], result.stderr
