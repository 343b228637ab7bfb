"""Benchmarks that nobody runs for months still run: each for a step or a round, on tiny data."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.project import REPOSITORY, Project

from benchmarks.pipeline import row_of, watch_memory

pytestmark = pytest.mark.slow

STEPS = """
import torch
from benchmarks.train_step import Setting, build, compare
for precision in ("bf16", "fp32", "bf16"):
    step = build(Setting("embedded", 32, 32, 2, precision, ("recon",)), torch.device("cpu"))
    step(1)
    print(precision)
compare(Setting("embedded", 32, 32, 1, "fp32", ("recon",)), torch.device("cpu"), 1, 1e12)
"""


def printed(project: Project, script: str, *options: str) -> str:
    """What a script of ``benchmarks/`` prints in a prepared project."""
    environment = project.environment({"PYTHONPATH": str(project.root), "OMP_NUM_THREADS": "1"})
    command = [sys.executable, f"benchmarks/{script}.py", *options]
    result = subprocess.run(command, cwd=project.root, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def rows(text: str) -> list[list[str]]:
    """The cells of the markdown tables, without their headings."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rules = [number for number, line in enumerate(lines) if set(line) <= set("|-")]
    headings = {*rules, *(number - 1 for number in rules)}
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for number, line in enumerate(lines)
        if number not in headings
    ]


def test_every_script_has_a_make_target_and_is_tested_here() -> None:
    helpers = {"memory"}
    scripts = {file.stem for file in (REPOSITORY / "benchmarks").glob("*.py")} - helpers
    makefile = (REPOSITORY / "Makefile").read_text()
    assert set(re.findall(r"\$\(BENCHMARK\)/(\w+)\.py", makefile)) == scripts
    tested = Path(__file__).read_text()
    assert {name for name in scripts if f'"{name}"' in tested or f"benchmarks.{name}" in tested} == scripts


def test_lists_of_videos_have_a_row_for_each_format_and_number_of_files() -> None:
    command = [sys.executable, "benchmarks/manifest.py", "--entries", "300", "--files", "3", "20"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert [row[1] for row in rows(result.stdout)] == ["300"] * 6 + ["3", "20"]


def test_a_training_step_in_two_precisions_in_one_process_and_in_both_formulations() -> None:
    """accelerate refuses another precision than the first one ("AcceleratorState has already been initialized")."""
    result = subprocess.run([sys.executable, "-c", STEPS], cwd=REPOSITORY, capture_output=True, text=True)
    lines = result.stdout.splitlines()
    assert lines[:3] == ["bf16", "fp32", "bf16"], result.stderr
    assert [line.split("|")[2].strip() for line in lines[3:]] == ["plain", "as built"]
    assert all(re.search(r"\d\.\d\d GiB \|$", line) for line in lines[3:])


def test_encode_and_decode_of_a_tiny_video() -> None:
    options = ["--height", "32", "--width", "48", "--frames", "5", "--chunk", "1", "--runs", "1", "--no-memory"]
    assert len(rows(printed(Project(REPOSITORY), "codec", *options))) >= 4


def test_one_checkpoint(prepared_tiny_project: Project) -> None:
    (row,) = rows(printed(prepared_tiny_project, "checkpoints", "--rounds", "1", "--steps", "1", "--threads", "1"))
    assert row[2].endswith(" MB") and row[3].endswith("%")


def test_every_mistake_of_a_comparison(prepared_tiny_project: Project) -> None:
    found = {row[0]: float(row[1]) for row in rows(printed(prepared_tiny_project, "comparison_mistakes"))}
    assert len(found) == 13
    assert max(found, key=lambda mistake: found[mistake]) == "none"


def test_a_training_whose_result_is_kept_and_not_trained_again(tiny_project: Project) -> None:
    results = tiny_project.root / "benchmarks/trainings.jsonl"
    before = len(results.read_text().splitlines())
    options = ["tune", "--seeds", "100", "--jobs", "1"]
    (row,) = rows(printed(tiny_project, "trainings", *options))
    assert row[:2] == ["default", "100"]
    (added,) = map(json.loads, results.read_text().splitlines()[before:])
    assert added["history"][-1]["step"] == 24
    assert rows(printed(tiny_project, "trainings", *options)) == [row]
    assert len(results.read_text().splitlines()) == before + 1


@pytest.mark.parametrize("processes", [["1"], pytest.param(["1", "2"], marks=pytest.mark.soak)])
def test_one_step_on_several_processes(prepared_tiny_project: Project, processes: list[str]) -> None:
    text = printed(prepared_tiny_project, "world_sizes", "--steps", "1", "--processes", *processes)
    (row,) = rows(text)
    assert row[0] == "1" and float(row[1]) > 0
    assert all(float(drift) < 1e-3 for drift in row[2:]) and len(row) == 1 + len(processes)


@pytest.mark.soak
def test_two_rounds_of_a_step_on_every_store(prepared_tiny_project: Project) -> None:
    options = ["--rounds", "2", "--steps", "1", "--settle", "5", "--threads", "1"]
    stores = [row[0] for row in rows(printed(prepared_tiny_project, "tracking", *options))]
    assert stores == ["no tracking", "sqlite", "live server", "server that never answers", "dead port"]


def test_the_row_of_a_pipeline_and_the_memory_of_its_processes(finished: Project) -> None:
    row, fingerprint = row_of(finished.root, "0123abc", 1.25, 2**30)
    assert re.fullmatch(
        rf"\| 0123abc \| 1\.2 \| 1\.00 GB \| \d+\.\d\d dB \| \d+\.\d\d dB \| \d+\.\d \| {fingerprint[:12]} \|", row
    )
    grows = "import subprocess, sys\nheld = bytearray(2**27)\nsubprocess.run([sys.executable, '-c', '''{}'''])"
    program = grows.format("import time; held = bytearray(2**27); time.sleep(2)")
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        assert watch_memory(process) > 2**28


def test_the_index_has_a_row_for_each_size() -> None:
    command = [sys.executable, "benchmarks/data_index.py", "--clips", "1000", "2000"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert [row[0] for row in rows(result.stdout)] == ["1,000", "2,000"], result.stderr
