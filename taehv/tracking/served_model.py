"""What MLflow loads and serves: ``model/serving.py`` behind MLflow's interface.

Named in every logged model as its loader module, and not a ``mlflow.pyfunc.PythonModel``: that class is pickled, or
wants type hints that would take the signature's place. Apart from mlflow it needs torch, numpy and safetensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from taehv.model.serving import InputError, VideoCoder

DEFAULTS = {"task": "reconstruct", "pixels": "same"}
"""MLflow's `params` of predict(), and their values where the caller gives none."""


class ServedModel:
    """predict(): see ``VideoCoder.run``; `task` and `pixels` are MLflow params."""

    def __init__(self, folder: Path) -> None:
        self._coder = VideoCoder(folder)

    def predict(self, model_input: NDArray[Any], params: dict[str, Any] | None = None) -> NDArray[Any]:
        """Raises MlflowException where the input cannot be coded: the scoring server then answers 400 and says why."""
        try:
            return self._coder.run(_with_number_type(model_input), **{**DEFAULTS, **(params or {})})
        except InputError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error


def _with_number_type(model_input: NDArray[Any]) -> NDArray[Any]:
    """An HTTP request's numbers arrive as Python objects, as the signature says: integers, or floats."""
    if model_input.dtype != object:
        return model_input
    try:
        return np.array(model_input.tolist())
    except ValueError as error:
        raise InputError(f"expected an array of numbers: {error}") from error


def _load_pyfunc(data_path: str) -> ServedModel:
    """MLflow's entry point; the name is MLflow's."""
    return ServedModel(Path(data_path))
