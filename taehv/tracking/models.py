"""The best model as an MLflow model: files, params, tags, and its metrics with the data they were measured on."""

from __future__ import annotations

import importlib.metadata
import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Dataset, LoggedModel, LoggedModelInput, LoggedModelOutput, LoggedModelStatus, Metric, Run
from mlflow.models import Model, ModelSignature
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

from taehv.tracking import served_model
from taehv.tracking.metric_names import metric_name
from taehv.tracking.queries import (
    METRIC_BATCH,
    batches,
    checked_id,
    dataset_inputs,
    model_inputs,
    model_outputs,
    model_with_tag,
)

PACKAGE = Path(__file__).parents[1]
NEEDED = ("torch", "numpy", "safetensors", "mlflow")
MODEL_TAG = "taehv.model"
"""Run and content: by it a model is found whose creation was not answered."""
MODEL_TYPE = "video autoencoder"
SAME_VALUE = 1e-6
"""Relative: a GPU does not give the same last digits twice."""
BEST_MODEL = "best_model"
"""How the model's data are called in its artifacts."""
VALIDATION = "val/"
ANY_ARRAY = Schema([TensorSpec(np.dtype(object), (-1,))])
"""MLflow's schema that lets every array pass. One with a number type and five -1 would refuse either bytes or floats,
and turn the floats of a JSON request into bytes or the other way round. The model checks what it is given."""
SIGNATURE = ModelSignature(
    inputs=ANY_ARRAY,
    outputs=ANY_ARRAY,
    params=ParamSchema([ParamSpec(name, "string", default) for name, default in served_model.DEFAULTS.items()]),
)
EXAMPLE = np.zeros((1, 5, 3, 16, 16), dtype=np.uint8)
WHAT_IT_TAKES = {
    "input": "video (N, T, 3, H, W), any N, T, H, W: integers in 0..255, or floats in [0, 1]; for decode latents",
    "task": "encode, decode or reconstruct (default)",
    "pixels": "uint8, float32 or same (default): what video comes out",
}


class ModelLogger:
    """Logs models of one run. Every call may be repeated: nothing arrives twice."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self._run_id = run_id

    def log(self, best_model: Path, identity: str, best: Mapping[str, float], time: int) -> str:
        """Log a model folder as training writes it; returns the model's id.

        Args:
            best_model: weights and model_info.json.
            identity: the value of ``MODEL_TAG``.
            best: `step`, and what was measured there, which becomes the run's and the model's `best/...`.
            time: of these metrics, in milliseconds since 1970.
        """
        run, step = self._client.get_run(self._run_id), int(best.get("step", 0))
        found = model_with_tag(self._client, run.info.experiment_id, MODEL_TAG, identity)
        model = found or self._create(run, best_model, identity)
        if model.model_id not in [output.model_id for output in model_outputs(run)]:
            self._client.log_outputs(self._run_id, [LoggedModelOutput(model.model_id, step=step)])
        if model.status != LoggedModelStatus.READY:
            self._log_files(best_model, model)
            self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        measured = [Metric(metric_name(f"best/{key}"), float(value), time, step) for key, value in best.items()]
        # A training that was killed after its model was logged logs it again at its end, at another time.
        self._link([*self._new(measured, model.model_id), *self._validation(run, step)], model.model_id, _dataset(run))
        return checked_id(model.model_id)

    def log_metrics(self, run_id: str, model_id: str, values: Mapping[str, float], step: int, time: int) -> None:
        """Numbers that this run found out about another run's model, on this run's data.

        The model becomes this run's input, as MLflow's own evaluation does it; the numbers go to the model and to the
        run that trained it, so that a comparison of training runs shows them.
        """
        run = self._client.get_run(self._run_id)
        if model_id not in [known.model_id for known in model_inputs(run)]:
            self._client.log_inputs(self._run_id, models=[LoggedModelInput(model_id)])
        metrics = [Metric(metric_name(key), float(value), time, step) for key, value in values.items()]
        # Measuring again what was measured says nothing new; the run that did it has its own copy of the numbers.
        ModelLogger(self._client, run_id)._link(self._new(metrics, model_id, _dataset(run)), model_id, _dataset(run))

    def _create(self, run: Run, best_model: Path, identity: str) -> LoggedModel:
        info = json.loads((best_model / "model_info.json").read_text(encoding="utf-8"))
        facts = {key: str(value) for key, value in info.items() if key != "schema" and value is not None}
        kept = ("stage", "scale", "profile", "gpu_names", "git_commit")
        tags = {key: run.data.tags[key] for key in kept if key in run.data.tags}
        return self._client.create_logged_model(
            run.info.experiment_id,
            name="model",
            source_run_id=self._run_id,
            tags={**facts, **tags, MODEL_TAG: identity},
            params=run.data.params,
            model_type=MODEL_TYPE,
        )

    def _log_files(self, best_model: Path, model: LoggedModel) -> None:
        """Weights stay a safetensors file: MLflow's PyTorch flavour would freeze batch and frame size."""
        with tempfile.TemporaryDirectory() as folder:
            packed = Path(folder) / "model"
            named = shutil.copytree(best_model, Path(folder) / BEST_MODEL)
            mlflow.pyfunc.save_model(
                packed,
                mlflow_model=Model(
                    artifact_path=model.artifact_location,
                    model_uuid=model.model_id,
                    run_id=self._run_id,
                    model_id=model.model_id,
                ),
                loader_module=served_model.__name__,
                data_path=str(named),
                code_paths=[str(PACKAGE)],
                pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in NEEDED],
                signature=SIGNATURE,
                input_example=(EXAMPLE, dict(served_model.DEFAULTS)),
                metadata=WHAT_IT_TAKES,
            )
            for cache in packed.rglob("__pycache__"):
                for file in cache.iterdir():
                    file.unlink()
                cache.rmdir()
            self._client.log_model_artifacts(model.model_id, str(packed))

    def _new(self, metrics: Sequence[Metric], model_id: str, dataset: Dataset | None = None) -> list[Metric]:
        """Those that the model does not have yet, at the same step and, where it is given, of the same data."""
        known = self._client.get_logged_model(model_id).metrics or []
        digest = None if dataset is None else dataset.digest
        there = {(m.key, m.step): m.value for m in known if digest in (None, m.dataset_digest)}
        return [m for m in metrics if not _is_same(there.get((m.key, m.step)), m.value)]

    def _validation(self, run: Run, step: int) -> list[Metric]:
        """What the run's validation said at the model's step, one value of each metric."""
        keys = [key for key in run.data.metrics if key.startswith(VALIDATION)]
        histories = (self._client.get_metric_history(self._run_id, key) for key in keys)
        points = {point.key: point for history in histories for point in history if point.step == step}
        return [Metric(point.key, point.value, point.timestamp, point.step) for point in points.values()]

    def _link(self, metrics: list[Metric], model_id: str, dataset: Dataset | None) -> None:
        """To the run and to the model. Equal points (time included) are kept once by MLflow's stores."""
        name, digest = (dataset.name, dataset.digest) if dataset is not None else (None, None)
        linked = [Metric(m.key, m.value, m.timestamp, m.step, model_id, name, digest, self._run_id) for m in metrics]
        for batch in batches(linked, METRIC_BATCH):
            self._client.log_batch(self._run_id, metrics=batch)


def _dataset(run: Run) -> Dataset | None:
    inputs = dataset_inputs(run)
    return inputs[0].dataset if inputs else None


def _is_same(there: float | None, value: float) -> bool:
    return there is not None and (
        math.isclose(there, value, rel_tol=SAME_VALUE) or (math.isnan(there) and math.isnan(value))
    )
