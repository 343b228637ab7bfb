"""What MLflow loads and serves: ``model/serving.py`` behind MLflow's interface.

Named in every logged model as its loader module, and not a ``mlflow.pyfunc.PythonModel``: that class is pickled, or
wants type hints that would take the signature's place. Apart from mlflow it needs torch, numpy and safetensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
            return self._coder.run(model_input, **{**DEFAULTS, **(params or {})})
        except InputError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error


def _load_pyfunc(data_path: str) -> ServedModel:
    """MLflow's entry point; the name is MLflow's."""
    return ServedModel(Path(data_path))
