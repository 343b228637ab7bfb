"""`taehv track`: what tracking has not been able to send yet, and runs that move from one store to another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from taehv.runtime import paths
from taehv.runtime.errors import UserError
from taehv.runtime.paths import main_repository
from taehv.tracking.secrets import hide_secrets_in_output, without_secrets
from taehv.tracking.store import check_uri, database_file, store_errors, tracking_uri
from taehv.tracking.store_location import check_place
from taehv.tracking.sync import journals, sync

EXIT_LEFT = 1
NOTHING = "nothing is left to send"
NO_EXPORT = "there is nothing to export. Run it in the repository's root, or set MLFLOW_TRACKING_URI to another store"


def status() -> int:
    """List the journals that are still here.

    Raises:
        UserError: there are none, and this is no checkout of the project either.
    """
    unsent_journals = journals()
    for unsent in unsent_journals:
        print(unsent.describe())
    if not unsent_journals:
        _check_project()
        print(NOTHING)
    return 0


def replay(*, dry_run: bool) -> int:
    """Send what is left; exit code 1 if something stays behind.

    Raises:
        StoreError: MLFLOW_TRACKING_URI cannot be used at all.
        UserError: nothing is left, and this is no checkout of the project either.
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


def export(target: Path, run_ids: Sequence[str], experiment: str | None) -> int:
    """Write runs into a folder or a .tar file.

    Raises:
        UserError: there is something else at the target, a named run or experiment does not exist, or the store does
            not work.
    """
    from taehv.tracking.transfer.archive import packed
    from taehv.tracking.transfer.export_runs import export_runs

    _check_store()
    database = database_file(tracking_uri())
    if database is not None and not database.exists():
        raise UserError(f"nothing has been tracked in {database} yet: {NO_EXPORT}")
    with packed(target) as folder, store_errors():
        written = export_runs(folder, run_ids, experiment)
        if not written.runs:
            raise UserError(f"{without_secrets(tracking_uri())} holds no run of those asked for: {NO_EXPORT}")
    print(f"{target}: {len(written.runs)} runs, {written.versions} registered versions")
    for version in written.versions_left:
        print(f"not exported: version {version}, which is no model of a run in this store")
    return 0


def bring(source: Path) -> int:
    """Import what ``export`` wrote.

    Raises:
        UserError: it is not there, or not what ``export`` writes, or the store does not work.
    """
    from taehv.tracking.transfer.archive import unpacked
    from taehv.tracking.transfer.import_runs import import_runs

    _check_store()
    with unpacked(source) as folder, store_errors():
        counts = import_runs(folder)
    print(f"{source}: {counts.new} runs imported, {counts.known} were there already")
    return 0


def relocate() -> int:
    """Make the store of a moved or copied checkout one whose files are here.

    Raises:
        UserError: a stage is running, files are missing, or the store does not work.
    """
    from taehv.tracking.transfer.relocate import relocate as make_store_here

    check_uri()
    hide_secrets_in_output()
    with store_errors():
        make_store_here(lambda message: print(message, flush=True))
    return 0


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
