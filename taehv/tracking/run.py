"""One tracked run per stage execution."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sqlite3
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taehv.config.params import Params, StageName, resolved
from taehv.config.profiles import Profile
from taehv.config.stage_keys import flatten
from taehv.data.dataset import read_dataset_json
from taehv.evaluation.run_records import TrackingIds
from taehv.runtime.hashing import sha256_of_file, sha256_of_json
from taehv.tracking.environment import describe_environment
from taehv.tracking.journal import Journal, JournalError
from taehv.tracking.metric_names import metric_name
from taehv.tracking.secrets import without_secrets
from taehv.tracking.send_state import UNSENT, TrackingFolder, send_state_if_readable, unsent_folder
from taehv.tracking.sender_process import SenderProcess, patience_from_environment
from taehv.tracking.store import check_place, check_uri, tracking_uri
from taehv.tracking.system_metrics import SystemMetrics
from taehv.tracking.tags import ending_of, parent_from_environment, stage_tags

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger("taehv.tracking")

FULL_NAMES = "metric_names.json"
MODEL_INFO = "model_info.json"


class StageRun:
    """Takes what a stage has to say; writes it to the journal, from where another process tells MLflow.

    A tracking server that fails never stops or slows a stage. A journal that cannot be written does stop it.
    """

    def __init__(
        self, stage: StageName, params: Params, profile: Profile, folder: TrackingFolder, tensorboard: Path | None
    ) -> None:
        self.stage = stage
        self.failure: str | None = None
        self.complete = False
        """Whether MLflow has everything that the journal holds; known after the end."""
        self._params = params
        self._folder = folder
        self._patience = patience_from_environment()
        # Where sent.json is damaged the sender sends everything again, and then any number is right.
        self._journal = Journal(folder.journal, send_state_if_readable(folder.send_state).next_number)
        for loss in self._journal.losses:
            log.warning("%s: %s", folder.journal, loss)
        self.kept_at_start = self._journal.keep()
        """How many events earlier executions left."""
        self._tensorboard = _event_writer(tensorboard)
        self._full_names: dict[str, str] = {}
        """By the names that are told to MLflow instead."""
        self.key = next((e["key"] for e in self._journal.events() if e["kind"] == "begin"), uuid.uuid4().hex)
        """The run's identity in every store, known before any store is asked."""
        self._journal.append(
            "begin",
            key=self.key,
            name=stage,
            parent_run_id=parent_from_environment(),
            tags=stage_tags(stage, params, profile),
        )
        self._sender = SenderProcess(folder)
        last = self._journal.last_step("system/cpu_utilization_percentage")
        self._system = SystemMetrics(self._journal.append_metrics, 0 if last is None else last + 1)

    @property
    def run_id(self) -> str | None:
        """The MLflow run; None as long as no store could be reached."""
        return send_state_if_readable(self._folder.send_state).run_id

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers at a step. A point that an earlier, interrupted execution already logged is not logged again."""
        event = self._journal.append_metrics(step, values)
        if event is None:
            return
        self._sender.look_after()
        if self._tensorboard is not None:
            for key, value in event["values"].items():
                self._tensorboard.add_scalar(metric_name(key), value, step)
        self._tell_full_names(event["values"])

    def _tell_full_names(self, keys: Iterable[str]) -> None:
        """The artifact ``FULL_NAMES`` says what a metric is about whose name MLflow would not take."""
        changed = {name: key for key in keys if (name := metric_name(key)) != key}
        if not changed.keys() <= self._full_names.keys():
            self._full_names |= changed
            self.json_artifact(FULL_NAMES, {"schema": 1, "names": self._full_names})

    def keep(self) -> int:
        """Put the journal on disk; returns how many events it holds."""
        return self._journal.keep()

    def params(self, values: Mapping[str, Any]) -> None:
        """What was configured; flat keys."""
        self._journal.append("params", values=dict(values))

    def tags(self, values: Mapping[str, str]) -> None:
        """Labels to search and group by."""
        self._journal.append("tags", values=dict(values))

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """A copy of a file, or of everything in a folder, as it is now."""
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                inner = str(file.parent.relative_to(path.parent)) if path.is_dir() else ""
                place = "/".join(part for part in (folder or "", inner) if part) or None
                self._journal.append("artifact", folder=place, **self._keep([file], file.parent)[0])

    def json_artifact(self, file: str, value: Mapping[str, Any]) -> None:
        """A JSON artifact from memory."""
        self._journal.append("json", file=file, value=dict(value))

    def dataset(self, dataset_json: Path, context: str = "training") -> None:
        """The prepared data as this run's MLflow dataset input; ``context`` says what for.

        Raises:
            taehv.data.clip_store.StoreError: dataset.json is missing or unreadable.
        """
        facts = read_dataset_json(dataset_json)
        self._journal.append("dataset", facts=facts, context=context)
        self.tags({"dataset_sha256": facts["dataset_sha256"]})

    def model(self, best_model: Path, *, metrics: Mapping[str, float]) -> None:
        """The best model as an MLflow model."""
        files = self._keep([file for file in sorted(best_model.rglob("*")) if file.is_file()], best_model)
        identity = f"{self.key}:{_content_of(best_model)[:16]}"
        self._journal.append("model", files=files, identity=identity, metrics=dict(metrics))

    def link(self, prefix: str, other: TrackingIds) -> None:
        """Tags with the ids of another run and its model: `<prefix>.run_id`, `<prefix>.model_id`."""
        if other.known:
            self._journal.append("link", prefix=prefix, to=vars(other))

    def model_metrics(self, model: TrackingIds, step: int, values: Mapping[str, float]) -> None:
        """What was measured of another run's model, on this run's dataset; ``step`` is the model's."""
        if model.known:
            self._journal.append("model_metrics", model=vars(model), step=step, values=dict(values))

    def register(self, model: TrackingIds, alias: str, *, tags: Mapping[str, str], reason: str) -> None:
        """Another run's model in the registry, as `taehv-<variant>-<scale>` under an alias.

        Args:
            model: whose.
            alias: moves to the new version.
            tags: of the version.
            reason: why it has the alias; a line of the version's description.

        This run's tag `registered_as` follows when that is done.
        """
        if not model.known:
            return
        name = self._registered_name
        self._journal.append("register", model=vars(model), name=name, alias=alias, tags=dict(tags), reason=reason)

    def promote(self, model: TrackingIds, *, tags: Mapping[str, str]) -> None:
        """Let another run's model be the champion if its ``tags`` (taehv/tracking/registry.py) say it is better.

        Who the champion is, is known when the event is sent; the version's description and this run's tag `champion`
        then say how it went.
        """
        if model.known:
            self._journal.append("promote", model=vars(model), name=self._registered_name, tags=dict(tags))

    @property
    def _registered_name(self) -> str:
        return f"taehv-{self._params.active.model.variant}-{self._params.scale}"

    def fail(self, reason: str) -> None:
        """Mark the run as failed; the stage goes on to its own end."""
        self.failure = reason
        self.tags({"failed": "true", "failure_reason": reason})

    def ids(self) -> TrackingIds:
        """This run and its model for others to link to.

        Waits, within the patience that the whole run has for its store, until the model's id is known; an id that is
        not known then is None, and others find run and model by the key.
        """
        started = time.monotonic()
        send_state = send_state_if_readable(self._folder.send_state)
        while send_state.model_id is None and time.monotonic() - started < self._patience:
            self._sender.look_after()
            time.sleep(0.1)
            send_state = send_state_if_readable(self._folder.send_state)
        self._patience = max(0.0, self._patience - (time.monotonic() - started))
        return TrackingIds(send_state.run_id, send_state.model_id, self.key)

    def end(self, status: str, *, resumable: bool) -> None:
        """Close everything, and wait for the store within the run's patience.

        What has arrived is deleted, unless the next execution may continue it (``resumable``); what has not is said.
        """
        self._system.stop()
        if self._tensorboard is not None:
            self._tensorboard.close()
        try:
            self._journal.append("end", status=status)
            self._journal.keep()
        except JournalError:
            self._sender.stop()
            raise
        self.complete = self._sender.finish(self._patience)
        if not self.complete:
            self._leave_to_sync(resumable)
        # As long as it is open, the stage counts as running, and `taehv track sync` leaves it alone.
        self._journal.close()
        if self.complete and not resumable:
            with contextlib.suppress(FileNotFoundError):  # sync, which deletes only what has arrived, was faster
                self._folder.delete()

    def _leave_to_sync(self, resumable: bool) -> None:
        if not resumable and not self._folder.root.name.startswith(UNSENT):
            unsent = unsent_folder(self.stage)
            unsent.root.parent.mkdir(parents=True, exist_ok=True)
            self._folder.root.rename(unsent.root)
            self._folder = unsent
        log.warning(
            "WARNING: MLflow has not got everything of this run. It is kept in %s; send it with: taehv track sync",
            self._folder.root,
        )

    def _keep(self, files: list[Path], root: Path) -> list[dict[str, str]]:
        """Copies that live as long as the journal, and their checksums."""
        place = self._folder.files / uuid.uuid4().hex[:12]
        kept = []
        for file in files:
            copy = place / file.relative_to(root)
            try:
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
            except OSError as error:
                shutil.rmtree(place, ignore_errors=True)
                raise JournalError(
                    f"{file} cannot be kept for tracking in {place}: {os.strerror(error.errno or 0)}. Make room and "
                    "start the same command again"
                ) from error
            kept.append({"file": str(copy.relative_to(self._folder.root)), "sha256": sha256_of_file(copy)})
        return kept


def check_store() -> None:
    """What can be known of the store before work begins, without loading MLflow and without waiting for a server.

    Raises:
        StoreError: MLFLOW_TRACKING_URI cannot be used at all, or the store's files belong to another checkout.
    """
    check_uri()
    try:
        check_place()
    except sqlite3.Error as error:
        # Locked or damaged: the sender looks again before it writes anything, and goes on trying.
        log.warning("WARNING: tracking: %s cannot be read now: %s", without_secrets(tracking_uri()), error)


@contextlib.contextmanager
def stage_run(
    stage: StageName,
    params: Params,
    profile: Profile,
    *,
    folder: Path | None = None,
    tensorboard: Path | None = None,
) -> Iterator[StageRun]:
    """Track one execution of a stage.

    Args:
        stage: becomes the run's name.
        params: logged in their resolved form.
        profile: the machine.
        folder: where journal and sent.json are; a journal that exists is continued, and its MLflow run with it. When
            all has arrived the folder is deleted, otherwise it moves to where `taehv track sync` finds it; a run that
            failed or was interrupted keeps it where it is, so that the next execution continues it. Without a folder
            the run has one of its own, which nothing continues.
        tensorboard: folder for event files.

    Raises:
        StoreError: MLFLOW_TRACKING_URI cannot be used at all, or the store's files belong to another checkout.
        JournalError: the journal cannot be written.
    """
    check_store()
    tracking = unsent_folder(stage) if folder is None else TrackingFolder(folder.resolve())
    run = StageRun(stage, params, profile, tracking, tensorboard)
    try:
        run.params(flatten(resolved(params)))
        run.json_artifact("params.resolved.json", resolved(params))
        run.json_artifact("environment.json", describe_environment())
        yield run
    except BaseException as error:
        ending = ending_of(error)
        try:
            run.tags(ending.tags)
            run.end(ending.status, resumable=folder is not None)
        except JournalError as second:
            print(f"error: {second}", file=sys.stderr)  # the first one must not be replaced
        raise
    run.end("FINISHED" if run.failure is None else "FAILED", resumable=False)


def _content_of(best_model: Path) -> str:
    """What makes two models the same: everything but the time at which model_info.json was written."""
    content: dict[str, Any] = {}
    for file in sorted(best_model.rglob("*")):
        if file.name == MODEL_INFO:
            info = json.loads(file.read_text(encoding="utf-8"))
            content[file.name] = {key: value for key, value in info.items() if key != "time"}
        elif file.is_file():
            content[file.relative_to(best_model).as_posix()] = sha256_of_file(file)
    return sha256_of_json(content)


def _event_writer(folder: Path | None) -> SummaryWriter | None:
    if folder is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))
