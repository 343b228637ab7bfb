"""Encoding and decoding while the clip is still coming, at constant memory.

The numbers are those of the whole-clip calls. A stream keeps, per temporal block, one frame of the block's input, and
what a variant's rule about the clip's end does not let it give away yet (MiniMax H3: three latents). Streams run
without gradients.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from taehv.model.padding import Memory, cut_or_fill_with_zeros, put_zeros_in_front, repeat_last
from taehv.model.variants import Segments, Variant


class StreamedModel(Protocol):
    """What a stream needs of a model; a ``VideoAutoencoder`` has it, and uses streams itself for long clips."""

    @property
    def variant(self) -> Variant: ...

    def check_frames(self, frames_ntchw: Tensor) -> None: ...

    def check_latents(self, latents_ntchw: Tensor) -> None: ...

    def run_encoder(self, frames_ntchw: Tensor, clips: int, memory: Memory | None = None) -> Tensor: ...

    def run_decoder(self, latents_ntchw: Tensor, clips: int, memory: Memory | None = None) -> Tensor: ...


class StreamingEncoder:
    """Takes frames, gives latents as soon as they exist. After ``flush`` it is ready for the next clip."""

    def __init__(self, model: StreamedModel) -> None:
        self._model = model
        self._reset()

    def _reset(self) -> None:
        self._memory: Memory = {}
        self._waiting_frames: Tensor | None = None
        self._waiting_latents: Tensor | None = None
        self._last_frame: Tensor | None = None
        self._seen = 0
        self._given = 0

    @torch.inference_mode()
    def push(self, frames_ntchw: Tensor) -> Tensor:
        """The clip's next frames (N, t, 3, H, W), t >= 1, to the latents (N, t', C, h, w) known now; t' may be 0.

        Raises:
            ValueError: the frames do not fit the variant, or not the frames before them.
        """
        self._model.check_frames(frames_ntchw)
        if self._last_frame is not None and self._last_frame.shape[2:] != frames_ntchw.shape[2:]:
            before, now = (tuple(tensor.shape[2:]) for tensor in (self._last_frame, frames_ntchw))
            raise ValueError(f"the frames of a stream have one size, got {now} after {before}")
        self._last_frame = frames_ntchw[:, -1:].clone()
        segments = self._model.variant.segments
        if segments is None:
            self._encode(frames_ntchw)
        else:
            self._encode_pieces(frames_ntchw, segments)
        self._seen += frames_ntchw.shape[1]
        return self._give(self._model.variant.latent_frames(self._seen))

    @torch.inference_mode()
    def flush(self) -> Tensor:
        """The clip's last latents (N, t', C, h, w).

        Raises:
            ValueError: nothing was pushed.
        """
        if self._last_frame is None:
            raise ValueError("a stream without frames has no latents")
        missing = self._model.variant.padded_frames(self._seen) - self._seen
        if missing:
            self._encode(repeat_last(self._last_frame, missing - 1))
        latents = self._give(self._model.variant.latent_frames(self._seen))
        self._reset()
        return latents

    def _encode_pieces(self, frames: Tensor, segments: Segments) -> None:
        """``_encode`` with black frames in front of each piece, and nothing remembered from the piece before."""
        position = self._seen % segments.frames
        for piece in _cut(frames, segments.frames, position):
            if position == 0:
                self._memory = {}
                piece = put_zeros_in_front(piece, segments)
            self._encode(piece)
            position = 0

    def _encode(self, frames: Tensor) -> None:
        frames = _joined(self._waiting_frames, frames)
        usable = frames.shape[1] // self._model.variant.t_downscale * self._model.variant.t_downscale
        self._waiting_frames = frames[:, usable:].clone()
        if usable:
            latents = self._model.run_encoder(frames[:, :usable], len(frames), self._memory)
            self._waiting_latents = _joined(self._waiting_latents, latents)

    def _give(self, certain: int) -> Tensor:
        """The latents that belong to the clip wherever it ends, without those given before."""
        assert self._last_frame is not None
        if self._waiting_latents is None:
            height, width = (size // self._model.variant.spatial_downscale for size in self._last_frame.shape[-2:])
            shape = (len(self._last_frame), 0, self._model.variant.latent_channels, height, width)
            return self._last_frame.new_empty(shape)
        given, self._waiting_latents = _split(self._waiting_latents, certain - self._given)
        self._given += given.shape[1]
        return given


class StreamingDecoder:
    """Takes latents, gives frames as soon as they exist. After ``flush`` it is ready for the next clip.

    Args:
        model: decodes.
        latent_frames: how many latents the clip will have, where that is known.

    Raises:
        ValueError: the variant's trim depends on that number, and it is not given.
    """

    def __init__(self, model: StreamedModel, latent_frames: int | None = None) -> None:
        if latent_frames is None and model.variant.trim_needs_clip_length:
            raise ValueError(
                f"{model.variant.name} drops frames at the start or not, depending on the clip's number of latents: "
                "a stream must be told latent_frames at its start"
            )
        self._model = model
        self._promised = latent_frames
        self._reset()

    def _reset(self) -> None:
        self._memory: Memory = {}
        self._waiting: Tensor | None = None
        self._seen = 0
        self._given = 0

    @torch.inference_mode()
    def push(self, latents_ntchw: Tensor) -> Tensor:
        """The clip's next latents (N, t, C, h, w), t >= 1, to the frames (N, t', 3, H, W) known now; not clamped.

        Raises:
            ValueError: the latents do not fit the variant, or are more than promised.
        """
        variant = self._model.variant
        self._model.check_latents(latents_ntchw)
        clips, count = latents_ntchw.shape[:2]
        if self._promised is not None and self._seen + count > self._promised:
            raise ValueError(f"{self._seen + count} latents, but the stream was told {self._promised}")
        frames = self._model.run_decoder(latents_ntchw, clips, self._memory)
        start = self._seen * variant.t_upscale
        kept = variant.kept_frames(start, start + frames.shape[1], self._promised or 0)
        self._seen += count
        self._waiting = _joined(self._waiting, _picked(frames, [frame - start for frame in kept]))
        given, self._waiting = _split(self._waiting, variant.decoded_frames(self._promised or self._seen) - self._given)
        self._given += given.shape[1]
        return given

    @torch.inference_mode()
    def flush(self) -> Tensor:
        """The clip's last frames (N, t', 3, H, W).

        Raises:
            ValueError: nothing was pushed, or fewer latents than promised.
        """
        if self._waiting is None:
            raise ValueError("a stream without latents has no frames")
        if self._promised is not None and self._seen != self._promised:
            raise ValueError(f"the stream ended after {self._seen} latents, but was told {self._promised}")
        frames = cut_or_fill_with_zeros(self._waiting, self._model.variant.decoded_frames(self._seen) - self._given)
        self._reset()
        return frames


class StreamingTAEHV:
    """Both directions, frame by frame, for live use.

    Args:
        model: a plain or a folded model.
        latent_frames: how many latents will be pushed, where that is known; needed for CogVideoX, whose trim depends
            on it (only for decoding: encoding alone never needs it).
    """

    def __init__(self, model: StreamedModel, latent_frames: int | None = None) -> None:
        self._encoder = StreamingEncoder(model)
        self._model = model
        self._latent_frames = latent_frames
        self._decoder: StreamingDecoder | None = None

    def push_frames(self, frames_ntchw: Tensor) -> Tensor:
        """As ``StreamingEncoder.push``."""
        return self._encoder.push(frames_ntchw)

    def flush_frames(self) -> Tensor:
        """The last latents, as ``StreamingEncoder.flush``."""
        return self._encoder.flush()

    def push_latents(self, latents_ntchw: Tensor) -> list[Tensor]:
        """The next latents (N, t, C, h, w) to the frames known now, one by one, each (N, 3, H, W), not clamped."""
        if self._decoder is None:
            self._decoder = StreamingDecoder(self._model, self._latent_frames)
        return list(self._decoder.push(latents_ntchw).unbind(1))

    def flush_latents(self) -> list[Tensor]:
        """The last frames, one by one, each (N, 3, H, W)."""
        if self._decoder is None:
            raise ValueError("a stream without latents has no frames")
        return list(self._decoder.flush().unbind(1))


def _joined(first: Tensor | None, second: Tensor) -> Tensor:
    return second if first is None or first.shape[1] == 0 else torch.cat([first, second], dim=1)


def _picked(frames: Tensor, kept: list[int]) -> Tensor:
    """The frames of these numbers, increasing; a list of them would be sent to a GPU, which waits for it."""
    if not kept or kept[-1] - kept[0] + 1 == len(kept):
        return frames[:, kept[0] : kept[-1] + 1] if kept else frames[:, :0]
    return frames[:, kept]


def _cut(frames: Tensor, size: int, position: int) -> list[Tensor]:
    """Frames that start at ``position`` of a piece, cut where pieces of ``size`` end."""
    first = size - position
    return [frames[:, :first], *frames[:, first:].split(size, dim=1)] if frames.shape[1] > first else [frames]


def _split(clip: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first ``count`` time steps, as far as they exist, and the others."""
    count = min(count, clip.shape[1])
    return clip[:, :count], clip[:, count:].clone()
