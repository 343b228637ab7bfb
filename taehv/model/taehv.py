"""TAEHV: the tiny autoencoder for video latents, in its plain formulation.

Layer order and names follow the published state dicts, so that their weights load unchanged and ours load anywhere
TAEHV is used.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from taehv.model.blocks import Clamp, MemBlock, TGrow, TPool
from taehv.model.variants import Variant

ENCODER_CHANNELS = 64
DECODER_CHANNELS = (256, 128, 64, 64)
BLOCKS_PER_STAGE = 3


class TAEHV(nn.Module):
    """Encoder and decoder of one variant.

    Args:
        variant: the published architecture to follow.
        width: multiplies every hidden channel count; 1 gives the published sizes.
    """

    def __init__(self, variant: Variant, width: float = 1.0) -> None:
        super().__init__()
        self.variant = variant
        self.width = width
        self.encoder = build_encoder(variant, _scaled(ENCODER_CHANNELS, width))
        self.decoder = build_decoder(variant, tuple(_scaled(channels, width) for channels in DECODER_CHANNELS))

    def encode(self, frames_ntchw: Tensor) -> Tensor:
        """Frames to latents.

        Args:
            frames_ntchw: (N, T, 3, H, W) RGB in [0, 1]; H and W are multiples of the variant's spatial downscale.
                T is padded at the end with the last frame to a multiple of the time downscale.

        Returns:
            (N, ceil(T / t_downscale), latent_channels, H / downscale, W / downscale).

        Raises:
            ValueError: the shape does not fit.
        """
        hidden, clips = self.frames_to_first_layer(frames_ntchw), frames_ntchw.shape[0]
        return _run(self.encoder, hidden, clips).unflatten(0, (clips, -1))

    def decode(self, latents_ntchw: Tensor) -> Tensor:
        """Latents to frames, aligned: frame j of the result belongs to frame j of the encoder's input.

        Args:
            latents_ntchw: (N, T, latent_channels, H, W).

        Returns:
            (N, T', 3, H * downscale, W * downscale), T' = variant.decoded_frames(T), RGB around [0, 1],
            **not clamped**: a clamp has no gradient. Metrics and pictures clamp.
        """
        clips, length = latents_ntchw.shape[:2]
        hidden = _run(self.decoder, latents_ntchw.flatten(0, 1), clips)
        frames = self.last_layer_to_frames(hidden, clips)
        return frames[:, self.variant.frames_to_trim(length) :]

    def frames_to_first_layer(self, frames_ntchw: Tensor) -> Tensor:
        """Checked, padded in time and unshuffled: (N, T, 3, H, W) to (N*T', patch channels, H / patch, W / patch)."""
        self._check_frames(frames_ntchw)
        missing = -frames_ntchw.shape[1] % self.variant.t_downscale
        if missing:
            last = frames_ntchw[:, -1:].expand(-1, missing, -1, -1, -1)
            frames_ntchw = torch.cat([frames_ntchw, last], dim=1)
        return functional.pixel_unshuffle(frames_ntchw.flatten(0, 1), self.variant.patch_size)

    def last_layer_to_frames(self, hidden: Tensor, clips: int) -> Tensor:
        """The inverse of the unshuffling: (N*T, patch channels, h, w) to (N, T, 3, H, W)."""
        return functional.pixel_shuffle(hidden, self.variant.patch_size).unflatten(0, (clips, -1))

    def _check_frames(self, frames_ntchw: Tensor) -> None:
        step = self.variant.spatial_downscale
        if frames_ntchw.ndim != 5 or frames_ntchw.shape[2] != 3:
            raise ValueError(f"expected frames as (N, T, 3, H, W), got {tuple(frames_ntchw.shape)}")
        if frames_ntchw.shape[1] == 0:
            raise ValueError("expected at least one frame")
        height, width = frames_ntchw.shape[-2:]
        if height % step or width % step:
            raise ValueError(
                f"height and width must be multiples of {step} for {self.variant.name}, got {height}x{width}"
            )


def build_encoder(variant: Variant, channels: int) -> nn.Sequential:
    """3x3 entry, then three stages of [TPool, strided 3x3, three MemBlocks], then a 3x3 to the latents."""
    layers: list[nn.Module] = [nn.Conv2d(variant.patch_channels, channels, 3, padding=1), nn.ReLU()]
    for halve_time in variant.encoder_time_downscale:
        layers.append(TPool(channels, 2 if halve_time else 1))
        layers.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False))
        layers.extend(MemBlock(channels, channels) for _ in range(BLOCKS_PER_STAGE))
    layers.append(nn.Conv2d(channels, variant.latent_channels, 3, padding=1))
    return nn.Sequential(*layers)


def build_decoder(variant: Variant, channels: tuple[int, ...]) -> nn.Sequential:
    """Clamp and 3x3 entry, then three stages of [three MemBlocks, upsample, TGrow, 3x3], then a 3x3 to the pixels."""
    layers: list[nn.Module] = [Clamp(), nn.Conv2d(variant.latent_channels, channels[0], 3, padding=1), nn.ReLU()]
    for stage, double_time in enumerate(variant.decoder_time_upscale):
        layers.extend(MemBlock(channels[stage], channels[stage]) for _ in range(BLOCKS_PER_STAGE))
        layers.append(nn.Upsample(scale_factor=2))
        layers.append(TGrow(channels[stage], 2 if double_time else 1))
        layers.append(nn.Conv2d(channels[stage], channels[stage + 1], 3, padding=1, bias=False))
    layers.extend([nn.ReLU(), nn.Conv2d(channels[-1], variant.patch_channels, 3, padding=1)])
    return nn.Sequential(*layers)


def _run(layers: nn.Sequential, frames: Tensor, clips: int) -> Tensor:
    for layer in layers:
        frames = layer(frames, clips) if isinstance(layer, MemBlock) else layer(frames)
    return frames


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))
