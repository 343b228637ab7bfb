"""Examinations of this repository's own parameters, changed as a test needs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from support.project import REPOSITORY, merge

from taehv.config.params import Params, TrainingStage, parse_params
from taehv.config.profiles import Profile, load_profile
from taehv.doctor.check import Check
from taehv.doctor.context import RunContext


def changed_params(changes: Mapping[str, Any] | None = None) -> Params:
    raw = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    merge(raw, changes or {})
    return parse_params(raw)


def changed_profile(name: str = "local", **changes: Any) -> Profile:
    return load_profile(name, REPOSITORY / "profiles").model_copy(update=changes)


def context(
    params: Params | None = None,
    profile: Profile | None = None,
    stages: tuple[TrainingStage, ...] = ("a800_test", "h100_train"),
    *,
    whole_pipeline: bool = True,
    at_start_of_stage: bool = False,
) -> RunContext:
    return RunContext(
        params or changed_params(), profile or changed_profile(), stages, whole_pipeline, at_start_of_stage
    )


def levels(check_results: list[Check]) -> dict[str, str]:
    return {check_result.name: check_result.level for check_result in check_results}


def found(check_results: list[Check], name: str) -> Check:
    (check_result,) = [check_result for check_result in check_results if check_result.name == name]
    return check_result
