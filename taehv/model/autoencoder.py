"""What every model of the family does with a clip, whatever its layers are made of: pad, run, align.

``TAEHV`` (the plain formulation) and ``FoldedTAEHV`` (the same numbers, faster) differ in their layers only.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from taehv.model.padding import Memory, cut_or_fill_with_zeros, put_zeros_in_front, repeat_last, run_layers
from taehv.model.streaming import StreamingDecoder, StreamingEncoder
from taehv.model.variants import Variant


class VideoAutoencoder(nn.Module):
    """Encoder and decoder of one variant.

    Args:
        variant: says how clips are padded, cut and aligned.
        encoder: layers from (clips*T, patch channels, H, W) to latents.
        decoder: layers from latents to (clips*T', patch channels, H, W).
    """

    def __init__(self, variant: Variant, encoder: nn.Sequential, decoder: nn.Sequential) -> None:
        super().__init__()
        self.variant = variant
        self.encoder = encoder
        self.decoder = decoder

    def encode(self, frames_ntchw: Tensor, chunk: int | None = None) -> Tensor:
        """Frames to latents.

        Args:
            frames_ntchw: (N, T, 3, H, W) RGB in [0, 1]; H and W are multiples of the variant's spatial downscale.
                T is padded at the end with the last frame to a length that the variant can code.
            chunk: frames to work on at a time, without gradients: the same numbers in memory that does not grow
                with T (apart from the result). None: all at once.

        Returns:
            (N, variant.latent_frames(T), latent_channels, H / downscale, W / downscale).

        Raises:
            ValueError: the shape does not fit.
        """
        if chunk is not None:
            stream = StreamingEncoder(self)
            return torch.cat([*map(stream.push, _pieces(frames_ntchw, chunk)), stream.flush()], dim=1)
        self.check_frames(frames_ntchw)
        clips, length = frames_ntchw.shape[:2]
        segments = self.variant.segments
        frames = repeat_last(frames_ntchw, self.variant.padded_frames(length) - length)
        if segments is None:
            return self.run_encoder(frames, clips)
        pieces = frames.reshape(-1, segments.frames, *frames.shape[2:])
        latents = self.run_encoder(put_zeros_in_front(pieces, segments), len(pieces))
        return latents.reshape(clips, -1, *latents.shape[2:])[:, : self.variant.latent_frames(length)]

    def decode(self, latents_ntchw: Tensor, chunk: int | None = None) -> Tensor:
        """Latents to frames, aligned: frame j of the result belongs to frame j of the encoder's input.

        Args:
            latents_ntchw: (N, T, latent_channels, H, W).
            chunk: latents to work on at a time, without gradients; None: all at once. ``decode_chunks`` gives the
                frames piece by piece, so that not even they need to be in memory.

        Returns:
            (N, variant.decoded_frames(T), 3, H * upscale, W * upscale), RGB around [0, 1], **not clamped**: a clamp
            has no gradient. Metrics and figures clamp.

        Raises:
            ValueError: the latents are not of this variant's shape.
        """
        if chunk is not None:
            return self._decode_piece_by_piece(latents_ntchw, chunk)
        self.check_latents(latents_ntchw)
        clips, length = latents_ntchw.shape[:2]
        frames = self.run_decoder(latents_ntchw, clips)
        if self.variant.segments is None:
            return frames[:, self.variant.frames_to_trim(length) :]
        kept = frames[:, self.variant.kept_frames(0, frames.shape[1], length)]
        return cut_or_fill_with_zeros(kept, self.variant.decoded_frames(length))

    def decode_chunks(self, latents_ntchw: Tensor, chunk: int) -> Iterator[Tensor]:
        """As ``decode``, ``chunk`` latents at a time: pieces (N, t, 3, H, W) that joined along t are its result."""
        self.check_latents(latents_ntchw)
        stream = StreamingDecoder(self, latents_ntchw.shape[1])
        for piece in _pieces(latents_ntchw, chunk):
            yield stream.push(piece)
        yield stream.flush()

    def _decode_piece_by_piece(self, latents_ntchw: Tensor, chunk: int) -> Tensor:
        """The pieces joined, each put into its place at once: joining them at the end would hold all of them twice."""
        frames, given = None, 0
        for piece in self.decode_chunks(latents_ntchw, chunk):
            if frames is None:
                count = self.variant.decoded_frames(latents_ntchw.shape[1])
                frames = piece.new_empty((len(piece), count, *piece.shape[2:]))
            frames[:, given : given + piece.shape[1]] = piece
            given += piece.shape[1]
        assert frames is not None
        return frames

    def run_encoder(self, frames_ntchw: Tensor, clips: int, memory: Memory | None = None) -> Tensor:
        """The layers alone, on T frames that the time downscale divides: no padding, no segments."""
        hidden = functional.pixel_unshuffle(frames_ntchw.flatten(0, 1), self.variant.patch_size)
        return run_layers(self.encoder, hidden, clips, memory).unflatten(0, (clips, -1))

    def run_decoder(self, latents_ntchw: Tensor, clips: int, memory: Memory | None = None) -> Tensor:
        """The layers alone: (N, T, C, H, W) to all T * t_upscale raw frames, not trimmed."""
        hidden = run_layers(self.decoder, latents_ntchw.flatten(0, 1), clips, memory)
        return functional.pixel_shuffle(hidden, self.variant.patch_size).unflatten(0, (clips, -1))

    def check_frames(self, frames_ntchw: Tensor) -> None:
        """Raises ValueError where frames cannot be encoded."""
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

    def check_latents(self, latents_ntchw: Tensor) -> None:
        """Raises ValueError where latents cannot be decoded."""
        channels = self.variant.latent_channels
        if latents_ntchw.ndim != 5 or latents_ntchw.shape[2] != channels:
            raise ValueError(
                f"expected latents of {self.variant.name} as (N, T, {channels}, H, W), got {tuple(latents_ntchw.shape)}"
            )
        if latents_ntchw.shape[1] == 0:
            raise ValueError("expected at least one latent")


def _pieces(clip_ntchw: Tensor, size: int) -> Iterator[Tensor]:
    if size < 1:
        raise ValueError(f"a chunk holds at least 1 time step, got {size}")
    for start in range(0, clip_ntchw.shape[1], size):
        yield clip_ntchw[:, start : start + size]
