"""What an export says, checked before anything of it is brought into a store: the files may be a stranger's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from taehv.evaluation.run_records import RecordError, read_record
from taehv.tracking.transfer.archive import INDEX, REGISTRY, ArchiveError

Kinds = Mapping[str, type | tuple[type, ...]]

TEXT_OR_NONE = (str, type(None))
NUMBER_OR_NONE = (int, type(None))
INDEX_KEYS: Kinds = {"runs": list, "models": list}
RUN_KEYS: Kinds = {
    "run_id": str,
    "experiment": str,
    "name": TEXT_OR_NONE,
    "status": str,
    "start_time": int,
    "end_time": NUMBER_OR_NONE,
    "params": dict,
    "tags": dict,
    "datasets": list,
    "model_inputs": list,
    "model_outputs": list,
}
DATASET_KEYS: Kinds = {"dataset": dict, "tags": dict}
DATASET_FACTS: Kinds = {
    "name": str,
    "digest": str,
    "source_type": str,
    "source": str,
    "schema": TEXT_OR_NONE,
    "profile": TEXT_OR_NONE,
}
OUTPUT_KEYS: Kinds = {"model_id": str, "step": int}
MODEL_KEYS: Kinds = {
    "model_id": str,
    "name": TEXT_OR_NONE,
    "model_type": TEXT_OR_NONE,
    "status": str,
    "source_run_id": str,
    "params": dict,
    "tags": dict,
    "metrics": list,
}
METRIC_KEYS: Kinds = {
    "key": str,
    "value": str,
    "time": int,
    "step": int,
    "run_id": TEXT_OR_NONE,
    "dataset_name": TEXT_OR_NONE,
    "dataset_digest": TEXT_OR_NONE,
}
REGISTRY_KEYS: Kinds = {"names": list, "versions": list}
NAME_KEYS: Kinds = {"name": str, "description": TEXT_OR_NONE, "tags": dict}
VERSION_KEYS: Kinds = {**NAME_KEYS, "version": int, "model_id": str, "aliases": list}
MODEL_STATES = ("PENDING", "READY", "FAILED")
_ID = re.compile(r"[A-Za-z0-9_-]+")
"""One component of a path, and never `..`."""

Record = dict[str, Any]
Point = tuple[str, float, int, int]
"""Key, value, milliseconds since 1970, step."""


def read_archive(folder: Path) -> tuple[list[Record], list[Record]]:
    """All runs and all models.

    Raises:
        ArchiveError: a file is missing, damaged, or says what no export says.
    """
    index = _read(folder / INDEX, INDEX_KEYS)
    runs = [_run(folder / "runs" / _id(item, folder) / "run.json") for item in index["runs"]]
    models = [_model(folder / "models" / _id(item, folder) / "model.json") for item in index["models"]]
    known = {run["run_id"] for run in runs}
    for model in models:
        if model["source_run_id"] not in known:
            raise ArchiveError(f"{folder / INDEX} lists model {model['model_id']} without the run that made it")
    return runs, models


def read_points(folder: Path, run_id: str) -> Iterator[Point]:
    """A run's metrics, one after the other: there may be millions.

    Raises:
        ArchiveError: a line is not what an export writes.
    """
    path = folder / "runs" / run_id / "metrics.jsonl"
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                key, value, time, step = json.loads(line)
                wrong = not isinstance(key, str) or any(type(item) is not int for item in (time, step))
                if wrong or type(value) not in (int, float):
                    raise ArchiveError(f"{path}: line {number} is not a metric's key, value, time and step")
                yield key, float(value), time, step
    except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ArchiveError(f"{path} cannot be read: {error}") from error


def read_registry(folder: Path, models: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Registered names, and their versions by rising number; none in an export that is older than they are.

    Raises:
        ArchiveError: the file is damaged, or says what no export says.
    """
    path = folder / REGISTRY
    if not path.exists():
        return [], []
    record = _read(path, REGISTRY_KEYS)
    known = {model["model_id"] for model in models}
    for number, item in enumerate(record["names"]):
        _check(f"{path}: names[{number}]", item, NAME_KEYS)
        _texts(path, item["tags"])
    for number, item in enumerate(record["versions"]):
        where = f"{path}: versions[{number}]"
        _check(where, item, VERSION_KEYS)
        _texts(path, item["tags"])
        if item["model_id"] not in known:
            raise ArchiveError(f"{where} is of model {item['model_id'][:60]!r}, which the export does not have")
        if not all(isinstance(alias, str) for alias in item["aliases"]):
            raise ArchiveError(f"{where}: an alias is not a text")
    return record["names"], sorted(record["versions"], key=lambda item: (item["name"], item["version"]))


def _run(path: Path) -> Record:
    run = _read(path, RUN_KEYS)
    _same_id(path, run["run_id"])
    _texts(path, run["params"], run["tags"])
    for number, item in enumerate(run["datasets"]):
        where = f"{path}: datasets[{number}]"
        _check(where, item, DATASET_KEYS)
        _check(where, {"schema": None, "profile": None, **item["dataset"]}, DATASET_FACTS)
        if unknown := item["dataset"].keys() - DATASET_FACTS.keys():
            raise ArchiveError(f"{where} has an unknown {min(unknown)!r}")
        _texts(path, item["tags"])
    if not all(isinstance(item, str) for item in run["model_inputs"]):
        raise ArchiveError(f"{path}: model_inputs is not a list of ids")
    for number, item in enumerate(run["model_outputs"]):
        _check(f"{path}: model_outputs[{number}]", item, OUTPUT_KEYS)
    return run


def _model(path: Path) -> Record:
    model = _read(path, MODEL_KEYS)
    _same_id(path, model["model_id"])
    _texts(path, model["params"], model["tags"])
    if model["status"] not in MODEL_STATES:
        raise ArchiveError(f"{path}: status is {model['status']!r}, not one of {', '.join(MODEL_STATES)}")
    for number, item in enumerate(model["metrics"]):
        where = f"{path}: metrics[{number}]"
        _check(where, item, METRIC_KEYS)
        try:
            float(item["value"])
        except ValueError as error:
            raise ArchiveError(f"{where}: {error}") from error
    if model["status"] == "READY" and not (path.parent / "artifacts").is_dir():
        raise ArchiveError(f"{path}: the model is READY and the export has no files of it; export it again")
    return model


def _read(path: Path, kinds: Kinds) -> Record:
    try:
        record = read_record(path)
    except RecordError as error:
        raise ArchiveError(str(error)) from error
    _check(str(path), record, kinds)
    return record


def _check(where: str, record: object, kinds: Kinds) -> None:
    if not isinstance(record, dict):
        raise ArchiveError(f"{where} is not a mapping")
    for key, kind in kinds.items():
        if key not in record:
            raise ArchiveError(f"{where} has no {key!r}")
        if not isinstance(record[key], kind) or isinstance(record[key], bool):
            raise ArchiveError(f"{where}: {key!r} is {type(record[key]).__name__}, which no export writes")


def _texts(path: Path, *mappings: Record) -> None:
    if not all(isinstance(value, str) for mapping in mappings for value in mapping.values()):
        raise ArchiveError(f"{path}: a param or tag is not a text")


def _id(item: object, folder: Path) -> str:
    if not isinstance(item, str) or not _ID.fullmatch(item):
        raise ArchiveError(f"{folder / INDEX} has the id {str(item)[:60]!r}; an id is letters, digits, - and _")
    return item


def _same_id(path: Path, said: str) -> None:
    if said != path.parent.name:
        raise ArchiveError(f"{path} says that it is {said[:60]!r}")
