"""benchmarks/gpu.sh runs: every part on a CPU, tiny, so that a lent GPU is not spent on mistakes in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.project import REPOSITORY

GPU = str(REPOSITORY / "benchmarks/gpu.sh")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "case"),
    [
        ("codec", "codec as chosen, float16"),
        ("correctness", "codec hunyuan_video float32"),
        pytest.param("correctness", "gradients fp32 planes", marks=pytest.mark.soak),
        pytest.param("step", "recon, planes", marks=pytest.mark.soak),
        pytest.param("train", "kill and resume, fp32", marks=pytest.mark.soak),
    ],
)
def test_a_part_runs_on_a_cpu_and_writes_down_what_it_found(part: str, case: str, tmp_path: Path) -> None:
    options = ["--part", part, "--rehearse", "--only", case, "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHON": sys.executable, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
    finished = subprocess.run([GPU, *options], env=environment, capture_output=True, text=True, timeout=900)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (row,) = map(json.loads, (tmp_path / "out" / f"{part}.jsonl").read_text().splitlines())
    assert row.pop("case") == case
    assert "error" not in row
    assert len(row) > 0


def test_without_a_gpu_it_says_how_to_rehearse() -> None:
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    finished = subprocess.run([GPU, "--part", "codec"], env=environment, capture_output=True, text=True)
    assert finished.returncode == 1
    assert finished.stderr.strip() == "there is no GPU; --rehearse runs the same lines on a CPU"
