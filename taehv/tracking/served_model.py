"""The code of the MLflow model: takes and gives video of any number of frames and any size.

MLflow loads this file as code, together with the weights, so that nothing has to be unpickled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.pyfunc.model import PythonModel

from taehv.model.weights import load_model


class Reconstruction(PythonModel):
    """predict(): NTCHW video, float32 in [0, 1], to its reconstruction, aligned with the input and clamped."""

    def load_context(self, context: Any) -> None:
        """Called by MLflow after unpacking the artifacts."""
        self.model, self.info = load_model(Path(context.artifacts["best_model"]))

    # MLflow takes a type hint on the input for a schema of its own, in place of the signature.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """(N, T, 3, H, W) to (N, T', 3, H, W); H and W are multiples of the variant's spatial downscale."""
        frames = torch.from_numpy(np.ascontiguousarray(model_input, dtype=np.float32))
        with torch.inference_mode():
            return self.model.decode(self.model.encode(frames)).clamp(0, 1).numpy()


mlflow.models.set_model(Reconstruction())
