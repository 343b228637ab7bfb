"""Logging the best model as an MLflow model."""

from __future__ import annotations

import importlib.metadata
import warnings
from pathlib import Path

import mlflow
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

PACKAGE = Path(__file__).parents[1]
CODE = Path(__file__).with_name("served_model.py")
NEEDED = ("torch", "numpy", "safetensors", "accelerate", "mlflow")


def log_model(best_model: Path) -> str:
    """Log the model folder into the active run; returns the model's id.

    Weights stay a safetensors file: MLflow's PyTorch flavour would freeze batch and picture size.
    """
    any_video = Schema([TensorSpec(np.dtype(np.float32), (-1, -1, 3, -1, -1))])
    with warnings.catch_warnings():
        # MLflow asks for type hints, which would take the place of the signature.
        warnings.filterwarnings("ignore", category=UserWarning, module="mlflow")
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=CODE,
            artifacts={"best_model": str(best_model)},
            code_paths=[str(PACKAGE)],
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in NEEDED],
            signature=ModelSignature(inputs=any_video, outputs=any_video),
            input_example=np.zeros((1, 5, 3, 16, 16), dtype=np.float32),
        )
    return str(info.model_id)
