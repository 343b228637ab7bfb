"""`taehv track`: what tracking has not been able to send yet, and runs that move from one store to another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from taehv.runtime import paths
from taehv.runtime.errors import UserError
from taehv.runtime.paths import main_repository
from taehv.tracking.secrets import hide_secrets_in_output, without_secrets
from taehv.tracking.store import check_place, check_uri, database_file, store_errors, tracking_uri
from taehv.tracking.sync import journals, sync

HELP = "What MLflow has not been told yet, and moving runs between stores."
EXIT_LEFT = 1
NOTHING = "nothing is left to send"
NO_EXPORT = "there is nothing to export. Run it in the repository's root, or set MLFLOW_TRACKING_URI to another store"


def status() -> int:
    """List the journals whose events have not all arrived.

    \b
    taehv track status
    """
    unsent_journals = journals()
    for unsent in unsent_journals:
        print(unsent.describe())
    if not unsent_journals:
        _check_project()
        print(NOTHING)
    return 0


def replay(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, send nothing.")] = False,
) -> int:
    """Send what runs left, in order, without duplicates.

    Whether they finished, failed or were killed: it is sent to the store that MLFLOW_TRACKING_URI names. A journal is
    deleted when all of it has arrived. Running stages send their own.

    \b
    taehv track sync --dry-run
    taehv track sync

    Exit code: 0 nothing is left, 1 something stays behind or an error that you can fix, 2 wrong usage.
    """
    _check_store()
    unsent_journals = journals()
    if not unsent_journals:
        _check_project()
        print(NOTHING)
    if dry_run:
        for unsent in unsent_journals:
            print(f"would {'leave alone' if unsent.running else 'send'}: {unsent.describe()}")
        return 0
    return 0 if sync(unsent_journals, lambda message: print(message, flush=True)) else EXIT_LEFT


def export(
    target: Annotated[Path, typer.Argument(parser=Path, metavar="FILE|FOLDER", help="Where to write them.")],
    run_ids: Annotated[
        list[str] | None,
        typer.Option("--run", metavar="ID", help="Only this run and its children; may be repeated."),
    ] = None,
    experiment: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this experiment's runs; without it those of all.")
    ] = None,
) -> int:
    """Write runs of the store into a folder or a .tar file.

    With all that belongs to them (params, tags, every metric point with its time, artifacts, datasets, models), into a
    folder, or into a file that ends in .tar, .tar.gz or .tgz.

    \b
    taehv track export runs.tar
    taehv track export runs.tgz --experiment taehv
    """
    from taehv.tracking.transfer.archive import packed
    from taehv.tracking.transfer.export_runs import export_runs

    _check_store()
    database = database_file(tracking_uri())
    if database is not None and not database.exists():
        raise UserError(f"nothing has been tracked in {database} yet: {NO_EXPORT}")
    with packed(target) as folder, store_errors():
        written = export_runs(folder, run_ids or (), experiment)
        if not written.runs:
            raise UserError(f"{without_secrets(tracking_uri())} holds no run of those asked for: {NO_EXPORT}")
    print(f"{target}: {len(written.runs)} runs, {written.versions} registered versions")
    for version in written.versions_left:
        print(f"not exported: version {version}, which is no model of a run in this store")
    return 0


def bring(
    source: Annotated[Path, typer.Argument(parser=Path, metavar="FILE|FOLDER", help="What was exported.")],
) -> int:
    """Bring exported runs into the store, none of them twice.

    What `taehv track export` wrote comes into the store that MLFLOW_TRACKING_URI names. Importing again, also after an
    interruption, adds only what is missing.

    \b
    taehv track import runs.tar
    """
    from taehv.tracking.transfer.archive import unpacked
    from taehv.tracking.transfer.import_runs import import_runs

    _check_store()
    with unpacked(source) as folder, store_errors():
        counts = import_runs(folder)
    print(f"{source}: {counts.new} runs imported, {counts.known} were there already")
    return 0


def relocate() -> int:
    """After a move or copy of this checkout: fix its store.

    MLflow writes absolute places into its store. This exports the runs, models and registered versions of this
    checkout's store and imports them into a new one whose files are here. The old store is kept beside it, and nothing
    is written to the old place. Repeat it if it was interrupted.

    \b
    taehv track relocate
    """
    from taehv.tracking.transfer.relocate import relocate as make_store_here

    check_uri()
    hide_secrets_in_output()
    with store_errors():
        make_store_here(lambda message: print(message, flush=True))
    return 0


ACTIONS: dict[str, Callable[..., int]] = {
    "status": status,
    "sync": replay,
    "export": export,
    "import": bring,
    "relocate": relocate,
}


def _check_project() -> None:
    """Raises UserError where no journal could be: "nothing is left" would be true of any folder."""
    root = main_repository()
    if not (root / paths.DVC_YAML).exists() and not (root / ".work").exists():
        raise UserError(f"{root} is no checkout of this project: run it in the repository's root, where dvc.yaml is")


def _check_store() -> None:
    hide_secrets_in_output()
    check_uri()
    with store_errors():
        check_place()
