"""The building blocks of the family. Inside the network, frames are folded into the batch: tensors are (N*T, C, H, W).

The layers keep the names (``conv``, ``skip``) and the index order of the published state dicts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Clamp(nn.Module):
    """Soft limit of the decoder's input to (-3, 3): ``3 tanh(x / 3)``."""

    def forward(self, latents: Tensor) -> Tensor:
        return torch.tanh(latents / 3) * 3


class TemporalBlock(nn.Module):
    """A layer that sees its own input one time step earlier. All others treat every frame, or group, by itself."""

    def forward(self, frames: Tensor, clips: int, before: Tensor | None = None) -> Tensor:
        """One time step per frame.

        Args:
            frames: (clips*T, C, H, W).
            clips: how many clips ``frames`` holds, one after the other.
            before: (clips, 1, C, H, W), the input's last frame of the previous call; zeros at a clip's start if None.

        Returns:
            (clips*T, C_out, H, W).
        """
        raise NotImplementedError


def one_step_earlier(frames: Tensor, clips: int, before: Tensor | None) -> Tensor:
    """Each frame's predecessor: (clips*T, C, H, W) to the same shape; arguments as in ``TemporalBlock.forward``."""
    by_clip = frames.unflatten(0, (clips, -1))
    first = torch.zeros_like(by_clip[:, :1]) if before is None else before
    return torch.cat([first, by_clip[:, :-1]], dim=1).flatten(0, 1)


class MemBlock(TemporalBlock):
    """Residual block of three 3x3 convolutions over [input, input one time step earlier]."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * channels_in, channels_out, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 3, padding=1),
        )
        same = channels_in == channels_out
        self.skip = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1, bias=False)

    def forward(self, frames: Tensor, clips: int, before: Tensor | None = None) -> Tensor:
        past = one_step_earlier(frames, clips, before)
        return torch.relu(self.conv(torch.cat([frames, past], dim=1)) + self.skip(frames))


class SuperMemBlock(TemporalBlock):
    """Residual block of the `super` decoders: depthwise 7x7 over [input, input one time step earlier], then 1x1s."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * channels, 2 * channels, 7, padding=3, groups=2 * channels, bias=False),
            nn.Conv2d(2 * channels, 4 * channels, 1),
            nn.ReLU(),
            nn.Conv2d(4 * channels, channels, 1, bias=False),
        )

    def forward(self, frames: Tensor, clips: int, before: Tensor | None = None) -> Tensor:
        past = one_step_earlier(frames, clips, before)
        return self.conv(torch.cat([frames, past], dim=1)) + frames


class TPool(nn.Module):
    """Folds ``stride`` successive frames, earliest first, into channels and mixes them: T -> T / stride."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels * stride, channels, 1, bias=False)

    def forward(self, frames: Tensor) -> Tensor:
        channels, height, width = frames.shape[1:]
        return self.conv(frames.reshape(-1, self.stride * channels, height, width))


class TGrow(nn.Module):
    """Makes ``stride`` frames, earliest first, of each frame: T -> T * stride."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels, channels * stride, 1, bias=False)

    def forward(self, frames: Tensor) -> Tensor:
        channels, height, width = frames.shape[1:]
        return self.conv(frames).reshape(-1, channels, height, width)
