"""A training run as its files, read back from MLflow."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

from taehv.evaluation.parity import RunRecord, read_run
from taehv.runtime.errors import UserError
from taehv.runtime.paths import TrainingOutputs
from taehv.tracking.secrets import without_secrets
from taehv.tracking.store import check_place, check_uri, database_file, store_errors, tracking_uri

# isort: split
# store sets MLflow's environment, so mlflow comes after it.
import mlflow
from mlflow.exceptions import MlflowException

from taehv.tracking.queries import find_run


class RunNotReadableError(UserError):
    """There is no such run, or it is not a finished training run."""


def read_tracked_run(run_id: str) -> RunRecord:
    """What parity compares, from the run's artifacts.

    Raises:
        RunNotReadableError: the store does not know the run, or it did not leave the files of a finished training.
        StoreError: the store cannot be used, or does not work, or its files belong to another checkout.
    """
    check_uri()
    uri = tracking_uri()
    database = database_file(uri)
    if database is not None and not database.exists():
        raise RunNotReadableError(f"there is no run {run_id}: nothing has been tracked in {uri} yet")
    with store_errors():
        return _download(mlflow.MlflowClient(uri), uri, run_id)


def _download(client: mlflow.MlflowClient, uri: str, run_id: str) -> RunRecord:
    try:
        check_place()
        # An id that another store gave it, too: mlflow.json comes along with a training from another machine.
        run = find_run(client, None, run_id) or client.get_run(run_id)
        run_id = str(run.info.run_id)
        there = {item.path for item in client.list_artifacts(run_id)}
        with tempfile.TemporaryDirectory() as folder:
            outputs = TrainingOutputs(Path(folder))
            # Runs of older versions of this project have their summary under the name of today's DVC metrics.
            older = outputs.summary.name not in there and outputs.metrics.name in there
            summary = outputs.metrics if older else outputs.summary
            for file in (outputs.history, summary, outputs.params):
                if file.name not in there:
                    raise RunNotReadableError(
                        f"run {run_id} ({run.info.run_name}, {run.info.status}) has no {file.name}: only finished "
                        "training runs can be compared"
                    )
                client.download_artifacts(run_id, file.name, folder)
            if older:
                summary.rename(outputs.summary)
            return read_run(outputs)
    except (MlflowException, sqlite3.Error) as error:
        reason = without_secrets(str(error)).splitlines()[0]
        raise RunNotReadableError(f"run {run_id} cannot be read from {without_secrets(uri)}: {reason}") from error
