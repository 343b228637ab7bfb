"""Examinations of this repository's own parameters, changed as a test needs them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import yaml
from support.project import REPOSITORY, merge

from taehv.config.params import Params, TrainingStage, parse_params
from taehv.config.profiles import Profile, load_profile
from taehv.doctor.check_result import Finding
from taehv.doctor.context import Examination


def changed_params(changes: Mapping[str, Any] | None = None) -> Params:
    raw = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    merge(raw, changes or {})
    return parse_params(raw)


def changed_profile(name: str = "local", **changes: Any) -> Profile:
    return dataclasses.replace(load_profile(name, REPOSITORY / "profiles"), **changes)


def examination(
    params: Params | None = None,
    profile: Profile | None = None,
    stages: tuple[TrainingStage, ...] = ("a800_test", "h100_train"),
    *,
    whole_pipeline: bool = True,
    at_start_of_stage: bool = False,
) -> Examination:
    return Examination(
        params or changed_params(), profile or changed_profile(), stages, whole_pipeline, at_start_of_stage
    )


def levels(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.level for finding in findings}


def found(findings: list[Finding], name: str) -> Finding:
    (finding,) = [finding for finding in findings if finding.name == name]
    return finding
