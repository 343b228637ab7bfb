"""Finished training runs as files, made without training: the gate, parity and evaluation judge files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from taehv.config.params import Params, TrainingStage, dump_resolved, parse_params
from taehv.config.stage_keys import stage_params
from taehv.model.taehv import TAEHV
from taehv.model.variants import VARIANTS
from taehv.runtime.hashing import sha256_of_json
from taehv.runtime.paths import TrainingOutputs

PARAMS_FILE = Path(__file__).parents[2] / "params.yaml"
WIDTH = 0.0625
DATASET_SHA256 = "d" * 64


def make_params(**changes: Any) -> Params:
    """params.yaml with a few keys changed: ``gate__step`` is gate.step, ``at__batch`` the active scale's batch."""
    raw = yaml.safe_load(PARAMS_FILE.read_text(encoding="utf-8"))
    for dotted, value in {"at__model__width": WIDTH, **changes}.items():
        *parents, key = dotted.split("__")
        section = raw
        for parent in parents:
            section = section["scales"][raw["scale"]] if parent == "at" else section[parent]
        section[key] = value
    return parse_params(raw)


def history_row(step: int, psnr: float | None, train_loss: float | None = None, **more: Any) -> dict[str, Any]:
    row = {"step": step, "psnr": psnr, "psnr_raw": psnr, "psnr_pooled": psnr, "ssim": 0.8, "lpips": None}
    return {**row, "train_loss": train_loss, **more}


GOOD_HISTORY = [
    history_row(0, 9.0),
    history_row(250, 22.0, 0.5),
    history_row(500, 24.0, 0.2),
    history_row(750, 25.5, 0.1),
    history_row(1000, 26.5, 0.05, psnr_by_source={"a.mp4": 28.0, "b.mp4": 25.0}),
]


class FinishedRun:
    """The outputs of one training stage below ``root``, and the dataset's identity beside them."""

    def __init__(self, root: Path, params: Params, stage: TrainingStage = "a800_test") -> None:
        self.params = params
        self.stage = stage
        self.outputs = TrainingOutputs(root / "runs" / stage)
        self.dataset_json = root / "data" / "dataset.json"
        self.write(self.dataset_json, {"schema": 2, "dataset_sha256": DATASET_SHA256, "teacher_sha256": "t"})
        self.write_history(GOOD_HISTORY)
        self.write_model(seed=0, step=1000, psnr=26.5)
        self.write_summary()
        dump_resolved(params, self.outputs.params)

    def write(self, path: Path, value: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value), encoding="utf-8")

    def write_history(self, rows: list[dict[str, Any]]) -> None:
        self.write(self.outputs.history, {"schema": 1, "history": rows})

    def write_model(self, seed: int, step: int, psnr: float) -> TAEHV:
        torch.manual_seed(seed)
        model = TAEHV(VARIANTS["hunyuan_video"], WIDTH)
        info = {
            "schema": 1,
            "stage": self.stage,
            "step": step,
            "psnr": psnr,
            "variant": "hunyuan_video",
            "width": WIDTH,
        }
        self.write(self.outputs.best_info, info)
        save_file(model.state_dict(), self.outputs.best_weights)
        return model

    def write_summary(self, **changes: Any) -> None:
        summary = {
            "schema": 1,
            "stage": self.stage,
            "steps": 1000,
            "total_steps": 1000,
            "stopped_early": None,
            "best": {"step": 1000, "psnr_db": 26.5, "ssim": 0.8},
            "counters": {"skipped_steps": 0, "oom_events": 0},
            "gpu_utilisation_percent": None,
            "loss_terms": {
                "recon": {"value": 0.002, "weighted": 0.02, "share": 0.4},
                "encoder": {"value": 0.3, "weighted": 0.03, "share": 0.6},
            },
            "batch": {"global": 4, "processes": 1, "per_device": 4},
            "seed": self.params.seed,
            "params_sha256": sha256_of_json(stage_params(self.params, self.stage)),
            "dataset_sha256": DATASET_SHA256,
            "resumed_from": None,
            "git_commit": "c0ffee",
            "device": "cpu",
        }
        self.write(self.outputs.summary, summary | changes)
