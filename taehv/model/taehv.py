"""TAEHV: the tiny autoencoder for video latents, in its plain formulation.

Layer order and names follow the published state dicts, so that their weights load unchanged and ours load anywhere
TAEHV is used. This is the reference that every faster path is compared with.
"""

from __future__ import annotations

import torch
from torch import nn

from taehv.model.autoencoder import VideoAutoencoder
from taehv.model.blocks import Clamp, MemBlock, SuperMemBlock, TGrow, TPool
from taehv.model.variants import Variant

ENCODER_CHANNELS = 64
DECODER_CHANNELS = {"base": (256, 128, 64, 64), "super": (512, 256, 128, 64)}
BLOCKS_PER_STAGE = 3


class TAEHV(VideoAutoencoder):
    """Encoder and decoder of one variant.

    Args:
        variant: the published architecture to follow.
        width: multiplies every hidden channel count; 1 gives the published sizes.
    """

    def __init__(self, variant: Variant, width: float = 1.0) -> None:
        channels = tuple(_scaled(count, width) for count in DECODER_CHANNELS[variant.decoder_kind])
        build = build_decoder if variant.decoder_kind == "base" else build_super_decoder
        super().__init__(variant, build_encoder(variant, _scaled(ENCODER_CHANNELS, width)), build(variant, channels))
        self.width = width
        if variant.decoder_kind == "super":
            # The published decoders cancel large sums; with channels last their float32 rounding is half as large.
            self.to(memory_format=torch.channels_last)


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
    stages = zip(variant.decoder_time_upscale, variant.decoder_space_upscale, strict=True)
    for stage, (double_time, double_space) in enumerate(stages):
        layers.extend(MemBlock(channels[stage], channels[stage]) for _ in range(BLOCKS_PER_STAGE))
        layers.append(nn.Upsample(scale_factor=2 if double_space else 1))
        layers.append(TGrow(channels[stage], 2 if double_time else 1))
        layers.append(nn.Conv2d(channels[stage], channels[stage + 1], 3, padding=1, bias=False))
    layers.extend([nn.ReLU(), nn.Conv2d(channels[-1], variant.patch_channels, 3, padding=1)])
    return nn.Sequential(*layers)


def build_super_decoder(variant: Variant, channels: tuple[int, ...]) -> nn.Sequential:
    """1x1 entry, then three stages of [three SuperMemBlocks, 3x3, ReLU, pixel shuffle, TGrow], then a 3x3."""
    layers: list[nn.Module] = [nn.Conv2d(variant.latent_channels, channels[0], 1, bias=False)]
    for stage, double_time in enumerate(variant.decoder_time_upscale):
        layers.extend(SuperMemBlock(channels[stage]) for _ in range(BLOCKS_PER_STAGE))
        layers.append(nn.Conv2d(channels[stage], 4 * channels[stage + 1], 3, padding=1))
        layers.extend([nn.ReLU(), nn.PixelShuffle(2)])
        layers.append(TGrow(channels[stage + 1], 2 if double_time else 1))
    layers.append(nn.Conv2d(channels[-1], variant.patch_channels, 3, padding=1))
    return nn.Sequential(*layers)


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))
