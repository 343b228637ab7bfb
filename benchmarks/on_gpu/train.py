"""A short training of the embedded scale on the GPU: killed and resumed, does it end with the bits of one that was not?

Every training is a process of its own. Clips come from the file that CLIPS names, (clips, T, 3, H, W) uint8 as one
``.npy``, or are drawn by a formula; parameters travel as JSON. Neither pyarrow nor av is needed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.on_gpu.session import Session
from taehv.config.params import parse_params
from taehv.config.profiles import load_profile
from taehv.data.clip_index import ClipColumns
from taehv.data.dataset import Dataset
from taehv.model.variants import VARIANTS
from taehv.runtime.yaml_files import read_yaml
from taehv.teachers.pca import blocks_of, fit_pca
from taehv.training.build import start_accelerator
from taehv.training.run_spec import RunSpec
from taehv.training.trainer import NullRecorder, Trainer

REPOSITORY = Path(__file__).parents[2]
SOURCES = ("a", "b", "c")


def run(session: Session) -> None:
    steps = 4 if session.rehearsal else 120
    for precision in ("fp32",) if session.rehearsal else ("fp32", "bf16"):
        session.case(f"kill and resume, {precision}", partial(kill_and_resume, session, precision, steps))


def kill_and_resume(session: Session, precision: str, steps: int) -> dict[str, Any]:
    """Trains twice: in one go, and killed (-9) after two thirds and started again."""
    with tempfile.TemporaryDirectory() as folder:
        whole = child(session, Path(folder) / "whole", precision, steps, kill_at=None)
        killed = child(session, Path(folder) / "killed", precision, steps, kill_at=2 * steps // 3)
        if killed["exit"] != -signal.SIGKILL:
            raise AssertionError(f"was not killed: {killed}")
        resumed = child(session, Path(folder) / "killed", precision, steps, kill_at=None)
    if not resumed["resumed_from"]:
        raise AssertionError("began anew instead of going on from its checkpoint")
    found = {
        "equal bits": whole["sha256"] == resumed["sha256"],
        "PSNR": whole["psnr"],
        "PSNR at the start": whole["psnr_at_start"],
        "clips/s": whole["clips_per_second"],
        "seconds": whole["seconds"],
    }
    if not found["equal bits"]:
        raise AssertionError(f"resumed, it ended with other weights: {whole} and {resumed}")
    return found


def child(session: Session, folder: Path, precision: str, steps: int, kill_at: int | None) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    order = {"steps": steps, "precision": precision, "kill_at": kill_at, "rehearsal": session.rehearsal}
    (folder / "order.json").write_text(json.dumps(order))
    command = [sys.executable, "-m", "benchmarks.on_gpu.train", str(folder)]
    cache = os.environ["TORCHINDUCTOR_CACHE_DIR"]  # of the session: a training of its own would compile anew
    environment = {**os.environ, "DVC_ROOT": str(folder), "TORCHINDUCTOR_CACHE_DIR": str(Path(cache).resolve())}
    finished = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)
    log = finished.stdout + finished.stderr
    session.say("  " + "\n    ".join(line for line in log.splitlines() if "compil" in line or "rror" in line)[:1500])
    if kill_at is not None:
        return {"exit": finished.returncode}
    if finished.returncode != 0:
        raise AssertionError(log[-1500:])
    return dict(json.loads((folder / "report.json").read_text()))


class ArrayClips:
    """Stands for the clip store: every clip of one split, in memory."""

    def __init__(self, clips: npt.NDArray[np.uint8]) -> None:
        self._clips = clips
        self.sources = SOURCES
        count, frames, _, height, width = clips.shape
        of_each = count * np.arange(len(SOURCES) + 1) // len(SOURCES)
        self._columns = ClipColumns(
            of_each,
            *(np.full(count, size) for size in (frames, height, width)),
            shards=np.zeros(count, int),
            smallest=(frames, height, width),
        )
        names = np.repeat(SOURCES, np.diff(of_each))
        self.records = tuple(SimpleNamespace(clip_id=number, source=name) for number, name in enumerate(names))

    def __len__(self) -> int:
        return len(self._clips)

    def columns(self) -> ClipColumns:
        return self._columns

    def clip(self, clip_id: int) -> npt.NDArray[np.uint8]:
        return self._clips[clip_id]


def stored_clips() -> npt.NDArray[np.uint8]:
    if "CLIPS" in os.environ:
        return np.load(os.environ["CLIPS"], mmap_mode="r")
    generator = np.random.default_rng(0)
    t, y, x = np.ogrid[:12, :80, :96]
    clips = [
        127 + 60 * np.sin(x / a + t / 3)[:, None] + 60 * np.cos(y / b - t / 4)[:, None] * np.ones((1, 3, 1, 1))
        for a, b in generator.uniform(3, 20, (12, 2))
    ]
    return np.stack(clips).astype(np.uint8)


def train(folder: Path) -> None:
    order = json.loads((folder / "order.json").read_text())
    clips = stored_clips()
    held_out = len(clips) // 4
    params = parse_params(ordered_params(order))
    variant = VARIANTS[params.active.model.variant]
    teacher = fit_pca(
        (blocks_of(torch.from_numpy(clip[None].copy()), variant).flatten(0, -2) for clip in clips), variant
    )
    (folder / "teacher").mkdir(exist_ok=True)
    teacher.teacher.save(folder / "teacher", {})
    gpus = 0 if order["rehearsal"] else 1
    profile = load_profile("local", REPOSITORY / "profiles").model_copy(
        update={
            "gpus": gpus,
            "per_device": 4,
            "checkpoint_every": max(1, order["steps"] // 4),
            "log_terms_every": order["steps"],
            "validation_batch": 4,
            "threads": 1,
        }
    )
    spec = RunSpec("a800_test", params, profile, Dataset("0" * 64, "0" * 64, folder / "clips"), folder / "teacher")
    stores = {"train": ArrayClips(clips[held_out:]), "val": ArrayClips(clips[:held_out])}
    with mock.patch.object(Dataset, "split", lambda self, name, verify_reads: stores[name]):
        trainer = Trainer(spec, start_accelerator(spec), NullRecorder())
    load = trainer.loader.frames

    def killed_at_some_step(step: int) -> torch.Tensor:
        if step == order["kill_at"]:
            trainer.checkpoints.wait()
            os.kill(os.getpid(), signal.SIGKILL)
        return load(step)

    trainer.loader.frames = killed_at_some_step  # type: ignore[method-assign]
    begun = time.monotonic()
    trainer.run()
    state = trainer.state
    optimizers = state.optimizers.state_tensors()
    tensors = [*state.student.state_dict().values(), *state.ema.state_dict().values()]
    tensors += [optimizers[name] for name in sorted(optimizers)]
    report = {
        "sha256": hashlib.sha256(b"".join(tensor.cpu().numpy().tobytes() for tensor in tensors)).hexdigest(),
        "psnr": state.progress.history[-1]["psnr"],
        "psnr_at_start": state.progress.history[0]["psnr"],
        "clips_per_second": trainer.run_metrics.clips_per_second,
        "seconds": time.monotonic() - begun,
        "resumed_from": trainer.run_metrics._steps < order["steps"],
    }
    (folder / "report.json").write_text(json.dumps(report))


def ordered_params(order: dict[str, Any]) -> Any:
    """params.yaml's embedded scale, shortened; the adversary comes in half way."""
    raw: Any = read_yaml(REPOSITORY / "params.yaml")
    steps = order["steps"]
    scale = raw["scales"]["embedded"]
    raw["gate"]["step"] = steps
    scale["steps"] = {"a800_test": steps, "h100_train": steps}
    scale["validation"]["every"] = scale["checkpoint"]["every"] = steps
    scale["precision"] = order["precision"]
    scale["distillation"] = {"boost": 100.0, "until_step": steps // 4, "end_step": steps // 2}
    scale["seraena"] |= {"start_step": steps // 2, "ramp_steps": 1}
    return raw


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(Path(sys.argv[1]))
