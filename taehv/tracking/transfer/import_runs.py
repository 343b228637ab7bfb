"""Exported runs into a tracking store. Importing again adds what is missing and doubles nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from taehv.runtime.yaml_files import YamlFileError, read_yaml
from taehv.tracking.queries import ENDED, METRIC_BATCH, PARAM_BATCH, batches
from taehv.tracking.store import open_store, tracking_uri
from taehv.tracking.transfer.archive import ArchiveError
from taehv.tracking.transfer.archive_records import read_archive, read_points, read_registry
from taehv.tracking.watchdog import exchange

# isort: split
# store sets MLflow's environment, so mlflow comes after it.
from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LifecycleStage,
    LoggedModel,
    LoggedModelInput,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from taehv.tracking.models import MODEL_TAG
from taehv.tracking.queries import KEY_TAG, ORIGIN_TAG, model_inputs, model_outputs, model_with_tag, run_with_tag
from taehv.tracking.registry import Registry

REGISTRY_TAG = "mlflow.modelVersions"
"""Speaks about the other store's registry."""


@dataclass
class Counts:
    """What an import found."""

    new: int = 0
    known: int = 0


def import_runs(folder: Path) -> Counts:
    """Bring all runs and models of an export into the store that is configured.

    Raises:
        ArchiveError: the export is damaged.
        StoreError: MLFLOW_TRACKING_URI cannot be used.
    """
    runs, models = read_archive(folder)
    names, versions = read_registry(folder, models)
    with exchange():
        open_store()
    importer = _Importer(MlflowClient(tracking_uri()), folder)
    for run in runs:
        importer.find_or_create(run)
    for model in models:
        importer.bring_model(model)
    for run in runs:
        importer.fill(run)
    for model in models:
        importer.bring_model_metrics(model)
    for run in runs:
        importer.end(run)
    importer.bring_registry(names, versions)
    return importer.counts


class _Importer:
    def __init__(self, client: MlflowClient, folder: Path) -> None:
        self._client = client
        self._folder = folder
        self._ids: dict[str, str] = {}
        """Of runs and models: exported to imported."""
        self._native: set[str] = set()
        """Exported from this very store: nothing is to be done."""
        self._experiments: dict[str, str] = {}
        self.counts = Counts()

    def find_or_create(self, run: dict[str, Any]) -> None:
        """Parents come before their children."""
        found = self._find(run)
        if found is not None:
            self.counts.known += 1
            if found.info.run_id == run["run_id"]:
                self._native.add(run["run_id"])
        else:
            self.counts.new += 1
            experiment = self._experiments.get(run["experiment"]) or open_store(run["experiment"])
            self._experiments[run["experiment"]] = experiment
            tags = {ORIGIN_TAG: run["run_id"]}
            if KEY_TAG in run["tags"]:
                tags[KEY_TAG] = run["tags"][KEY_TAG]
            if (parent := run["tags"].get(MLFLOW_PARENT_RUN_ID)) is not None:
                tags[MLFLOW_PARENT_RUN_ID] = self._ids.get(parent, parent)
            found = self._client.create_run(experiment, run["start_time"], tags, run["name"])
        self._ids[run["run_id"]] = str(found.info.run_id)

    def _find(self, run: dict[str, Any]) -> Run | None:
        try:
            same = self._client.get_run(run["run_id"])
            if same.info.lifecycle_stage == LifecycleStage.ACTIVE:
                return same
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        for tag, value in ((ORIGIN_TAG, run["run_id"]), (KEY_TAG, run["tags"].get(KEY_TAG))):
            if value and (found := run_with_tag(self._client, tag, value)):
                return found
        return None

    def fill(self, exported: dict[str, Any]) -> None:
        """Everything of a run that is not there yet, but its end."""
        if exported["run_id"] in self._native:
            return
        run_id = self._ids[exported["run_id"]]
        run = self._client.get_run(run_id)
        params = [Param(key, value) for key, value in exported["params"].items() if key not in run.data.params]
        for batch in batches(params, PARAM_BATCH):
            self._client.log_batch(run_id, params=batch)
        tags = {key: self._ids.get(value, value) for key, value in exported["tags"].items()}
        new = [RunTag(key, value) for key, value in tags.items() if key not in run.data.tags]
        for new_batch in batches(new, PARAM_BATCH):
            self._client.log_batch(run_id, tags=new_batch)
        self._bring_points(exported["run_id"], run)
        self._bring_artifacts(exported["run_id"], run_id)
        self._bring_links(exported, run)

    def _bring_points(self, old_id: str, run: Run) -> None:
        """MLflow's SQL stores keep equal points once; what is there is left out anyway, for stores that do not."""
        run_id = str(run.info.run_id)
        there = {
            _identity(point)
            for key in run.data.metrics
            for point in self._client.get_metric_history(run_id, key)
        }  # fmt: skip
        points = (Metric(*point) for point in read_points(self._folder, old_id))
        for batch in batches((point for point in points if _identity(point) not in there), METRIC_BATCH):
            self._client.log_batch(run_id, metrics=batch)

    def _bring_artifacts(self, old_id: str, run_id: str) -> None:
        root = self._folder / "runs" / old_id / "artifacts"
        there = dict(self._artifacts(run_id)) if root.exists() else {}
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            relative = file.relative_to(root)
            if there.get(relative.as_posix()) != file.stat().st_size:
                place = relative.parent.as_posix()
                self._client.log_artifact(run_id, str(file), None if place == "." else place)

    def _artifacts(self, run_id: str, path: str | None = None) -> Iterator[tuple[str, int | None]]:
        for item in self._client.list_artifacts(run_id, path):
            if item.is_dir:
                yield from self._artifacts(run_id, item.path)
            else:
                yield item.path, item.file_size

    def _bring_links(self, exported: dict[str, Any], run: Run) -> None:
        """Datasets and models. What is linked already is not linked twice."""
        run_id = str(run.info.run_id)
        datasets = [
            DatasetInput(Dataset(**item["dataset"]), [InputTag(key, value) for key, value in item["tags"].items()])
            for item in exported["datasets"]
        ]
        taken = {item.model_id for item in model_inputs(run)}
        made = {item.model_id for item in model_outputs(run)}
        models = [self._ids[old] for old in exported["model_inputs"] if old in self._ids]
        new = [LoggedModelInput(model) for model in models if model not in taken]
        if datasets or new:
            self._client.log_inputs(run_id, datasets, new)
        results = [
            LoggedModelOutput(self._ids[item["model_id"]], item["step"])
            for item in exported["model_outputs"]
            if item["model_id"] in self._ids and self._ids[item["model_id"]] not in made
        ]
        if results:
            self._client.log_outputs(run_id, results)

    def bring_model(self, exported: dict[str, Any]) -> None:
        """Its files, params and tags."""
        old_id, old_run = exported["model_id"], exported["source_run_id"]
        if old_run in self._native:
            self._ids[old_id] = old_id
            return
        run_id = self._ids[old_run]
        experiment = self._client.get_run(run_id).info.experiment_id
        model = self._find_model(exported, experiment)
        if model is None:
            model = self._client.create_logged_model(
                experiment,
                name=exported["name"],
                source_run_id=run_id,
                tags={**self._model_tags(exported), ORIGIN_TAG: old_id},
                params=exported["params"],
                model_type=exported["model_type"],
            )
        self._ids[old_id] = str(model.model_id)
        if str(model.status) != exported["status"]:
            files = self._folder / "models" / old_id / "artifacts"
            self._bring_model_files(files, model, run_id)
            self._client.finalize_logged_model(model.model_id, LoggedModelStatus(exported["status"]))

    def _find_model(self, exported: dict[str, Any], experiment: str) -> LoggedModel | None:
        for tag, value in ((ORIGIN_TAG, exported["model_id"]), (MODEL_TAG, exported["tags"].get(MODEL_TAG))):
            if value and (found := model_with_tag(self._client, experiment, tag, value)):
                return found
        return None

    def _model_tags(self, exported: dict[str, Any]) -> dict[str, str]:
        tags = {key: self._ids.get(value, value) for key, value in exported["tags"].items()}
        tags.pop(REGISTRY_TAG, None)
        return tags

    def _bring_model_files(self, files: Path, model: LoggedModel, run_id: str) -> None:
        """MLmodel names the model's and the run's ids, which are new."""
        description = files / "MLmodel"
        original = description.read_bytes() if description.exists() else None
        if original is not None:
            content = _mlmodel(description)
            ids = {"model_id": model.model_id, "model_uuid": model.model_id, "run_id": run_id}
            changed = {**ids, "artifact_path": model.artifact_location}
            content |= {key: value for key, value in changed.items() if key in content}
            description.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        try:
            if files.exists():
                self._client.log_model_artifacts(model.model_id, str(files))
        finally:
            if original is not None:
                description.write_bytes(original)

    def bring_model_metrics(self, exported: dict[str, Any]) -> None:
        """After the runs that measured them."""
        if exported["source_run_id"] in self._native:
            return
        model_id = self._ids[exported["model_id"]]
        there = {(_identity(metric), metric.run_id) for metric in self._client.get_logged_model(model_id).metrics or []}
        new: dict[str, list[Metric]] = {}
        for item in exported["metrics"]:
            run_id = self._ids.get(item["run_id"], self._ids[exported["source_run_id"]])
            metric = Metric(
                item["key"],
                float(item["value"]),
                item["time"],
                item["step"],
                model_id=model_id,
                dataset_name=item["dataset_name"] or None,
                dataset_digest=item["dataset_digest"] or None,
                run_id=run_id,
            )
            if (_identity(metric), run_id) not in there:
                new.setdefault(run_id, []).append(metric)
        for run_id, metrics in new.items():
            for batch in batches(metrics, METRIC_BATCH):
                self._client.log_batch(run_id, metrics=batch)

    def bring_registry(self, names: list[dict[str, Any]], versions: list[dict[str, Any]]) -> None:
        """Registered versions of models that came from elsewhere; aliases as the registry's rules say."""
        registry = Registry(self._client)
        for item in names:
            registry.bring_name(item["name"], item["description"], item["tags"])
        for item in versions:
            if (model_id := self._ids[item["model_id"]]) != item["model_id"]:
                registry.bring_version(
                    model_id, item["name"], item["description"], item["tags"], aliases=item["aliases"]
                )

    def end(self, exported: dict[str, Any]) -> None:
        """Status and end time, of a run that has not ended here."""
        if exported["run_id"] in self._native or exported["status"] not in ENDED:
            return
        run_id = self._ids[exported["run_id"]]
        if self._client.get_run(run_id).info.status not in ENDED:
            self._client.set_terminated(run_id, exported["status"], exported["end_time"])


def _mlmodel(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(path)
    except YamlFileError as error:
        raise ArchiveError(f"{path} {error}") from error
    if not isinstance(content, dict):
        raise ArchiveError(f"{path} is not a mapping")
    return content


def _identity(metric: Metric) -> tuple[str, str, int, int]:
    return metric.key, repr(float(metric.value)), int(metric.timestamp), int(metric.step)
