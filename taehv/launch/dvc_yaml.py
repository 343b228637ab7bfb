"""What dvc.yaml declares, and whether the places of its outputs can take them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from taehv.runtime import paths
from taehv.runtime.errors import UserError
from taehv.runtime.yaml_files import YamlFileError, read_yaml

OUTPUTS = ("outs", "metrics", "plots")
ANOTHER_DISK = (
    "to have them on another disk, mount it there (mount --bind /other/disk/{name} {path}), move the whole checkout, "
    "or only DVC's cache (dvc cache dir /other/disk/cache; dvc config cache.type symlink)"
)


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


def check_output_places() -> None:
    """Look whether the place of every output can take it, before the work.

    DVC refuses what lies behind a symbolic link ("outside of git repository"), and says so when the stage has ended.

    Raises:
        UserError: one could not be saved there; all problems are listed.
    """
    problems = list(dict.fromkeys(problem for out in declared_outputs() for problem in _problems(out)))
    if problems:
        raise UserError("; ".join(problems))


def _problems(out: Path) -> Iterator[str]:
    """A link to a file is no problem: DVC makes them (cache.type symlink), and files are replaced, not written into."""
    for path in [*reversed(out.parents), out]:
        if path.is_symlink() and not path.exists():
            yield f"{path} is a link to {path.readlink()}, which is not there: mount what it leads to, or rm {path}"
        elif path.is_symlink() and path.is_dir():
            advice = ANOTHER_DISK.format(name=path.name, path=path)
            yield f"{path} is a link, and DVC saves no outputs behind one: rm {path} (the link); {advice}"
        elif path != out and path.exists() and not path.is_dir():
            yield f"{path} is a file, where a folder for outputs must be: move it elsewhere"
        else:
            continue
        return
