"""How each kind of event gets into MLflow. Every call may be repeated: nothing arrives twice."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from taehv.runtime import paths
from taehv.runtime.hashing import sha256_of_file
from taehv.tracking.journal import Event
from taehv.tracking.metric_names import metric_name
from taehv.tracking.send_state import TrackingFolder
from taehv.tracking.store import StoreError, is_server, open_store, tracking_uri

# isort: split
# store sets MLflow's environment, so mlflow comes after it.
import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID

from taehv.tracking.models import ModelLogger
from taehv.tracking.queries import (
    GONE,
    KEY_TAG,
    PARAM_BATCH,
    AnswerError,
    batches,
    checked_id,
    find_model,
    find_run,
    living_run,
    run_with_tag,
    said_by_store,
)
from taehv.tracking.registry import Registry
from taehv.tracking.send_state import is_still_to_come

PARAM_VALUE_LENGTH = 6000
"""MLflow's limit per value; a longer one is refused."""
TAG_VALUE_LENGTH = 5000
"""What every MLflow server takes."""
DIGEST_LENGTH = 32
"""Of a dataset's hash; MLflow allows 36."""
PROFILE_FACTS = ("splits", "quarantined", "bytes", "split_rule")
"""What of dataset.json MLflow's UI shows as the dataset's profile."""

ENDED_TAGS = ("failed", "failure_reason", "interrupted")
"""What says how a run ended; a continued run has not."""

REFUSALS = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "RESOURCE_ALREADY_EXISTS",
    "INVALID_STATE",
    "MALFORMED_REQUEST",
    GONE,
}


class RefusedError(Exception):
    """The store understood and will never take it."""


class NotThereYetError(StoreError):
    """It needs what another run's journal still has to bring."""


class MlflowWriter:
    """One MLflow run."""

    def __init__(self, folder: TrackingFolder) -> None:
        """Connect.

        Raises:
            taehv.tracking.store.StoreError: the URI cannot be used.
            Exception: whatever MLflow raises when its store does not answer.
        """
        self.experiment_id = checked_id(open_store())
        self.client = mlflow.MlflowClient(tracking_uri())
        self.folder = folder
        self.run_id = self._key = ""
        self.model_id: str | None = None
        self._is_server = is_server(tracking_uri())
        """Then anything may answer; a database is read by MLflow's own code."""

    def open_run(self, begin: Event, known_run_id: str | None) -> bool:
        """Find or create the run that a `begin` event asks for. Returns whether it is the one that was known."""
        known = None if known_run_id is None else living_run(self.client, known_run_id)
        run = known or run_with_tag(self.client, KEY_TAG, begin["key"]) or self._create(begin)
        self.run_id, self._key = checked_id(run.info.run_id), begin["key"]
        return known is not None

    def write_key_again(self) -> None:
        """Write what is there already. Raises what MLflow raises when its store takes nothing."""
        self.client.set_tag(self.run_id, KEY_TAG, self._key)

    def _begin(self, event: Event) -> None:
        """The run is running (again)."""
        run = self.client.get_run(self.run_id)
        if run.info.status != "RUNNING":
            self.client.update_run(self.run_id, status="RUNNING")
        self._set_tags({KEY_TAG: event["key"], **event["tags"]})
        for name in ENDED_TAGS:
            if name in run.data.tags:
                self.client.delete_tag(self.run_id, name)

    def send(self, event: Event) -> None:
        """Tell MLflow of one event that is not metrics.

        Raises:
            RefusedError: the store will never take it.
            NotThereYetError: it needs another run that has not arrived.
            Exception: whatever MLflow raises when its store does not answer.
        """
        handlers: dict[str, Callable[[Event], None]] = {
            "begin": self._begin,
            "params": self._params,
            "tags": lambda event: self._set_tags(event["values"]),
            "artifact": self._artifact,
            "json": lambda event: self.client.log_dict(self.run_id, event["value"], event["file"]),
            "dataset": self._dataset,
            "model": self._model,
            "model_metrics": self._model_metrics,
            "link": self._link,
            "register": self._register,
            "promote": self._promote,
            "end": lambda event: self.client.set_terminated(self.run_id, event["status"], event["time"]),
        }
        handler = handlers.get(event["kind"])
        if handler is None:
            raise RefusedError(f"this version of taehv does not know events of kind {event['kind']}")
        self._judged(lambda: handler(event))
        if self._is_server:
            status = self._run_as_the_store_has_it().info.status
            if event["kind"] == "end" and status != event["status"]:
                raise AnswerError(f"it took the run's end and says that the run is {status}: is this an MLflow server?")

    def send_metrics(self, events: Sequence[Event]) -> None:
        """Points of any number of events of kind metrics, at most ``queries.METRIC_BATCH``."""
        metrics = [
            # MLflow turns infinities into the largest float; the journal keeps what they were.
            Metric(metric_name(key), value, event["time"], event["step"])
            for event in events
            for key, value in event["values"].items()
            if not math.isinf(value)
        ]
        if metrics:
            self._judged(lambda: self.client.log_batch(self.run_id, metrics=metrics))
            if self._is_server:
                self._check_arrival(metrics)

    def _check_arrival(self, sent: Sequence[Metric]) -> None:
        """A proxy, or another program on the port, may answer a batch as an MLflow server does: with `{}`."""
        last = {metric.key: metric.step for metric in sorted(sent, key=lambda metric: metric.step)}
        there = _latest_steps(self._run_as_the_store_has_it())
        if absent := [key for key, step in last.items() if there.get(key, step - 1) < step]:
            raise AnswerError(f"it took {absent[0]} and does not have it: is this an MLflow server?")

    def _run_as_the_store_has_it(self) -> Run:
        run = self.client.get_run(self.run_id)
        checked_id(run.info.run_id, self.run_id)
        return run

    def run_is_gone(self) -> bool:
        """Whether someone deleted the run. Raises what MLflow raises when its store does not answer."""
        return living_run(self.client, self.run_id) is None

    def _judged(self, call: Callable[[], Any]) -> None:
        """Tell "never" from "not now"."""
        try:
            call()
        except MlflowException as error:
            if said_by_store(error) and error.error_code in REFUSALS:
                raise RefusedError(error.message) from error
            raise

    def _create(self, begin: Event) -> Run:
        experiment_id, tags = self.experiment_id, {KEY_TAG: begin["key"]}
        parent = begin["parent_run_id"]
        if parent is not None and (parent_run := living_run(self.client, parent)) is not None:
            # The UI nests runs only within one experiment.
            experiment_id = parent_run.info.experiment_id
            tags[MLFLOW_PARENT_RUN_ID] = parent
        return self.client.create_run(experiment_id, begin["time"], tags, begin["name"])

    def _params(self, event: Event) -> None:
        # A continued run keeps its own: MLflow refuses to change a param, and what may differ (another stage's limits)
        # does not touch this run's result, or it would have another fingerprint.
        known = self.client.get_run(self.run_id).data.params
        values = {key: _storable(value, PARAM_VALUE_LENGTH) for key, value in event["values"].items()}
        params = [Param(key, value) for key, value in values.items() if key not in known]
        for batch in batches(params, PARAM_BATCH):
            self.client.log_batch(self.run_id, params=batch)

    def _set_tags(self, values: dict[str, Any]) -> None:
        tags = [RunTag(key, _storable(value, TAG_VALUE_LENGTH)) for key, value in values.items()]
        self.client.log_batch(self.run_id, tags=tags)

    def _artifact(self, event: Event) -> None:
        self.client.log_artifact(self.run_id, str(self._kept_file(event)), event["folder"])

    def _kept_file(self, event: Event) -> Path:
        file = self.folder.root / event["file"]
        if not file.is_file():
            raise RefusedError(f"{file} is gone")
        if sha256_of_file(file) != event["sha256"]:
            raise RefusedError(f"{file} is not what was logged: its checksum does not match")
        return file

    def _dataset(self, event: Event) -> None:
        facts = event["facts"]
        dataset = Dataset(
            name=f"taehv-{facts['split_rule'].replace(' ', '-')}",
            digest=facts["dataset_sha256"][:DIGEST_LENGTH],
            source_type="local",
            source=json.dumps({"uri": str(paths.MANIFEST)}),
            profile=json.dumps({key: facts[key] for key in PROFILE_FACTS if key in facts}),
        )
        context = InputTag(MLFLOW_DATASET_CONTEXT, event.get("context", "training"))
        self.client.log_inputs(self.run_id, [DatasetInput(dataset, [context])])

    def _model(self, event: Event) -> None:
        files = [self._kept_file(file) for file in event["files"]]
        models = ModelLogger(self.client, self.run_id)
        self.model_id = models.log(files[0].parent, event["identity"], event["metrics"], event["time"])

    def _model_metrics(self, event: Event) -> None:
        """What this run found out about another run's model."""
        run_id, model_id = self._ids_of(event["model"])
        models = ModelLogger(self.client, self.run_id)
        models.log_metrics(run_id, model_id, event["values"], event["step"], event["time"])

    def _link(self, event: Event) -> None:
        """Tags with the ids of another run and its model."""
        run_id, model_id = self._ids_of(event["to"])
        self._set_tags({f"{event['prefix']}.run_id": run_id, f"{event['prefix']}.model_id": model_id})

    def _register(self, event: Event) -> None:
        """A version of the registered model, under an alias."""
        _, model_id = self._ids_of(event["model"])
        tags, reason = event.get("tags", {}), event.get("reason", "passed")
        Registry(self.client).register(model_id, event["name"], event["alias"], tags, reason)
        self._set_tags({"registered_as": f"{event['name']}@{event['alias']}"})

    def _promote(self, event: Event) -> None:
        """A version that becomes the champion if it is better than the present one; the run says how it went."""
        _, model_id = self._ids_of(event["model"])
        decision = Registry(self.client).promote(model_id, event["name"], event["tags"])
        self._set_tags({"champion": decision.reason})

    def _ids_of(self, other: dict[str, Any]) -> tuple[str, str]:
        """Run and model of another tracked run, under the ids that they have in this store.

        The ids that were known when the other run ended may be those of another machine's store.

        Raises:
            NotThereYetError: a journal of this repository still has to bring them.
            RefusedError: they are not here, and nothing of this repository will bring them.
        """
        run = find_run(self.client, other["key"], other["run_id"])
        model_id = None if run is None else find_model(self.client, run, other["model_id"])
        if run is not None and model_id is not None:
            return str(run.info.run_id), model_id
        what = f"the run with {KEY_TAG} {other['key']}" if run is None else f"the model of run {run.info.run_id}"
        if is_still_to_come(other["key"]):
            raise NotThereYetError(f"waiting for {what}, which another journal holds: taehv track sync")
        raise RefusedError(
            f"{what} is not in this store; bring it with taehv track export where it is, and taehv track import here, "
            "then: taehv track sync"
        )


def _latest_steps(run: Run) -> dict[str, int]:
    """The step of each metric's latest value."""
    # MLflow has no public way to it; its own system metrics read it here, too.
    return {metric.key: int(metric.step) for metric in run.data._metric_objs}


def _storable(value: object, longest: int) -> str:
    """As text that every database takes: half a surrogate pair, which stands for a byte of a file name that is no
    UTF-8, and the character 0, which PostgreSQL refuses, become what Python's source code would say."""
    text = str(value).encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")
    return text[:longest]
