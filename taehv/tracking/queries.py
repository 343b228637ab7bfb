"""Finding things in a store: runs and models by tag or by where they came from, what belongs to a run, all pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities import (
    DatasetInput,
    LifecycleStage,
    LoggedModel,
    LoggedModelInput,
    LoggedModelOutput,
    LoggedModelStatus,
    Run,
    ViewType,
)
from mlflow.exceptions import MlflowException, RestException
from mlflow.store.entities.paged_list import PagedList

from taehv.tracking.store import is_server, tracking_uri

KEY_TAG = "taehv.key"
"""The run's own identity, made before any server is asked: by it a run is found whose creation was not answered."""
ORIGIN_TAG = "taehv.imported_from"
"""The id that a run or model had in the store that it was exported from."""
GONE = "RESOURCE_DOES_NOT_EXIST"

METRIC_BATCH = 1000
PARAM_BATCH = 100
"""What MLflow takes of params, and of tags, in one call."""
ENDED = ("FINISHED", "FAILED", "KILLED")
"""The states in which a run has ended."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class AnswerError(Exception):
    """What answers is no MLflow server: nothing that it said counts."""


def checked_id(answered: object, asked: object = None) -> str:
    """An id out of a store's answer.

    Args:
        answered: what the store said.
        asked: the id that it was asked for, where it was.

    Raises:
        AnswerError: it is none, or another one. A proxy's or another program's `{}` reads like a run without an id.
    """
    if not isinstance(answered, str) or not answered or (asked is not None and answered != asked):
        wanted = "an id" if asked is None else f"{asked}"
        raise AnswerError(f"the answer holds {answered!r} in the place of {wanted}: is this an MLflow server?")
    return answered


def said_by_store(error: MlflowException) -> bool:
    """Whether MLflow itself says so, and not a proxy before it."""
    return isinstance(error, RestException) or not is_server(tracking_uri())


def if_there(ask: Callable[[], Answer]) -> Answer | None:
    """The store's answer; None where it says that it does not have that.

    Raises:
        mlflow.exceptions.MlflowException: the store does not answer.
    """
    try:
        return ask()
    except MlflowException as error:
        if said_by_store(error) and error.error_code in (GONE, "INVALID_PARAMETER_VALUE"):
            return None
        raise


def living_run(client: MlflowClient, run_id: str) -> Run | None:
    """The run; None where the store does not have it, or someone deleted it.

    Raises:
        AnswerError: what answers is no MLflow server.
        mlflow.exceptions.MlflowException: the store does not answer.
    """
    run = if_there(lambda: client.get_run(run_id))
    if run is not None:
        checked_id(run.info.run_id, run_id)
    return run if run is not None and run.info.lifecycle_stage == LifecycleStage.ACTIVE else None


def run_with_tag(client: MlflowClient, tag: str, value: str) -> Run | None:
    """A run of any experiment, deleted experiments included."""
    experiments = every_page(lambda token: client.search_experiments(view_type=ViewType.ALL, page_token=token))
    found = client.search_runs([item.experiment_id for item in experiments], f"tags.`{tag}` = '{value}'", max_results=1)
    return found[0] if found else None


def find_run(client: MlflowClient, key: str | None, run_id: str | None) -> Run | None:
    """A run that another one names: by its own key, which it keeps when it moves, or by the id that it has here, or had
    in the store that it was exported from. None where this store does not have it.
    """
    named = None if run_id is None else living_run(client, run_id)
    if named is not None and (key is None or named.data.tags.get(KEY_TAG, key) == key):
        return named
    for tag, value in ((KEY_TAG, key), (ORIGIN_TAG, run_id)):
        if value is not None and (found := run_with_tag(client, tag, value)) is not None:
            return client.get_run(found.info.run_id)  # a search leaves the models out
    return None


def find_model(client: MlflowClient, run: Run, model_id: str | None) -> str | None:
    """The finished model that a run made: the one of that id, here or where it was exported from; else its newest."""
    models = [if_there(partial(client.get_logged_model, output.model_id)) for output in model_outputs(run)]
    ready = [model for model in models if model is not None and model.status == LoggedModelStatus.READY]
    named = [model for model in ready if model_id in (model.model_id, model.tags.get(ORIGIN_TAG))]
    return next((str(model.model_id) for model in reversed(named or ready)), None)


def model_with_tag(client: MlflowClient, experiment_id: str, tag: str, value: str) -> LoggedModel | None:
    """A model of the experiment; a finished one where there are several."""
    found = client.search_logged_models([experiment_id], f"tags.`{tag}` = '{value}'")
    return min(found, key=lambda model: model.status != LoggedModelStatus.READY, default=None)


def dataset_inputs(run: Run) -> Sequence[DatasetInput]:
    """The data that the run works on."""
    return run.inputs.dataset_inputs if run.inputs is not None else []


def model_inputs(run: Run) -> Sequence[LoggedModelInput]:
    """The models that the run measured."""
    return run.inputs.model_inputs if run.inputs is not None else []


def model_outputs(run: Run) -> Sequence[LoggedModelOutput]:
    """The models that the run made."""
    return run.outputs.model_outputs if run.outputs is not None else []


def every_page(search: Callable[[str | None], PagedList[Item]]) -> Iterator[Item]:
    """All results of a search that takes a page token."""
    token = None
    while True:
        page = search(token)
        yield from page
        token = page.token
        if not token:
            return


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """``size`` items at a time; the last batch may be smaller. No items, no batch."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
