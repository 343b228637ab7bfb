"""Feeds MLflow from journal events."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from taehv import paths
from taehv.tracking.journal import Event
from taehv.tracking.store import open_store, tracking_uri

# isort: split
# store sets MLflow's environment, so mlflow comes after it.
import mlflow
from mlflow.data.dataset_source_registry import get_dataset_source_from_json
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

PARAM_BATCH = 100
"""MLflow's limit per call."""
PARAM_VALUE_LENGTH = 6000
"""MLflow's limit per value; a longer one is refused."""

DIGEST_LENGTH = 32
"""Of a dataset's hash; MLflow allows 36."""


class MlflowSink:
    """One MLflow run, and how each kind of event gets into it."""

    def __init__(self, name: str, parent_run_id: str | None, continue_run_id: str | None) -> None:
        """Start a run, or continue one that is in the store and unfinished.

        Raises:
            taehv.tracking.store.StoreError: the URI cannot be used.
            Exception: whatever MLflow raises when its store does not answer.
        """
        experiment_id = open_store()
        self.client = mlflow.MlflowClient(tracking_uri())
        if parent_run_id is not None:
            # The UI nests runs only within one experiment.
            experiment_id = self.client.get_run(parent_run_id).info.experiment_id
        self.continued = continue_run_id is not None and self._is_unfinished(continue_run_id)
        self.run_id = str(
            mlflow.start_run(
                run_id=continue_run_id if self.continued else None,
                experiment_id=None if self.continued else experiment_id,
                run_name=None if self.continued else name,
                parent_run_id=None if self.continued else parent_run_id,
                log_system_metrics=True,
            ).info.run_id
        )

    def send(self, event: Event) -> None:
        """Tell MLflow of one event."""
        handlers: dict[str, Callable[[Event], None]] = {
            "metrics": self._metrics,
            "params": self._params,
            "tags": self._tags,
            "artifact": self._artifact,
            "json": self._json,
            "dataset": self._dataset,
        }
        handlers[event["kind"]](event)

    def log_model(self, folder: Path, metrics: Mapping[str, float]) -> str:
        """The best model as an MLflow model of this run; returns its id."""
        from taehv.tracking.pyfunc import log_model

        model_id = log_model(folder)
        mlflow.log_metrics({f"best/{key}": float(value) for key, value in metrics.items()}, model_id=model_id)
        return model_id

    def register(self, model_id: str, name: str, alias: str) -> None:
        """A new version of the registered model ``name``, under an alias."""
        version = mlflow.register_model(f"models:/{model_id}", name)
        self.client.set_registered_model_alias(name, alias, version.version)

    def end(self, status: str) -> None:
        """FINISHED, FAILED or KILLED."""
        mlflow.end_run(status)

    def _is_unfinished(self, run_id: str) -> bool:
        try:
            run = self.client.get_run(run_id)
        except MlflowException:
            return False
        return run.info.status != "FINISHED" and run.info.lifecycle_stage == "active"

    def _metrics(self, event: Event) -> None:
        # MLflow turns infinities into the largest float; the journal keeps what they were.
        points = {key: value for key, value in event["values"].items() if not math.isinf(value)}
        metrics = [Metric(_allowed(key), value, event["time"], event["step"]) for key, value in points.items()]
        self.client.log_batch(self.run_id, metrics=metrics)

    def _params(self, event: Event) -> None:
        # A continued run keeps its own: MLflow refuses to change a param, and what may differ (another stage's limits)
        # does not touch this run's result, or it would have another fingerprint.
        known = self.client.get_run(self.run_id).data.params if self.continued else {}
        values = {key: str(value)[:PARAM_VALUE_LENGTH] for key, value in event["values"].items()}
        params = [Param(key, value) for key, value in values.items() if key not in known]
        for start in range(0, len(params), PARAM_BATCH):
            self.client.log_batch(self.run_id, params=params[start : start + PARAM_BATCH])

    def _tags(self, event: Event) -> None:
        self.client.log_batch(self.run_id, tags=[RunTag(key, str(value)) for key, value in event["values"].items()])

    def _artifact(self, event: Event) -> None:
        self.client.log_artifact(self.run_id, event["path"], event["folder"])

    def _json(self, event: Event) -> None:
        self.client.log_dict(self.run_id, event["value"], event["file"])

    def _dataset(self, event: Event) -> None:
        facts = event["facts"]
        dataset = MetaDataset(  # type: ignore[abstract]
            get_dataset_source_from_json(json.dumps({"uri": str(paths.MANIFEST)}), "local"),
            name=f"taehv-{facts['split_rule'].replace(' ', '-')}",
            digest=facts["dataset_sha256"][:DIGEST_LENGTH],
        )
        mlflow.log_input(dataset)


def _allowed(key: str) -> str:
    """MLflow refuses some characters in a metric's name, which a video's file name may hold."""
    return re.sub(r"[^\w\-. /]", "_", key, flags=re.ASCII)


def parent_from_environment() -> str | None:
    """The `mlflow run` that started us. Taken out of the environment, or every stage would write into that one run."""
    return os.environ.pop("MLFLOW_RUN_ID", None)


def as_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
