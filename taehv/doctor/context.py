"""What is about to run, as the checks see it."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from taehv.config.params import Params, TrainingStage
from taehv.config.profiles import Profile
from taehv.data.dataset import Dataset
from taehv.data.store_files import StoreError
from taehv.runtime import paths
from taehv.tracking.probe import Probe, probe_store, reach_store
from taehv.training.run_spec import RunSpec

BEHIND_A800_TEST = frozenset({"h100_train", "evaluate"})
"""DVC targets that train h100_train too."""


@dataclass(frozen=True)
class RunContext:
    """The stages to be looked at, their parameters, and the machine."""

    params: Params
    profile: Profile
    stages: tuple[TrainingStage, ...]
    whole_pipeline: bool
    """DVC will run what comes before these stages; without it, their inputs must be there already."""
    at_start_of_stage: bool = False
    """Only what takes a moment: the stage starts its processes itself, and a dead tracking server does not stop it."""
    opened: Dataset | None = None
    """The prepared data, where the stage has opened it."""

    @functools.cached_property
    def probe(self) -> Probe:
        """The tracking store's answer; asked once."""
        return reach_store() if self.at_start_of_stage else probe_store()

    @functools.cached_property
    def dataset(self) -> Dataset | None:
        """The prepared data; None where there is none."""
        try:
            return self.opened or Dataset.open()
        except StoreError:
            return None

    def spec(self, stage: TrainingStage) -> RunSpec:
        """The run of a stage; without prepared data it has a fingerprint that no earlier work has."""
        dataset = self.dataset or Dataset("not prepared", "not prepared", paths.CLIPS)
        return RunSpec(stage, self.params, self.profile, dataset, paths.TEACHER)


def stages_of(profile: Profile) -> tuple[TrainingStage, ...]:
    """The training stages that a profile's machine runs up to."""
    if BEHIND_A800_TEST & set(profile.targets):
        return ("a800_test", "h100_train")
    return ("a800_test",)
