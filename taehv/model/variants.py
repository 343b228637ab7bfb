"""The published variants of the family, each a small frozen description.

A variant is chosen by its name, or found from a checkpoint's keys and shapes (``checkpoints.py``); never guessed from a
file name. Whatever depends on a variant's rule about time asks the variant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Stages = tuple[bool, bool, bool]

LARGEST_WIDTH = 4.0
"""Multiple of the published sizes up to which networks are made: files from elsewhere may claim any."""


@dataclass(frozen=True)
class Segments:
    """A clip that is coded in independent pieces of equal length (MiniMax H3)."""

    frames: int
    """Frames of a piece; the last piece is filled up with the clip's last frame."""
    zero_frames: int
    """Black frames put in front of every piece before it is encoded."""
    dropped_latents: int
    """Latents dropped at the end of the clip; the decoder drops as many latents' frames."""


@dataclass(frozen=True)
class Variant:
    """What distinguishes one published autoencoder from the others."""

    name: str
    teacher: str
    """The autoencoder whose latents it shares, by its class in diffusers where there is one."""
    patch_size: int
    """Pixel unshuffle before the encoder and pixel shuffle after the decoder; 1 is none."""
    latent_channels: int
    encoder_time_downscale: Stages = (True, True, False)
    """Whether each encoder stage halves the number of frames."""
    decoder_time_upscale: Stages = (False, True, True)
    """Whether each decoder stage doubles the number of frames."""
    decoder_space_upscale: Stages = (True, True, True)
    """Whether each decoder stage doubles height and width; all published decoders do."""
    decoder_kind: Literal["base", "super"] = "base"
    """`super`: depthwise 7x7 blocks and upsampling by convolution and pixel shuffle."""
    trim_rule: Literal["always", "odd_latents"] = "always"
    """`always`: the first t_upscale - 1 decoded frames are dropped; `odd_latents`: only when the number of latents
    is odd (CogVideoX)."""
    segments: Segments | None = None
    """Set where a clip is coded in independent pieces; the trim then applies to each piece."""

    @property
    def t_downscale(self) -> int:
        return int(2 ** sum(self.encoder_time_downscale))

    @property
    def t_upscale(self) -> int:
        return int(2 ** sum(self.decoder_time_upscale))

    @property
    def spatial_downscale(self) -> int:
        """Pixels per latent along height and width in the encoder: three stages of 2, times the patch."""
        return 8 * self.patch_size

    @property
    def spatial_upscale(self) -> int:
        """Pixels that the decoder makes of a latent along height and width."""
        return int(2 ** sum(self.decoder_space_upscale)) * self.patch_size

    @property
    def patch_channels(self) -> int:
        return 3 * self.patch_size**2

    @property
    def trim_needs_clip_length(self) -> bool:
        """Whether the first decoded frame cannot be told before the number of latents is known."""
        return self.trim_rule == "odd_latents"

    def padded_frames(self, frames: int) -> int:
        """Frames after the clip has been filled up with its last frame to a length that can be coded."""
        step = self.segments.frames if self.segments else self.t_downscale
        return -(-frames // step) * step

    def latent_frames(self, frames: int) -> int:
        """Latents of ``frames`` input frames."""
        if self.segments is None:
            return self.padded_frames(frames) // self.t_downscale
        pieces = self.padded_frames(frames) // self.segments.frames
        return pieces * self._latents_per_piece(self.segments) - self.segments.dropped_latents

    def frames_to_code(self, frames: int) -> int:
        """How long a clip of ``frames`` frames must be made so that at least as many frames are decoded."""
        coded = frames
        while self.decoded_frames(self.latent_frames(coded)) < frames:
            coded += 1
        return coded

    def frames_to_trim(self, latent_frames: int) -> int:
        """Decoded frames to drop at the start (of each piece), after which decoded frame j is input frame j."""
        if self.trim_rule == "odd_latents" and latent_frames % 2 == 0:
            return 0
        return self.t_upscale - 1

    def decoded_frames(self, latent_frames: int) -> int:
        """Frames left after the trim."""
        if self.segments is None:
            return latent_frames * self.t_upscale - self.frames_to_trim(latent_frames)
        pieces = -(-latent_frames // self._latents_per_piece(self.segments))
        kept = pieces * (self._decoded_frames_per_piece(self.segments) - self.frames_to_trim(latent_frames))
        return kept - self.segments.dropped_latents * self.t_upscale

    def kept_frames(self, start: int, stop: int, latent_frames: int) -> list[int]:
        """Which of the decoder's raw frames ``start`` .. ``stop - 1`` survive the trim at the start (of each piece)."""
        trim = self.frames_to_trim(latent_frames)
        piece = self._decoded_frames_per_piece(self.segments) if self.segments else stop + 1
        return [frame for frame in range(start, stop) if frame % piece >= trim]

    def preview(self, time_upscale: Stages | None = None, space_upscale: Stages | None = None) -> Variant:
        """A cheaper decoder for the same weights: some of the stages leave time or space as it is.

        Raises:
            ValueError: a stage would upscale that does not, or the decoder cannot leave space as it is.
        """
        time, space = time_upscale or self.decoder_time_upscale, space_upscale or self.decoder_space_upscale
        for wanted, published, what in (
            (time, self.decoder_time_upscale, "time"),
            (space, self.decoder_space_upscale, "space"),
        ):
            if any(on and not may for on, may in zip(wanted, published, strict=True)):
                raise ValueError(f"{self.name} upscales {what} in the stages {published}: more cannot be switched on")
        if self.decoder_kind == "super" and not all(space):
            raise ValueError(f"the decoder of {self.name} upscales space by pixel shuffle: it cannot be switched off")
        return replace(self, decoder_time_upscale=time, decoder_space_upscale=space)

    def _latents_per_piece(self, segments: Segments) -> int:
        return (segments.frames + segments.zero_frames) // self.t_downscale

    def _decoded_frames_per_piece(self, segments: Segments) -> int:
        return self._latents_per_piece(segments) * self.t_upscale


VARIANTS: Mapping[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("hunyuan_video", "AutoencoderKLHunyuanVideo", patch_size=1, latent_channels=16),
        Variant("wan2_1", "AutoencoderKLWan", patch_size=1, latent_channels=16),
        Variant("cogvideox", "AutoencoderKLCogVideoX", patch_size=1, latent_channels=16, trim_rule="odd_latents"),
        Variant("wan2_2", "AutoencoderKLWan", patch_size=2, latent_channels=48),
        Variant("wan2_2_super", "AutoencoderKLWan", patch_size=2, latent_channels=48, decoder_kind="super"),
        Variant("hunyuan_video_1_5", "AutoencoderKLHunyuanVideo15", patch_size=2, latent_channels=32),
        Variant(
            "hunyuan_video_1_5_super",
            "AutoencoderKLHunyuanVideo15",
            patch_size=2,
            latent_channels=32,
            decoder_kind="super",
        ),
        Variant(
            "ltx_2",
            "AutoencoderKLLTX2Video",
            patch_size=4,
            latent_channels=128,
            encoder_time_downscale=(True, True, True),
            decoder_time_upscale=(True, True, True),
        ),
        Variant(
            "minimax_h3",
            "MiniMax H3",
            patch_size=2,
            latent_channels=24,
            segments=Segments(frames=17, zero_frames=3, dropped_latents=3),
        ),
    )
}
"""All published variants by name."""

TRAINABLE: Mapping[str, Variant] = {
    name: variant for name, variant in VARIANTS.items() if variant.decoder_kind == "base" and variant.segments is None
}
"""Those that the training pipeline can train: its teacher, initial weights and cheaper decoder know base decoders, and
clips that are coded in one piece."""
