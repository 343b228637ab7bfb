"""What MLflow loads and serves: a thin face over a model folder. Named in every logged model as its loader module.

Not a ``mlflow.pyfunc.PythonModel``: that class is pickled, or wants type hints that would take the signature's place.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from taehv.model.weights import load_model


class Reconstruction:
    """predict(): NTCHW video, float32 in [0, 1], to its reconstruction, aligned with the input and clamped."""

    def __init__(self, folder: Path) -> None:
        self._model, _ = load_model(folder)

    def predict(self, video_ntchw: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, T, 3, H, W) to (N, decoded frames, 3, H, W)."""
        frames = torch.from_numpy(np.ascontiguousarray(video_ntchw, dtype=np.float32))
        with torch.inference_mode():
            reconstructed: NDArray[np.float32] = self._model.decode(self._model.encode(frames)).clamp(0, 1).numpy()
        return reconstructed


def _load_pyfunc(data_path: str) -> Reconstruction:
    """MLflow's entry point; the name is MLflow's."""
    return Reconstruction(Path(data_path))
