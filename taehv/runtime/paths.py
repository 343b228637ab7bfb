"""The one place that knows where things are, relative to the pipeline's working directory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PARAMS = Path("params.yaml")
DVC_YAML = Path("dvc.yaml")
DVC_LOCK = Path("dvc.lock")
PROFILES = Path("profiles")

DATA = Path("data")
MANIFEST = DATA / "manifest"
CLIPS = DATA / "clips"
TEACHER = DATA / "teacher"
QUARANTINE = DATA / "quarantine.csv"
DATASET = DATA / "dataset.json"
PREPARE_PARAMS = DATA / "params.resolved.yaml"

RUNS = Path("runs")
GATE_VERDICT = RUNS / "gate_psnr.json"
GATE_PARAMS = RUNS / "gate_psnr.params.yaml"
GATE_METRICS = RUNS / "gate_psnr.metrics.json"
REPORTS = Path("reports")
EVALUATION = REPORTS / "evaluation.json"
PARITY = REPORTS / "parity.json"
REPORT_METRICS = REPORTS / "metrics.json"
REPORT_PARAMS = REPORTS / "params.resolved.yaml"


DVC_EXPERIMENTS = Path(".dvc/tmp/exps")
"""Below a repository: where DVC runs its queued and temporary experiments, each in a copy."""
MAIN_REPOSITORY_VARIABLE = "TAEHV_ROOT"
"""For a copy that someone else than DVC has made: the repository that it is a copy of."""


def main_repository() -> Path:
    """The repository that the user works in.

    Queued and temporary DVC experiments run in a copy; DVC_ROOT then names the main repository, where stores that
    outlive the copy belong (the tracking database, work in progress).
    """
    named = os.environ.get(MAIN_REPOSITORY_VARIABLE)
    if named:
        return Path(named).resolve()
    return Path(os.environ["DVC_ROOT"] if is_run_by_our_dvc() else ".").resolve()


def is_run_by_our_dvc() -> bool:
    """Whether DVC_ROOT is about the repository that we work in.

    Another project's DVC, of which this is a stage, sets it too, and a shell keeps what someone exported: it counts
    where it names the working directory, or the repository whose experiments' folder the working directory is in.
    """
    root, here = os.environ.get("DVC_ROOT"), Path.cwd().resolve()
    if not root:
        return False
    return here == Path(root).resolve() or here.is_relative_to((Path(root) / DVC_EXPERIMENTS).resolve())


@dataclass(frozen=True)
class TrainingOutputs:
    """The files of one training run, below ``root``."""

    root: Path

    @property
    def best_model(self) -> Path:
        return self.root / "best_model"

    @property
    def best_weights(self) -> Path:
        return self.best_model / "model.safetensors"

    @property
    def best_info(self) -> Path:
        return self.best_model / "model_info.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def history(self) -> Path:
        return self.root / "validation_history.json"

    @property
    def summary(self) -> Path:
        """How the training went and what it was: everything that a judgement needs."""
        return self.root / "summary.json"

    @property
    def metrics(self) -> Path:
        """The few numbers that DVC shows in its tables; see taehv/runtime/dvc_metrics.py."""
        return self.root / "metrics.json"

    @property
    def log(self) -> Path:
        return self.root / "train.log"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def samples(self) -> Path:
        return self.root / "samples"

    @property
    def mlflow(self) -> Path:
        return self.root / "mlflow.json"

    @property
    def params(self) -> Path:
        return self.root / "params.resolved.yaml"


def training_outputs(stage: str) -> TrainingOutputs:
    """Where a finished training stage's outputs are."""
    return TrainingOutputs(RUNS / stage)


def work_folder(stage: str, fingerprint: str) -> Path:
    """Where a stage's unfinished work lives: outside DVC's outputs, so that a rerun finds it again."""
    return main_repository() / ".work" / stage / fingerprint[:16]


def compiled_folder() -> Path:
    """Where GPU code that was compiled is kept, for all trainings."""
    return main_repository() / ".work" / "compiled"
