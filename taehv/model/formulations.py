"""Which formulation of the same mathematics runs on which kind of device: the one place that chooses.

The plain model (``taehv.py``) is the reference that every row is compared with. What is fast on a CPU is not what is
fast on a GPU, so each row says what it was measured to be worth; ``benchmarks/RESULTS.md`` has the tables, and
``benchmarks/gpu.sh`` and ``benchmarks/codec.py`` make them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Training:
    """How one kind of device computes a training step."""

    layout: Literal["volumes", "planes"]
    """``volumes``: pooling and growing are 3D convolutions over frames one after the other (``fused_training.py``).
    ``planes``: everything is a 2D convolution, with the frames that pooling reads and growing makes side by side in
    channels (``fused_training_2d.py``)."""
    compiled: bool
    """Whether the step's passes go through torch.compile, with fixed shapes (``taehv/model/compilation.py``)."""
    ssim: Literal["library", "shifted sums"]
    """``library``: pytorch-msssim. ``shifted sums``: the same numbers as sums that a compiler fuses
    (``taehv/losses/perceptual.py``)."""
    discriminator: Literal["as defined", "pooled first"]
    """``pooled first``: images are averaged over patches before they are scored, which commutes, and the first
    layer's input is filled up with zeros to a multiple of 8 channels."""


@dataclass(frozen=True)
class Recipe:
    """How one kind of device folds a model for inference (``fused_inference.py``)."""

    layout: Literal["volumes", "planes"]
    """As for training."""
    fused: bool
    """Whether a convolution, its bias, the sum with the skip and the ReLU are one kernel of cuDNN's (in 16 bits)."""
    graphs: bool
    """Whether a stream's steps are recorded once and replayed as one CUDA graph."""


TRAINING: Mapping[str, Training] = {
    "cpu": Training(layout="volumes", compiled=False, ssim="library", discriminator="as defined"),
    "cuda": Training(layout="planes", compiled=True, ssim="shifted sums", discriminator="pooled first"),
}
"""By device type. Measured:

===== ================ ================================================================================================
cpu   volumes          1.4 to 1.6 times the plain model (64x64x12, 2 threads); planes: not measured
cuda  planes           32 clips/s uncompiled, where plain has 19 and volumes 29 (H100, 12x480x720, bf16, recon, batch 4)
cuda  compiled         45 clips/s; with all five terms 23, where 9 uncompiled (and 9 as volumes)
cuda  shifted sums     SSIM in 8 of 138 ms of a step; with pytorch-msssim in 14 of 130 ms (batch 2)
cuda  pooled first     Seraena in 37 of 175 ms of a step; as defined in 155 of 285 ms (batch 2)
===== ================ ================================================================================================
"""

RECIPES: Mapping[str, Recipe] = {
    "cpu": Recipe(layout="volumes", fused=False, graphs=False),
    "cuda": Recipe(layout="planes", fused=True, graphs=True),
}
"""By device type. Measured:

===== ================ ================================================================================================
cpu   volumes          decode 2.06, encode 1.87 times the plain model (33 frames of 192x256, 2 threads)
cuda  planes           decode 48, encode 42 ms, where plain has 94 and 65 (H100, 81 frames of 480x832, 16 bits)
cuda  fused            decode 23, encode 19 ms
cuda  graphs           1.8 ms per latent of a stream, where plain has 6.1
===== ================ ================================================================================================
"""
