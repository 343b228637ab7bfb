"""Params changed for one run: what `python -m taehv.launch --set` and `mlflow run -P set=` take.

The values are read by hydra's grammar, as `dvc exp run -S` reads them, so that both mean the same.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, QuotedString
from hydra.errors import HydraException

from taehv.config.params import Params, parse_params
from taehv.config.sections import read_file
from taehv.runtime import paths
from taehv.runtime.errors import ConfigError, Problem

ORIGIN = "--set"


def split_overrides(text: str) -> list[str]:
    """`loss.recon=10 seed=3` as single overrides; quotes protect spaces.

    Raises:
        ConfigError: a quotation does not end.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(ORIGIN, [Problem("(text)", f"cannot be split at its spaces: {error}")]) from error


def overridden_params(overrides: Sequence[str], path: Path = paths.PARAMS) -> Params:
    """params.yaml with the changes, checked as strictly as the file itself.

    Raises:
        ConfigError: the file cannot be read, an override is not `key=value`, or the changed params have problems; all
            of them are listed.
    """
    raw = read_file(path)
    problems = [problem for text in overrides if (problem := _apply(raw, text)) is not None]
    origin = f"{path} with {shlex.join(overrides)}"
    try:
        params = parse_params(raw, origin=origin)
    except ConfigError as error:
        raise ConfigError(origin, [*problems, *error.problems]) from error
    if problems:
        raise ConfigError(ORIGIN, problems)
    return params


def _apply(raw: Any, text: str) -> Problem | None:
    """Change ``raw``; what is wrong with the override otherwise. Unknown keys are the schema's business."""
    try:
        override: Override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        return Problem(text, f"is not key=value: {str(error).splitlines()[0]}")
    if override.type is not OverrideType.CHANGE or override.is_sweep_override():
        return Problem(text, "must be key=value; keys cannot be added or deleted, and one run has one value")
    section, *keys = raw, *override.key_or_group.split(".")
    for number, key in enumerate(keys):
        if not isinstance(section, dict) or key not in section:
            known = ", ".join(map(str, section)) if isinstance(section, dict) else "none, it is a value"
            return Problem(".".join(keys[: number + 1]), f"unknown key; known here: {known}")
        if number + 1 < len(keys):
            section = section[key]
    section[keys[-1]] = _plain(override.value())
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    return value
