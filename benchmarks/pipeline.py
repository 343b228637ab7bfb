"""The whole embedded pipeline, timed, in fresh clones: minutes, peak memory, PSNR, and whether runs agree bit for bit.

    make bench-pipeline                       # ARGS="--runs 2"

Prints one row of benchmarks/RESULTS.md per run. Commit first: a clone holds what is committed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).parents[1]
STAGES = ("a800_test", "h100_train")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1, help="runs, each in a clone of its own (default: 1)")
    runs = parser.parse_args().runs
    print("| commit | minutes | peak memory | PSNR at the gate | test PSNR | clips/s in training | best models |")
    print("|---|---|---|---|---|---|---|")
    fingerprints = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            row, fingerprint = measure(Path(folder) / "clone")
        print(row, flush=True)
        fingerprints.append(fingerprint)
    if runs > 1:
        print("bit-identical" if len(set(fingerprints)) == 1 else "NOT bit-identical")


def measure(clone: Path) -> tuple[str, str]:
    """One run: its row, and the hash of both best models."""
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=clone, capture_output=True, text=True, check=True
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    started = time.perf_counter()
    with (clone / "pipeline.log").open("w") as log:
        command = [sys.executable, "-m", "taehv.launch"]
        process = subprocess.Popen(command, cwd=clone, env={**os.environ, "PATH": path}, stdout=log, stderr=log)
        peak = watch_memory(process)
    minutes = (time.perf_counter() - started) / 60
    if process.returncode != 0:
        sys.exit((clone / "pipeline.log").read_text()[-3000:])
    return row_of(clone, commit.stdout.strip(), minutes, peak)


def row_of(clone: Path, commit: str, minutes: float, peak: int) -> tuple[str, str]:
    """The row of a pipeline that has ended, and the hash of both best models; ``peak`` is memory in bytes."""
    metrics = read(clone / "runs/a800_test/summary.json")
    gate = read(clone / "runs/gate_psnr.json")
    test = read(clone / "reports/evaluation.json")["final_psnr"]["value"]
    models = b"".join((clone / "runs" / stage / "best_model/model.safetensors").read_bytes() for stage in STAGES)
    fingerprint = hashlib.sha256(models).hexdigest()
    numbers = f"{minutes:.1f} | {peak / 2**30:.2f} GB | {gate['psnr_db']:.2f} dB | {test:.2f} dB"
    row = f"| {commit} | {numbers} | {metrics['clips_per_second']:.1f} | {fingerprint[:12]} |"
    return row, fingerprint


def watch_memory(process: subprocess.Popen[bytes]) -> int:
    """Wait for the process; returns the largest sum, in bytes, of proportional memory over it and its descendants."""
    peak = 0
    root = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        try:
            for member in [root, *root.children(recursive=True)]:
                total += member.memory_full_info().pss
        except psutil.NoSuchProcess:
            total = 0  # one ended while being counted; the next sample counts the rest
        peak = max(peak, total)
        time.sleep(0.5)
    return peak


def read(path: Path) -> Any:
    return json.loads(path.read_text())


if __name__ == "__main__":
    main()
