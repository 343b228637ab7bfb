"""Whether the places of the pipeline's outputs can take them, looked at before the work.

DVC refuses what lies behind a symbolic link ("outside of git repository"), and says so when the stage has ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from taehv.launch import dvc_yaml
from taehv.runtime.errors import UserError

ANOTHER_DISK = (
    "to have them on another disk, mount it there (mount --bind /other/disk/{name} {path}), move the whole checkout, "
    "or only DVC's cache (dvc cache dir /other/disk/cache; dvc config cache.type symlink)"
)


def check() -> None:
    """Look at every output that dvc.yaml names.

    Raises:
        UserError: one could not be saved there; all problems are listed.
    """
    problems = list(dict.fromkeys(problem for out in dvc_yaml.declared_outputs() for problem in _problems(out)))
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
