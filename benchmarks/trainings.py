"""Many trainings of the embedded default, each in a process of its own: seeds, and the founding story.

    python benchmarks/trainings.py seeds --seeds 0 1 2 3 4
    python benchmarks/trainings.py founding-story --seeds 0 1 2
    python benchmarks/trainings.py tune --seeds 100 --set scales.embedded.optim.muon_lr=0.02
    python benchmarks/trainings.py table

Needs `dvc repro prepare_data`. Each training is a800_test's, on the prepared clips, without DVC and tracking; it takes
about 8 minutes on one core. Results are appended to benchmarks/trainings.jsonl as they come in. A training that is
there already, with the same parameters and data, is not run again: an interrupted call goes on where it ended.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "benchmarks/trainings.jsonl"
SHIFT = 3

LEGACY: dict[str, Any] = {
    "loss.recon": 0.1,
    "loss.encoder": 1.0,
    "loss.decoder": 1.0,
    "loss.perceptual": 0.02,
    "loss.seraena": 0.3,
}
GUIDE: dict[str, Any] = {
    "loss.recon": 10.0,
    "loss.encoder": 0.1,
    "loss.decoder": 0.1,
    "loss.perceptual": 0.1,
    "loss.seraena": 0.1,
}
RECON_ONLY: dict[str, Any] = dict.fromkeys(GUIDE, 0.0) | {"loss.recon": 10.0}
ADVERSARY_AT_ONCE: dict[str, Any] = {"scales.embedded.seraena.start_step": 1}
LEGACY_RATE_RATIO = 0.5
"""The legacy learning rate, 5e-5, against the guide's 1e-4."""


def legacy_rates(params: dict[str, Any]) -> dict[str, float]:
    """The embedded rates, lowered as the legacy configuration is below the guide."""
    optim = params["scales"]["embedded"]["optim"]
    return {f"scales.embedded.optim.{key}": optim[key] * LEGACY_RATE_RATIO for key in ("lr", "muon_lr")}


def founding_story(params: dict[str, Any]) -> dict[str, tuple[dict[str, Any], str]]:
    """By name: changed parameters, and the mistake that is made on purpose."""
    legacy = LEGACY | ADVERSARY_AT_ONCE
    slow = legacy | legacy_rates(params)
    return {
        "guide": (GUIDE, "none"),
        "recon only": (RECON_ONLY, "none"),
        "legacy": (slow, "none"),
        "legacy, our learning rate": (legacy, "none"),
        "legacy + 3-frame shift": (slow, "shifted training"),
        "guide + 3-frame shift": (GUIDE, "shifted training"),
        "guide, validation on shifted targets": (GUIDE, "shifted validation"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=["seeds", "founding-story", "tune", "table"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changed parameters, for tune")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, on one core each (default: 2)")
    options = parser.parse_args()
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    changes = {key: yaml.safe_load(value) for key, value in (item.split("=", 1) for item in options.set)}
    studies: dict[str, dict[str, tuple[dict[str, Any], str]]] = {
        "seeds": {"default": ({}, "none")},
        "founding-story": founding_story(params),
        "tune": {" ".join(options.set) or "default": (changes, "none")},
        "table": {},
    }
    planned = [
        {"study": options.study, "name": name, "seed": seed, "changes": changed, "mistake": mistake}
        for seed in options.seeds
        for name, (changed, mistake) in studies[options.study].items()
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(run_unless_done, planned))
    print(table(results()))


def run_unless_done(plan: dict[str, Any]) -> None:
    """Train in a process of its own and append its result."""
    if any(all(done[key] == plan[key] for key in plan) for done in results()):
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", "from benchmarks.trainings import train; train()"]
        environment = os.environ | {"DVC_ROOT": folder, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        finished = subprocess.run(
            command, cwd=REPOSITORY, env=environment, input=json.dumps(plan), text=True, capture_output=True
        )
    if finished.returncode != 0:
        sys.exit(f"{plan}\n{finished.stderr[-3000:]}")
    line = finished.stdout.splitlines()[-1]
    with RESULTS.open("a") as file:
        file.write(line + "\n")
    print(line[:300], flush=True)


def train() -> None:
    """The child process: one training, its plan on standard input, its result on standard output."""
    from taehv import paths
    from taehv.params import parse_params
    from taehv.profiles import load_profile
    from taehv.training.job import TrainingJob
    from taehv.training.loop import Trainer, start_accelerator
    from taehv.training.recorder import NullRecorder

    plan = json.load(sys.stdin)
    raw = changed(yaml.safe_load(Path("params.yaml").read_text()), plan["changes"] | {"seed": plan["seed"]})
    raw["a800_test"]["abort_below_db"] = 0.0
    profile = load_profile("local")
    profile = type(profile)(**{**vars(profile), "threads": 1})
    dataset = json.loads(paths.DATASET.read_text())["dataset_sha256"]
    job = TrainingJob("a800_test", parse_params(raw), profile, dataset, paths.CLIPS, paths.TEACHER)
    with made_on_purpose(plan["mistake"]):
        outcome = Trainer(job, start_accelerator(job), NullRecorder()).run()
    keys = ("clips_per_second", "loss_terms", "counters", "dataset_sha256")
    measured = {key: outcome.metrics[key] for key in keys}
    history = outcome.state.progress.history
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    print(json.dumps(plan | {"commit": commit.stdout.strip(), "history": history} | measured))


def changed(params: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with some dotted keys set."""
    params = copy.deepcopy(params)
    for key, value in changes.items():
        *parents, last = key.split(".")
        section = params
        for parent in parents:
            section = section[parent]
        if last not in section:
            raise SystemExit(f"params.yaml has no {key}")
        section[last] = value
    return params


@contextlib.contextmanager
def made_on_purpose(mistake: str) -> Iterator[None]:
    """Compare decoded frame j with input frame j + 3, in training or in validation."""
    from taehv.alignment import common_frames

    def shifted(decoded: Any, frames: Any) -> Any:
        return common_frames(decoded, frames[:, SHIFT:])

    targets = {
        "none": (),
        "shifted training": ("taehv.losses.recon.common_frames",),
        "shifted validation": ("taehv.metrics.common_frames",),
    }[mistake]
    with contextlib.ExitStack() as stack:
        for target in targets:
            stack.enter_context(mock.patch(target, shifted))
        yield


def results() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and range over seeds of the last validation, by study and name."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["study"], row["name"]].append(row)
    lines = ["| study | training | seeds | PSNR dB, mean (range) | worst clip | by source | gradient shares |"]
    lines.append("|---|---|---|---|---|---|---|")
    for (study, name), members in groups.items():
        last = [member["history"][-1] for member in members]
        psnr = [row["psnr"] for row in last]
        spread = f"{statistics.mean(psnr):.2f} ({min(psnr):.2f} .. {max(psnr):.2f})"
        sources = ", ".join(
            f"{source.split('.')[0]} {statistics.mean(row['psnr_by_source'][source] for row in last):.1f}"
            for source in last[0]["psnr_by_source"]
        )
        pulls = ", ".join(f"{t} {entry.get('gradient_share', 0):.0%}" for t, entry in members[0]["loss_terms"].items())
        worst = min(row["psnr_worst_clip"] for row in last)
        seeds = " ".join(str(member["seed"]) for member in members)
        lines.append(f"| {study} | {name} | {seeds} | {spread} | {worst:.1f} | {sources} | {pulls} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
