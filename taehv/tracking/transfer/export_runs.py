"""Runs of the tracking store as files: everything that `import_runs` needs to make them again in another store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taehv.runtime import atomic_files
from taehv.tracking.queries import ENDED
from taehv.tracking.secrets import without_secrets
from taehv.tracking.store import open_store, tracking_uri
from taehv.tracking.transfer.archive import INDEX, REGISTRY, ArchiveError
from taehv.tracking.watchdog import exchange

# isort: split
# store sets MLflow's environment, so mlflow comes after it.
import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus, Run
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from mlflow.utils.uri import is_local_uri

from taehv.tracking.queries import KEY_TAG, dataset_inputs, every_page, model_inputs, model_outputs
from taehv.tracking.registry import MODEL_URI

PAGE = 1000


FilesOf = Callable[[str], Path | None]
"""From where the store says that a run's or model's files are to the folder where they are; None where there are none.
"""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    runs: tuple[str, ...]
    """Ids."""
    versions: int
    """Registered versions."""
    versions_left: tuple[str, ...]
    """Registered versions that are no logged model of these runs: name and number."""


def export_runs(
    folder: Path, run_ids: Sequence[str], experiment: str | None, files_of: FilesOf | None = None
) -> Exported:
    """Write runs with their models, and their registered versions, into a folder.

    Args:
        folder: empty.
        run_ids: these and the runs below them; none means all of the experiment.
        experiment: its name; None means all experiments.
        files_of: where files are, if not where the store says; None asks MLflow for them.

    Raises:
        ArchiveError: a run or the experiment is not in the store, or files that must be there are not.
    """
    if files_of is None:
        with exchange():
            open_store()
    exporter = _Exporter(MlflowClient(tracking_uri()), folder, files_of)
    runs = exporter.choose(run_ids, experiment)
    for run in runs:
        exporter.write_run(run)
    models = exporter.models_of(runs)
    for model in models:
        exporter.write_model(model)
    versions, left = exporter.write_registry({str(model.model_id) for model in models})
    written = [str(run.info.run_id) for run in runs]
    index = {"schema": 1, "mlflow": mlflow.__version__, "runs": written, "models": [model.model_id for model in models]}
    atomic_files.write_json(folder / INDEX, index)
    return Exported(tuple(written), versions, tuple(left if not run_ids and experiment is None else ()))


class _Exporter:
    def __init__(self, client: MlflowClient, folder: Path, files_of: FilesOf | None) -> None:
        self._client = client
        self._folder = folder
        self._files_of = files_of
        self._experiments = {item.experiment_id: item.name for item in client.search_experiments()}

    def choose(self, run_ids: Sequence[str], experiment: str | None) -> list[Run]:
        """Runs with those below them: parents before their children, otherwise oldest first."""
        wanted = [key for key, name in self._experiments.items() if experiment in (None, name)]
        if not wanted:
            raise ArchiveError(
                f"there is no experiment {experiment}; there are: {', '.join(self._experiments.values())}"
            )
        found = {str(run.info.run_id): run for run in self._search(wanted)}
        if missing := [run_id for run_id in run_ids if run_id not in found]:
            raise ArchiveError(f"there is no run {', '.join(missing)} in {experiment or 'any experiment'}")
        lineages = {run_id: _lineage(run, found) for run_id, run in found.items()}
        chosen = set(run_ids) or set(found)
        runs = [run for run_id, run in found.items() if chosen.intersection(lineages[run_id])]
        return sorted(runs, key=lambda run: (len(lineages[run.info.run_id]), int(run.info.start_time)))

    def _search(self, experiments: list[str]) -> list[Run]:
        return list(every_page(lambda token: self._client.search_runs(experiments, max_results=PAGE, page_token=token)))

    def write_run(self, run: Run) -> None:
        run = self._client.get_run(run.info.run_id)  # a search leaves the models out
        info, place = run.info, self._folder / "runs" / run.info.run_id
        place.mkdir(parents=True)
        with (place / "metrics.jsonl").open("w", encoding="utf-8") as file:
            for key in run.data.metrics:
                for point in self._client.get_metric_history(info.run_id, key):
                    file.write(json.dumps([point.key, point.value, point.timestamp, point.step]) + "\n")
        if self._copied(info.artifact_uri, place):
            pass
        elif self._files_of is None and self._client.list_artifacts(info.run_id):
            (place / "artifacts").mkdir()
            self._client.download_artifacts(info.run_id, "", str(place / "artifacts"))
        # Every stage's run has files, unless the store refused them; a stranger's may have none.
        elif KEY_TAG in run.data.tags and info.status in ENDED and not self._has_its_folder(info.artifact_uri):
            raise ArchiveError(f"the files of run {info.run_id} {_absent(info.artifact_uri)}")
        content = {
            "schema": 1,
            "run_id": info.run_id,
            "experiment": self._experiments[info.experiment_id],
            "name": info.run_name,
            "status": info.status,
            "start_time": info.start_time,
            "end_time": info.end_time,
            "params": run.data.params,
            "tags": run.data.tags,
            "datasets": [
                {"dataset": item.dataset.to_dictionary(), "tags": {tag.key: tag.value for tag in item.tags}}
                for item in dataset_inputs(run)
            ],
            "model_inputs": [item.model_id for item in model_inputs(run)],
            "model_outputs": [{"model_id": item.model_id, "step": item.step} for item in model_outputs(run)],
        }
        atomic_files.write_json(place / "run.json", content)

    def models_of(self, runs: Sequence[Run]) -> list[LoggedModel]:
        if not runs:
            return []
        ids = {run.info.run_id for run in runs}
        experiments = sorted({run.info.experiment_id for run in runs})
        models = every_page(lambda token: self._client.search_logged_models(experiments, page_token=token))
        return [model for model in models if model.source_run_id in ids]

    def write_model(self, model: LoggedModel) -> None:
        model = self._client.get_logged_model(model.model_id)
        place = self._folder / "models" / model.model_id
        place.mkdir(parents=True)
        if self._copied(model.artifact_location, place):
            pass
        elif self._files_of is None and self._client.list_logged_model_artifacts(model.model_id):
            try:
                downloaded = mlflow.artifacts.download_artifacts(
                    artifact_uri=model.artifact_location, dst_path=str(place / "download"), tracking_uri=tracking_uri()
                )
            except MlflowException as error:
                raise ArchiveError(f"the files of model {model.model_id} cannot be read: {error}") from error
            Path(downloaded).rename(place / "artifacts")
            shutil.rmtree(place / "download", ignore_errors=True)
        elif model.status == LoggedModelStatus.READY:
            raise ArchiveError(f"the files of model {model.model_id} {_absent(model.artifact_location)}")
        atomic_files.write_json(place / "model.json", _describe(model))

    def write_registry(self, model_ids: Collection[str]) -> tuple[int, list[str]]:
        """Registered versions of these models; returns how many, and the names and numbers of all others."""
        names, versions, left = [], [], []
        for known in every_page(lambda token: self._client.search_registered_models(page_token=token)):
            found = every_page(
                lambda token, name=known.name: self._client.search_model_versions(  # type: ignore[misc]
                    f"name = '{name}'", page_token=token
                )
            )
            names.append({"name": known.name, "description": known.description, "tags": known.tags})
            for version in sorted(found, key=lambda version: int(version.version)):
                model_id = (version.source or "").removeprefix(MODEL_URI)
                if model_id not in model_ids:
                    left.append(f"{known.name} {version.version}")
                    continue
                versions.append(
                    {
                        "name": known.name,
                        "version": int(version.version),
                        "model_id": model_id,
                        "description": version.description,
                        "tags": version.tags,
                        "aliases": [alias for alias, number in known.aliases.items() if number == version.version],
                    }
                )
        taken = {version["name"] for version in versions}
        content = {"schema": 1, "names": [item for item in names if item["name"] in taken], "versions": versions}
        atomic_files.write_json(self._folder / REGISTRY, content)
        return len(versions), left

    def _copied(self, location: str, place: Path) -> bool:
        """Whether files were found where ``files_of`` says."""
        folder = None if self._files_of is None else self._files_of(location)
        if folder is None or not any(folder.iterdir()):
            return False
        shutil.copytree(folder, place / "artifacts")
        return True

    def _has_its_folder(self, location: str) -> bool:
        return self._files_of(location) is not None if self._files_of is not None else _has_its_folder(location)


def _lineage(run: Run, runs: Mapping[str, Run]) -> list[str]:
    """Ids of a run, its parent, the parent's parent and so on, as far as they are among these runs."""
    lineage = [str(run.info.run_id)]
    while (parent := run.data.tags.get(MLFLOW_PARENT_RUN_ID, "")) in runs and parent not in lineage:
        lineage.append(parent)
        run = runs[parent]
    return lineage


def _has_its_folder(artifact_uri: str) -> bool:
    """Whether an empty list of files can be believed: of a folder on this machine, only where it exists."""
    return (
        not is_local_uri(artifact_uri, is_tracking_or_registry_uri=False)
        or Path(local_file_uri_to_path(artifact_uri)).is_dir()
    )


def _absent(place: str) -> str:
    # MLflow says "no files" of a folder that is not there.
    return (
        f"are not in {without_secrets(place)}: export on the machine that has them, or put them back; --run exports "
        "other runs"
    )


def _describe(model: LoggedModel) -> dict[str, Any]:
    metrics = [
        {
            "key": metric.key,
            "value": repr(float(metric.value)),  # NaN is no JSON
            "time": metric.timestamp,
            "step": metric.step,
            "run_id": metric.run_id,
            "dataset_name": metric.dataset_name,
            "dataset_digest": metric.dataset_digest,
        }
        for metric in model.metrics or []
    ]
    return {
        "schema": 1,
        "model_id": model.model_id,
        "name": model.name,
        "model_type": model.model_type,
        "status": str(model.status),
        "source_run_id": model.source_run_id,
        "params": model.params,
        "tags": model.tags,
        "metrics": metrics,
    }
