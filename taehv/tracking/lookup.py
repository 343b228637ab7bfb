"""Finding things in a store: runs and models by tag, what belongs to a run, all pages of an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities import (
    DatasetInput,
    LoggedModel,
    LoggedModelInput,
    LoggedModelOutput,
    LoggedModelStatus,
    Run,
    ViewType,
)
from mlflow.store.entities.paged_list import PagedList

Item = TypeVar("Item")


def run_with_tag(client: MlflowClient, tag: str, value: str) -> Run | None:
    """A run of any experiment, deleted experiments included."""
    experiments = every_page(lambda token: client.search_experiments(view_type=ViewType.ALL, page_token=token))
    found = client.search_runs([item.experiment_id for item in experiments], f"tags.`{tag}` = '{value}'", max_results=1)
    return found[0] if found else None


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
