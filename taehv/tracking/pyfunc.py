"""Logging the best model as an MLflow model."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import mlflow
import numpy as np
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from taehv.model import serving

PACKAGE = Path(__file__).parents[1]
NEEDED = ("torch", "numpy", "safetensors", "mlflow")


def log_model(best_model: Path, run_id: str, model_id: str, *, step: int) -> None:
    """Log the model folder as the run's model ``model_id``, which the store has created.

    Weights stay a safetensors file: MLflow's PyTorch flavour would freeze batch and picture size. The run's metrics at
    ``step`` become the model's.
    """
    any_video = Schema([TensorSpec(np.dtype(np.float32), (-1, -1, 3, -1, -1))])
    Model.log(
        artifact_path=None,
        flavor=mlflow.pyfunc,
        name="model",
        run_id=run_id,
        model_id=model_id,
        step=step,
        loader_module=serving.__name__,
        data_path=str(best_model),
        code_paths=[str(PACKAGE)],
        pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in NEEDED],
        signature=ModelSignature(inputs=any_video, outputs=any_video),
        input_example=np.zeros((1, 5, 3, 16, 16), dtype=np.float32),
    )
