"""One training process of the distributed tests: trains in a prepared project and writes down what it saw.

    torchrun --nproc_per_node W worker.py REPORT_FOLDER [poison [STEPS]] [interrupt] [unreadable]

``poison``: from step 2 on, for that many steps (1), the last process gets a gradient that is not a number.
``interrupt``: in step 10 the last process gets SIGTERM.
``unreadable``: the last process cannot read the newest checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from taehv.config.params import load_params
from taehv.config.profiles import load_profile
from taehv.data.dataset import Dataset
from taehv.runtime import paths
from taehv.runtime.errors import exit_with
from taehv.training import resume
from taehv.training.build import start_accelerator
from taehv.training.checkpoint import CheckpointError, CheckpointInfo, read_checkpoint_manifest
from taehv.training.run_spec import RunSpec
from taehv.training.trainer import Trainer


class Keeper:
    """Keeps what it is told."""

    kept_at_start = 0

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.rows.append({"step": step, **values})

    def keep(self) -> int:
        return len(self.rows)


def main() -> int:
    report_folder = Path(sys.argv[1])
    spec = RunSpec("a800_test", load_params(), load_profile(), Dataset.open(), paths.TEACHER)
    accelerator = start_accelerator(spec)
    keeper = Keeper()
    trainer = Trainer(spec, accelerator, keeper)
    draws: dict[int, list[Any]] = {}
    first_gradient: list[list[float]] = []
    load, clip = trainer.loader.frames, torch.nn.utils.clip_grad_norm_

    def remember_draws(step: int) -> Any:
        draws[step] = [vars(draw) for draw in trainer.loader.draws(step)]
        return load(step)

    def remember_gradient(parameters: Any, limit: float) -> Any:
        listed = list(parameters)
        if not first_gradient:
            first_gradient.append(torch.cat([p.grad.flatten() for p in listed]).tolist())
        return clip(listed, limit)

    trainer.loader.frames = remember_draws  # type: ignore[method-assign]
    torch.nn.utils.clip_grad_norm_ = remember_gradient  # type: ignore[assignment]
    if accelerator.process_index == accelerator.num_processes - 1:
        if "poison" in sys.argv:
            poison(trainer, steps=int(sys.argv[sys.argv.index("poison") + 1]))
        if "interrupt" in sys.argv:
            interrupt_step_10(trainer)
        if "unreadable" in sys.argv:
            fail_to_read_the_newest_checkpoint()
    with trainer.stop_requests.listening():
        outcome = trainer.run()
    weights = b"".join(value.numpy().tobytes() for value in trainer.state.student.state_dict().values())
    report = {
        "rank": int(os.environ.get("RANK", "0")),
        "draws": draws,
        "rows": keeper.rows,
        "gradient": first_gradient[0] if first_gradient else None,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "history": trainer.state.progress.history,
        "summary": outcome.summary,
    }
    (report_folder / f"rank-{report['rank']}.json").write_text(json.dumps(report))
    return 0


def poison(trainer: Trainer, steps: int) -> None:
    teacher = trainer.train_step._teacher
    assert teacher is not None
    encode, calls = teacher.encode, [0]

    def poisoned(frames: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return encode(frames) * (math.nan if 2 <= calls[0] < 2 + steps else 1.0)

    teacher.encode = poisoned  # type: ignore[method-assign,assignment]


def fail_to_read_the_newest_checkpoint() -> None:
    read, calls = read_checkpoint_manifest, [0]

    def unreadable(checkpoint: Path) -> CheckpointInfo:
        calls[0] += 1
        if calls[0] == 1:
            raise CheckpointError(f"{checkpoint} is damaged")
        return read(checkpoint)

    resume.read_checkpoint_manifest = unreadable  # type: ignore[attr-defined]


def interrupt_step_10(trainer: Trainer) -> None:
    load = trainer.loader.frames

    def interrupted(step: int) -> torch.Tensor:
        if step == 10:
            os.kill(os.getpid(), signal.SIGTERM)
        return load(step)

    trainer.loader.frames = interrupted  # type: ignore[method-assign]


if __name__ == "__main__":
    exit_with(main)
