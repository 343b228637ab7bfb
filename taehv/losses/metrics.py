"""PSNR, SSIM and LPIPS: one definition, and one way to measure clips, in validation and evaluation alike.

A metric is added here alone: its function, and a line of ``METRICS``, from which the validation history, the tracked
numbers, evaluation.json and the report's table follow.

Every function takes a decoded video and the original, both ``(N, T, 3, H, W)``, and returns one number per clip,
``(N,)`` float64. The one alignment rule is here too: after the decoder's trim, decoded frame j belongs to input frame j
(``common_frames``). The decoded video is clamped to [0, 1] here; the original is expected there already and is not
touched, so that a wrong range shows instead of hiding. A NaN in the decoded video gives NaN.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from taehv.config.batch_shares import micro_batches
from taehv.model.checkpoints import WeightsError, read_state_dict
from taehv.model.padding import to_float
from taehv.runtime.errors import UserError

MAX_PSNR_DB = 100.0
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5

LpipsBackbone = Literal["alex", "vgg"]
LPIPS_BACKBONE_FILES: dict[LpipsBackbone, str] = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
}

ClipMetric = Callable[[Tensor, Tensor], Tensor]
"""Decoded and original frames (N, T, 3, H, W) to one number per clip (N,)."""
ClipScores = dict[str, Tensor]
"""Metric to (clips,) float64."""


class MetricError(UserError):
    """A metric that cannot be computed on these images, or with these weights."""


def common_frames(decoded_ntchw: Tensor, frames_ntchw: Tensor) -> tuple[Tensor, Tensor]:
    """Both videos cut to the frames they share: j < min(T, T_decoded).

    Every loss and every metric compares what this returns, and nothing else shifts or cuts frames.
    """
    length = min(decoded_ntchw.shape[1], frames_ntchw.shape[1])
    return decoded_ntchw[:, :length], frames_ntchw[:, :length]


def psnr_per_clip(decoded_ntchw: Tensor, frames_ntchw: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB over RGB with range 1: per frame, then the mean over a clip's frames.

    A frame counts at most ``MAX_PSNR_DB``, so that an exact copy does not give infinity.
    """
    return _decibel(_mse_per_frame(decoded_ntchw, frames_ntchw)).mean(dim=1)


def mse_per_clip(decoded_ntchw: Tensor, frames_ntchw: Tensor) -> Tensor:
    """Mean squared error over all frames, colours and pixels of a clip."""
    return _mse_per_frame(decoded_ntchw, frames_ntchw).mean(dim=1)


def pooled_psnr(mse: Tensor) -> float:
    """PSNR in dB of the mean of several clips' squared errors, which weighs the worst clips most."""
    return float(_decibel(mse.double().mean()))


def ssim_per_clip(decoded_ntchw: Tensor, frames_ntchw: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004): Gaussian window of 11, sigma 1.5; per frame, mean over a clip's frames.

    Raises:
        MetricError: the frames are smaller than the window.
    """
    return structural_similarity(*_comparable(decoded_ntchw, frames_ntchw)).double()


def structural_similarity(decoded_ntchw: Tensor, frames_ntchw: Tensor) -> Tensor:
    """The same of frames as they are, unclamped, with a gradient: what the perceptual loss uses.

    Raises:
        MetricError: the frames are smaller than the window.
    """
    from pytorch_msssim import ssim  # a training box may lack it

    height, width = frames_ntchw.shape[-2:]
    if min(height, width) < SSIM_WINDOW:
        message = f"SSIM needs frames of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, got {height}x{width}"
        raise MetricError(f"{message}; raise data.height and data.width of the scale")
    decoded, frames = common_frames(decoded_ntchw, frames_ntchw)
    per_frame: Tensor = ssim(
        decoded.flatten(0, 1),
        frames.flatten(0, 1),
        data_range=1.0,
        size_average=False,
        win_size=SSIM_WINDOW,
        win_sigma=SSIM_SIGMA,
    )
    return per_frame.unflatten(0, decoded.shape[:2]).mean(dim=1)


def lpips_backbone_path(backbone: LpipsBackbone) -> Path:
    """Where the backbone's weights must be: below ``$TORCH_HOME/hub/checkpoints``. They are never downloaded."""
    return Path(torch.hub.get_dir()) / "checkpoints" / LPIPS_BACKBONE_FILES[backbone]


def lpips_backbone_file(backbone: LpipsBackbone) -> Path | None:
    """The backbone's weights, or None where this machine has none: the metric is absent then."""
    path = lpips_backbone_path(backbone)
    return path if path.is_file() else None


class Lpips:
    """Learned perceptual distance (Zhang et al. 2018) with the published linear heads; lower is more similar.

    Raises:
        MetricError: the backbone's weights are missing or damaged.
    """

    def __init__(self, backbone: LpipsBackbone, device: torch.device | str) -> None:
        import lpips  # needs torchvision, which a training box may lack

        path = lpips_backbone_file(backbone)
        if path is None:
            raise MetricError(f"LPIPS ({backbone}) needs the backbone's weights at {lpips_backbone_path(backbone)}")
        try:
            # lpips has torchvision load it as an ordinary pickle, which could execute code: not before it is known to
            # hold nothing but tensors.
            read_state_dict(path)
            with warnings.catch_warnings():
                # lpips asks torchvision for weights in a way that torchvision has renamed.
                warnings.simplefilter("ignore", UserWarning)
                network = lpips.LPIPS(net=backbone, verbose=False)
        except (RuntimeError, EOFError, WeightsError) as error:
            raise MetricError(f"LPIPS cannot load {path}: {error}; replace the file") from error
        self.backbone = backbone
        self._network = network.to(device).eval().requires_grad_(False)

    @torch.no_grad()
    def per_clip(self, decoded_ntchw: Tensor, frames_ntchw: Tensor) -> Tensor:
        """LPIPS per frame, mean over a clip's frames. One clip at a time bounds the memory."""
        decoded, frames = _comparable(decoded_ntchw, frames_ntchw)
        # The network is trained on [-1, 1], and is float32 whatever the model's precision.
        pairs = zip(decoded.float() * 2 - 1, frames.float() * 2 - 1, strict=True)
        return torch.stack([self._network(ours, theirs).double().mean() for ours, theirs in pairs])


def _lpips_if_here(backbone: LpipsBackbone, device: torch.device) -> ClipMetric | None:
    return None if lpips_backbone_file(backbone) is None else Lpips(backbone, device).per_clip


def _mean(scores: Tensor) -> float:
    return float(scores.mean())


@dataclass(frozen=True)
class Metric:
    """What is measured of every clip, and what the numbers are called."""

    name: str
    """Of the clips' scores."""
    in_history: str | None
    """In validation_history.json; None where it is not measured while training."""
    in_evaluation: str
    """In evaluation.json."""
    title: str
    """In the report."""
    digits: int
    """After the decimal point, in the report."""
    load: Callable[[torch.device], ClipMetric | None]
    """None where this machine lacks something that it needs."""
    over_clips: Callable[[Tensor], float] = _mean
    """The scores of several clips as one number."""
    less_is_better: bool = False


METRICS = (
    Metric("psnr", "psnr", "psnr_db", "PSNR, dB", 2, lambda _: psnr_per_clip),
    Metric("mse", "psnr_pooled", "psnr_pooled_db", "pooled PSNR, dB", 2, lambda _: mse_per_clip, pooled_psnr),
    Metric("ssim", "ssim", "ssim", "SSIM", 4, lambda _: ssim_per_clip),
    Metric(
        "lpips_alex", "lpips", "lpips_alex", "LPIPS (AlexNet)", 4, partial(_lpips_if_here, "alex"), less_is_better=True
    ),
    Metric("lpips_vgg", None, "lpips_vgg", "LPIPS (VGG)", 4, partial(_lpips_if_here, "vgg"), less_is_better=True),
)
HISTORY_METRICS = tuple(metric for metric in METRICS if metric.in_history is not None)


def available_metrics(device: torch.device, wanted: Iterable[Metric] = METRICS) -> dict[str, ClipMetric]:
    """Those of the metrics that this machine has what it takes for, by name."""
    loaded = {metric.name: metric.load(device) for metric in wanted}
    return {name: function for name, function in loaded.items() if function is not None}


class Clips(Protocol):
    """Where clips are read: a ``taehv.data.clip_store.ClipStore``."""

    def clip(self, clip_id: int) -> npt.NDArray[np.uint8]:
        """(T, 3, H, W)."""
        ...


def load_frames(
    clips: Clips, clip_ids: Sequence[int], device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(N, T, 3, H, W) in [0, 1] on the device."""
    stored = np.stack([clips.clip(clip_id) for clip_id in clip_ids])
    return to_float(torch.from_numpy(stored).to(device), dtype)


@torch.no_grad()
def score_clips(
    codec: Callable[[Tensor], Tensor],
    metrics: Mapping[str, ClipMetric],
    clip_ids: Sequence[int],
    batch: int,
    load: Callable[[Sequence[int]], Tensor],
) -> ClipScores:
    """Each metric of what ``codec`` makes of each clip, in the order of ``clip_ids``; float64 on the CPU.

    Args:
        codec: frames (N, T, 3, H, W) in [0, 1] to decoded frames.
        batch: clips decoded at a time; changes memory and speed only.
        load: the frames of some clips.
    """
    scores: dict[str, list[Tensor]] = {name: [] for name in metrics}
    for some in micro_batches(clip_ids, batch):
        frames = load(some)
        decoded = codec(frames)
        for name, metric in metrics.items():
            scores[name].append(metric(decoded, frames).double())
    # None where there are more processes than clips.
    none = torch.zeros(0, dtype=torch.float64)
    return {name: torch.cat(parts).cpu() if parts else none for name, parts in scores.items()}


def _comparable(decoded_ntchw: Tensor, frames_ntchw: Tensor) -> tuple[Tensor, Tensor]:
    """The common frames of both, the decoded ones clamped."""
    decoded, frames = common_frames(decoded_ntchw, frames_ntchw)
    if decoded.shape != frames.shape or decoded.ndim != 5 or decoded.shape[1] == 0:
        shapes = f"{tuple(decoded_ntchw.shape)} and {tuple(frames_ntchw.shape)}"
        raise ValueError(f"expected two videos (N, T, 3, H, W) that differ in T at most, got {shapes}")
    return decoded.clamp(0, 1), frames


def _mse_per_frame(decoded_ntchw: Tensor, frames_ntchw: Tensor) -> Tensor:
    """(N, T), summed in float64: float32 sums over a large frame lose the digits that equal runs are compared by."""
    decoded, frames = _comparable(decoded_ntchw, frames_ntchw)
    return (decoded - frames).square().mean(dim=(2, 3, 4), dtype=torch.float64)


def _decibel(mse: Tensor) -> Tensor:
    return (-10 * mse.log10()).clamp(max=MAX_PSNR_DB)
