"""What a stage used of the things that DVC writes into dvc.lock, and whether they are still the same.

DVC reads parameters and code when a stage has ended. What was edited while it ran would be recorded as used, and the
next `dvc repro` would find everything up to date.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taehv.config.params import Params, StageName, load_params
from taehv.config.stage_keys import stage_params
from taehv.launch.dvc_yaml import declared_stages
from taehv.runtime import paths
from taehv.runtime.errors import ConfigError, UserError
from taehv.runtime.failpoints import Failpoint, failpoint
from taehv.runtime.hashing import sha256_of_file

CODE = ("stages/", "taehv/")
"""How the dependencies in dvc.yaml begin that are code."""
SHOWN = 5
"""Edits in a message."""


@dataclass(frozen=True)
class RecordedInputs:
    """The parameters, the code and the other files that dvc.yaml lists for a stage, as they were at its start.

    Folders of data are left out: hashing them takes long, and the clips have checksums of their own.
    """

    stage: StageName
    params: Mapping[str, Any]
    """Value by dotted key."""
    dependencies: tuple[str, ...]
    """As dvc.yaml lists them: files and folders."""
    files: Mapping[str, str | None]
    """sha256 by path; None where there is no such file."""

    @classmethod
    def at_start(cls, stage: StageName, params: Params) -> RecordedInputs:
        """Note what is there now; ``params`` are those that the stage uses.

        Raises:
            UserError: dvc.yaml, or a file that it lists, cannot be read.
        """
        declared = declared_stages()
        try:
            dependencies = tuple(declared[stage]["deps"])
            return cls(stage, stage_params(params, stage), dependencies, _hashes(dependencies))
        except (OSError, LookupError, TypeError) as error:
            raise UserError(f"{paths.DVC_YAML}, or a file that it lists, cannot be read: {error}") from error

    @property
    def code(self) -> dict[str, str | None]:
        """The part of ``files`` that is code."""
        return {path: sha256 for path, sha256 in self.files.items() if path.startswith(CODE)}

    def edits(self) -> list[str]:
        """What is not any more as it was; empty where DVC will record what was used."""
        try:
            params = stage_params(load_params(), self.stage)
        except ConfigError as error:
            first = str(error.problems[0]).splitlines()[0].rstrip(":")
            edits = [f"{paths.PARAMS} is not usable any more ({first})"]
        else:
            edits = [
                f"{paths.PARAMS}: {key} was {_shown(self.params, key)}, is {_shown(params, key)}"
                for key in sorted(self.params.keys() | params.keys())
                if key not in params or key not in self.params or params[key] != self.params[key]
            ]
        files = _hashes(self.dependencies)
        return edits + [
            f"{path} changed"
            for path in sorted(self.files.keys() | files.keys())
            if self.files.get(path) != files.get(path)
        ]

    def refuse_edits(self, consequence: str) -> None:
        """Let the stage fail, so that DVC records nothing, where something was edited.

        Args:
            consequence: what becomes of the stage's work, and what to do; the end of the message.

        Raises:
            UserError: something was edited since the start.
        """
        failpoint(Failpoint.EDITS)
        edits = self.edits()
        if edits:
            raise UserError(
                f"edited while {self.stage} ran, and not what it used: {named_edits(edits)}. DVC would record the "
                f"edited state as used, so the stage ends as failed. {consequence}"
            )


RUN_AGAIN = "Run the same command again: it makes the outputs from what is there now"
"""What becomes of a stage that takes little time."""


def named_edits(edits: list[str]) -> str:
    """For a message."""
    more = len(edits) - SHOWN
    return "; ".join(edits[:SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _hashes(dependencies: Iterable[str]) -> dict[str, str | None]:
    files = {path.as_posix(): path for dependency in dependencies for path in _files_below(dependency)}
    return {name: sha256_of_file(path) if path.is_file() else None for name, path in sorted(files.items())}


def _files_below(dependency: str) -> Iterator[Path]:
    path = Path(dependency)
    if not path.is_dir():
        yield path
    elif dependency.startswith(CODE):
        # .dvcignore leaves out the same: what Python makes of the code, and files that are being written.
        kept = (file for file in path.rglob("*") if file.suffix not in (".pyc", ".partial"))
        yield from (file for file in kept if file.is_file())


def _shown(params: Mapping[str, Any], key: str) -> str:
    return str(params[key]) if key in params else "absent"
