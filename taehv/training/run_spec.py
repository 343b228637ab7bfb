"""What one training run is: stage, parameters, machine, data, and the hash that identifies it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from taehv.config.params import Params, TrainingStage
from taehv.config.profiles import Profile
from taehv.config.stage_keys import stage_params
from taehv.data.dataset import Dataset
from taehv.runtime.hashing import sha256_of_json
from taehv.runtime.paths import TrainingOutputs, work_folder

CHECKPOINT_FORMAT = 3


@dataclass(frozen=True)
class RunSpec:
    stage: TrainingStage
    params: Params
    profile: Profile
    dataset: Dataset
    teacher: Path
    """The teacher's folder."""
    continue_from: Path | None = None
    """A published checkpoint of another stage to start from."""
    resume: Path | None = None
    """A checkpoint of this very run to go on from, chosen by hand."""

    @property
    def total_steps(self) -> int:
        return self.params.total_steps(self.stage)

    @cached_property
    def stage_params(self) -> dict[str, Any]:
        """What the result depends on, by dotted key."""
        return stage_params(self.params, self.stage)

    @cached_property
    def params_sha256(self) -> str:
        return sha256_of_json(self.stage_params)

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the run: equal fingerprints may continue each other's work, others never."""
        return sha256_of_json(
            {
                "stage": self.stage,
                "params": self.stage_params,
                "dataset_sha256": self.dataset.sha256,
                "checkpoint_format": CHECKPOINT_FORMAT,
            }
        )

    @property
    def work(self) -> TrainingOutputs:
        """The unfinished outputs, outside DVC's."""
        return TrainingOutputs(work_folder(self.stage, self.fingerprint))
