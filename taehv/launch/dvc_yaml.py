"""What dvc.yaml declares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from taehv.runtime import paths
from taehv.runtime.errors import UserError
from taehv.runtime.yaml_files import YamlFileError, read_yaml

OUTPUTS = ("outs", "metrics", "plots")


def declared_stages() -> dict[str, Any]:
    """dvc.yaml's stages by name, in its order.

    Raises:
        UserError: dvc.yaml cannot be read.
    """
    try:
        content: Any = read_yaml(paths.DVC_YAML)
        return {str(name): dict(stage) for name, stage in content["stages"].items()}
    except (OSError, YamlFileError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{paths.DVC_YAML} cannot be read ({error}); take it from the commit again: git checkout {paths.DVC_YAML}"
        ) from error


def declared_outputs() -> list[Path]:
    """Every output of every stage, relative to the working directory.

    Raises:
        UserError: dvc.yaml cannot be read.
    """
    listed = [out for stage in declared_stages().values() for key in OUTPUTS for out in stage.get(key) or []]
    # An output with settings of its own is {path: {cache: false, ...}}.
    return [Path(next(iter(out)) if isinstance(out, dict) else str(out)) for out in listed]
