"""One tracked run per stage execution."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from taehv.errors import UserError
from taehv.fingerprint import sha256_of_json
from taehv.params import Params, StageName, flatten, resolved, stage_params
from taehv.paths import main_repository
from taehv.profiles import Profile
from taehv.tracking.environment import current_git, describe_environment, gpu_names
from taehv.tracking.journal import Event, Journal
from taehv.tracking.sink import MlflowSink, as_json, parent_from_environment
from taehv.tracking.store import StoreError, tracking_uri, without_password

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.utils.tensorboard import SummaryWriter

Result = TypeVar("Result")


class StageRun:
    """Takes what a stage has to say; writes it to the journal first, then to MLflow and TensorBoard.

    A tracking server that fails never stops a stage: it is announced once, loudly, and the journal keeps everything.
    """

    def __init__(self, stage: StageName, params: Params, journal: Journal, tensorboard: Path | None) -> None:
        self.stage = stage
        self.warnings: list[str] = []
        self.failure: str | None = None
        self._params = params
        self._journal = journal
        self._sink: MlflowSink | None = None
        self._tensorboard = _event_writer(tensorboard)

    @property
    def run_id(self) -> str | None:
        """The MLflow run; None when the store could not be reached."""
        return self._sink.run_id if self._sink is not None else None

    @property
    def complete(self) -> bool:
        """Whether MLflow heard everything that the journal holds."""
        return not self.warnings

    def start(self) -> None:
        """Begin the MLflow run, or continue the one that the journal began."""
        earlier = list(self._journal.events())
        known = next((event["run_id"] for event in reversed(earlier) if event["kind"] == "start"), None)
        parent = parent_from_environment()
        self._sink = self._try(lambda: MlflowSink(self.stage, parent, known))
        if self._sink is None:
            return
        if not self._sink.continued:
            self._journal.append("start", run_id=self._sink.run_id)
            for event in earlier:
                if event["kind"] not in ("start", "status"):
                    self._send(event)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers at a step. A point that an earlier, interrupted execution already logged is not logged again."""
        event = self._journal.append_metrics(step, values)
        if event is None:
            return
        self._send(event)
        if self._tensorboard is not None:
            for key, value in event["values"].items():
                self._tensorboard.add_scalar(key, value, step)

    def keep(self) -> int:
        """Put the journal on disk; returns how many events it holds."""
        return self._journal.keep()

    def params(self, values: Mapping[str, Any]) -> None:
        """What was configured; flat keys."""
        self._send(self._journal.append("params", values=dict(values)))

    def tags(self, values: Mapping[str, str]) -> None:
        """Labels to search and group by."""
        self._send(self._journal.append("tags", values=dict(values)))

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """A copy of a file, or of everything in a folder."""
        kind = "artifact"
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                inner = str(file.parent.relative_to(path.parent)) if path.is_dir() else ""
                place = "/".join(part for part in (folder or "", inner) if part) or None
                self._send(self._journal.append(kind, path=str(file.resolve()), folder=place))

    def json_artifact(self, file: str, value: Mapping[str, Any]) -> None:
        """A JSON artifact from memory."""
        self._send(self._journal.append("json", file=file, value=dict(value)))

    def dataset(self, dataset_json: Path) -> None:
        """The prepared data as this run's MLflow dataset input."""
        facts = as_json(dataset_json)
        self._send(self._journal.append("dataset", facts=facts))
        self.tags({"dataset_sha256": facts["dataset_sha256"]})

    def model(self, best_model: Path, *, metrics: Mapping[str, float]) -> str | None:
        """The best model as an MLflow model; returns its id, or None when the store does not answer."""
        sink = self._sink
        return None if sink is None else self._try(lambda: sink.log_model(best_model, metrics))

    def register(self, model_id: str, alias: str) -> None:
        """The model in the registry, as `taehv-<variant>-<scale>` under an alias."""
        sink = self._sink
        name = f"taehv-{self._params.active.model.variant}-{self._params.scale}"
        if sink is not None:
            self._try(lambda: sink.register(model_id, name, alias))
        self.tags({"registered_as": f"{name}@{alias}"})

    def fail(self, reason: str) -> None:
        """Mark the run as failed; the stage goes on to its own end."""
        self.failure = reason
        self.tags({"failed": "true", "failure_reason": reason})

    def end(self, status: str) -> None:
        """Close everything. The status goes to MLflow last."""
        self._journal.append("status", status=status)
        sink = self._sink
        if sink is not None:
            self._try(lambda: sink.end(status))
        if self._tensorboard is not None:
            self._tensorboard.close()
        self._journal.close()

    def _send(self, event: Event) -> None:
        sink = self._sink
        if sink is not None:
            self._try(lambda: sink.send(event))

    def _try(self, call: Callable[[], Result]) -> Result | None:
        """Whatever a store can raise must not end a training; what it means is said once."""
        try:
            return call()
        except StoreError:
            raise
        except Exception as error:
            self._sink = None
            uri = without_password(tracking_uri())
            message = (
                f"MLflow at {uri} does not work ({type(error).__name__}); the stage goes on without it, and everything "
                f"is kept in {self._journal.path}"
            )
            self.warnings.append(message)
            print(f"WARNING: {message}\n  {without_password(str(error))[:300]}", file=sys.stderr)
            return None


@contextlib.contextmanager
def stage_run(
    stage: StageName,
    params: Params,
    profile: Profile,
    *,
    journal: Path | None = None,
    tensorboard: Path | None = None,
) -> Iterator[StageRun]:
    """Track one execution of a stage.

    Args:
        stage: becomes the run's name.
        params: logged in their resolved form.
        profile: the machine.
        journal: where the journal is; one that exists is continued, and its MLflow run with it. Without a path it is
            a file of its own, deleted after a clean end.
        tensorboard: folder for event files.

    Raises:
        StoreError: MLFLOW_TRACKING_URI cannot be used at all.
    """
    own_journal = main_repository() / ".work" / stage / f"journal-{time.time_ns()}-{os.getpid()}.jsonl"
    run = StageRun(stage, params, Journal(journal or own_journal), tensorboard)
    run.start()
    status = "FAILED"
    try:
        run.tags(_tags(stage, params, profile))
        run.params(flatten(resolved(params)))
        run.json_artifact("params.resolved.json", resolved(params))
        run.json_artifact("environment.json", describe_environment())
        yield run
        status = "FAILED" if run.failure is not None else "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        run.tags({"failed": "true", "failure_reason": "interrupted"})
        raise
    except BaseException as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        run.fail(reason)
        raise
    finally:
        run.end(status)
        if journal is None and run.complete:
            own_journal.unlink()


def _tags(stage: StageName, params: Params, profile: Profile) -> dict[str, str]:
    git, gpus = current_git(), gpu_names()
    tags = {
        "stage": stage,
        "scale": params.scale,
        "profile": profile.name,
        "gpu_names": ", ".join(sorted(set(gpus))) or "none",
        "gpu_count": str(len(gpus)),
        "git_commit": git.commit,
        "git_dirty": git.dirty,
        "params_sha256": sha256_of_json(stage_params(params, stage)),
    }
    from_dvc = {"dvc_exp_name": "DVC_EXP_NAME", "dvc_exp_baseline_rev": "DVC_EXP_BASELINE_REV"}
    return tags | {tag: os.environ[name] for tag, name in from_dvc.items() if name in os.environ}


def _event_writer(folder: Path | None) -> SummaryWriter | None:
    if folder is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))
