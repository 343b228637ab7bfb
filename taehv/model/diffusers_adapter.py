"""A TAEHV that stands in for ``pipe.vae`` of a diffusers pipeline.

diffusers' video autoencoders take (N, C, T, H, W) frames in [-1, 1], and their pipelines undo ``scaling_factor`` or
``latents_mean`` / ``latents_std`` of the autoencoder's config before decoding. TAEHV works on the diffusion model's own
latents: here the factor is 1, the mean 0 and the deviation 1, so that undoing them changes nothing. diffusers itself is
not needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from taehv.model.autoencoder import VideoAutoencoder


class CertainDistribution:
    """The interface of diffusers' DiagonalGaussianDistribution for an encoder that knows its latents exactly."""

    def __init__(self, latents: Tensor) -> None:
        self.mean = latents
        self.std = self.var = torch.zeros_like(latents)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """The latents; there is nothing to draw."""
        return self.mean

    def mode(self) -> Tensor:
        """The latents."""
        return self.mean


@dataclass(frozen=True)
class EncoderOutput:
    latent_dist: CertainDistribution


@dataclass(frozen=True)
class DecoderOutput:
    sample: Tensor


class DiffusersVae(nn.Module):
    """``encode(...).latent_dist``, ``decode(...).sample`` and ``config`` in diffusers' conventions.

    Args:
        model: a plain or a folded model.
        chunk: latents to decode (and groups of frames to encode) at a time, to bound memory; None: the whole clip.
    """

    def __init__(self, model: VideoAutoencoder, chunk: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.chunk = chunk
        variant = model.variant
        self.temporal_compression_ratio = variant.t_downscale
        self.spatial_compression_ratio = variant.spatial_downscale
        self.latents_mean = torch.zeros(variant.latent_channels)
        self.latents_std = torch.ones(variant.latent_channels)
        self.config = SimpleNamespace(
            z_dim=variant.latent_channels,
            latent_channels=variant.latent_channels,
            in_channels=3,
            out_channels=3,
            latents_mean=self.latents_mean.tolist(),
            latents_std=self.latents_std.tolist(),
            scaling_factor=1.0,
            shift_factor=None,
            invert_scale_latents=False,
            timestep_conditioning=False,
            scale_factor_temporal=variant.t_downscale,
            scale_factor_spatial=variant.spatial_downscale,
            temporal_compression_ratio=variant.t_downscale,
            spatial_compression_ratio=variant.spatial_downscale,
            # CogVideoX pipelines count these to know the spatial ratio.
            block_out_channels=(64,) * variant.spatial_downscale.bit_length(),
        )

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @torch.inference_mode()
    def encode(self, x: Tensor, return_dict: bool = True) -> EncoderOutput | tuple[CertainDistribution]:
        """Frames (N, 3, T, H, W) in [-1, 1] to latents (N, C, t, h, w)."""
        frames = x.transpose(1, 2).to(self.dtype) / 2 + 0.5
        chunk = self.chunk and self.chunk * self.temporal_compression_ratio
        distribution = CertainDistribution(self.model.encode(frames, chunk=chunk).transpose(1, 2))
        return EncoderOutput(distribution) if return_dict else (distribution,)

    @torch.inference_mode()
    def decode(self, z: Tensor, temb: Tensor | None = None, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Latents (N, C, t, h, w) to frames (N, 3, T, H, W) in [-1, 1]; ``temb`` is LTX's, and not used."""
        frames = self.model.decode(z.transpose(1, 2).to(self.dtype), chunk=self.chunk)
        sample = (frames.clamp(0, 1) * 2 - 1).transpose(1, 2)
        return DecoderOutput(sample) if return_dict else (sample,)

    def enable_tiling(self) -> None:
        """Pipelines may ask for it. Nothing is tiled: ``chunk`` is what bounds the memory here."""

    def disable_tiling(self) -> None:
        """See ``enable_tiling``."""
