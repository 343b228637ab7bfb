"""The published variants of the family, each a small frozen description.

A variant is chosen by its name and never guessed from a file name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Variant:
    """What distinguishes one published autoencoder from the others."""

    name: str
    patch_size: int
    """Pixel unshuffle before the encoder and pixel shuffle after the decoder; 1 is none."""
    latent_channels: int
    encoder_time_downscale: tuple[bool, bool, bool]
    """Whether each encoder stage halves the number of frames."""
    decoder_time_upscale: tuple[bool, bool, bool]
    """Whether each decoder stage doubles the number of frames."""
    trim_rule: Literal["always", "odd_latents"] = "always"
    """`always`: the first t_upscale - 1 decoded frames are dropped; `odd_latents`: only when the number of latents
    is odd (CogVideoX)."""

    @property
    def t_downscale(self) -> int:
        return int(2 ** sum(self.encoder_time_downscale))

    @property
    def t_upscale(self) -> int:
        return int(2 ** sum(self.decoder_time_upscale))

    @property
    def spatial_downscale(self) -> int:
        """Pixels per latent along height and width: three stages of 2, times the patch."""
        return 8 * self.patch_size

    @property
    def patch_channels(self) -> int:
        return 3 * self.patch_size**2

    def latent_frames(self, frames: int) -> int:
        """Latents of ``frames`` input frames (which are padded at the end)."""
        return -(-frames // self.t_downscale)

    def frames_to_trim(self, latent_frames: int) -> int:
        """Decoded frames to drop at the start, after which decoded frame j is input frame j."""
        if self.trim_rule == "odd_latents" and latent_frames % 2 == 0:
            return 0
        return self.t_upscale - 1

    def decoded_frames(self, latent_frames: int) -> int:
        """Frames left after the trim."""
        return latent_frames * self.t_upscale - self.frames_to_trim(latent_frames)


def _base(
    name: str, patch_size: int, latent_channels: int, trim_rule: Literal["always", "odd_latents"] = "always"
) -> Variant:
    """A variant that quarters time, as all but the newest do."""
    return Variant(name, patch_size, latent_channels, (True, True, False), (False, True, True), trim_rule)


VARIANTS: Mapping[str, Variant] = {
    variant.name: variant
    for variant in (
        _base("hunyuan_video", patch_size=1, latent_channels=16),
        _base("cogvideox", patch_size=1, latent_channels=16, trim_rule="odd_latents"),
        _base("hunyuan_video_1_5", patch_size=2, latent_channels=32),
    )
}
