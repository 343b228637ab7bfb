"""How far runs of the embedded default on 1, 2 and 3 processes drift apart by rounding, in float32.

    make bench-world-sizes                    # ARGS="--steps 1000 --processes 1 2"

In exact arithmetic they are one run: tests/training/test_distributed.py holds that
their losses agree within 1e-8 over 50 steps in float64. Prints the table of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from taehv.config.params import parse_params
from taehv.config.profiles import load_profile
from taehv.data.dataset import Dataset
from taehv.runtime import paths
from taehv.training.build import start_accelerator
from taehv.training.run_spec import RunSpec
from taehv.training.trainer import Trainer

SHOWN_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class LossKeeper:
    """Records the loss of every step."""

    kept_at_start = 0

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        if "train/loss" in values:
            self.losses[step] = values["train/loss"]

    def keep(self) -> int:
        return len(self.losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 3], help="the first is compared with")
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.report is not None:
        train(options.steps, options.report)
        return
    runs = {processes: run(processes, options.steps) for processes in options.processes}
    first, *others = options.processes
    columns = ["step", f"loss on {first}", *(f"relative difference on {n}" for n in others)]
    print(f"| {' | '.join(columns)} |")
    print("|" + "---|" * len(columns))
    one = runs[first]["losses"]
    for step in [str(step) for step in SHOWN_STEPS if step <= options.steps]:
        differences = [f"{abs(runs[n]['losses'][step] / one[step] - 1):.1e}" for n in others]
        print(f"| {' | '.join([step, f'{one[step]:.5f}', *differences])} |")
    print("validation at the end: " + ", ".join(f"{found['psnr']:.3f} dB on {n}" for n, found in runs.items()))


def run(processes: int, steps: int) -> dict[str, Any]:
    """Train in processes of their own; returns the first one's report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command = [sys.executable, "-m", *launcher, __file__, "--steps", str(steps), "--report", str(report)]
        environment = os.environ | {"TAEHV_ROOT": folder, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
        subprocess.run(command, env=environment, check=True, stdout=sys.stderr)
        found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return found


def train(steps: int, report: Path) -> None:
    """One of the training processes."""
    processes = int(os.environ["WORLD_SIZE"])
    raw = yaml.safe_load(paths.PARAMS.read_text(encoding="utf-8"))
    raw["gate"]["step"] = steps
    scale = raw["scales"]["embedded"]
    scale["validation"]["every"] = scale["checkpoint"]["every"] = scale["steps"]["a800_test"] = steps
    launcher: Literal["inline", "torchrun"] = "torchrun" if processes > 1 else "inline"
    profile = load_profile("local").model_copy(
        update={"processes": processes, "threads": 1, "launcher": launcher, "log_every": 1}
    )
    spec = RunSpec("a800_test", parse_params(raw), profile, Dataset.open(), paths.TEACHER)
    keeper, accelerator = LossKeeper(), start_accelerator(spec)
    outcome = Trainer(spec, accelerator, keeper).run()
    if accelerator.is_main_process:
        psnr = outcome.state.progress.history[-1]["psnr"]
        report.write_text(json.dumps({"losses": keeper.losses, "psnr": psnr}), encoding="utf-8")


if __name__ == "__main__":
    main()
