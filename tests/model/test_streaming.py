"""Chunks and streams give the whole clip's numbers, as soon as they can be known."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from taehv.model.init import create_model
from taehv.model.streaming import StreamingDecoder, StreamingEncoder, StreamingTAEHV
from taehv.model.taehv import TAEHV
from taehv.model.variants import VARIANTS


@functools.cache
def narrow(name: str) -> TAEHV:
    return create_model(VARIANTS[name], 1 / 16, "torch_default", seed=0).eval()


def clip(name: str, frames: int, rows: int = 1, columns: int = 1, clips: int = 1) -> Tensor:
    size = VARIANTS[name].spatial_downscale
    return torch.rand(clips, frames, 3, rows * size, columns * size, generator=torch.Generator().manual_seed(frames))


def close(ours: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(VARIANTS)),
    frames=st.integers(1, 40),
    rows=st.integers(1, 2),
    columns=st.integers(1, 2),
    clips=st.integers(1, 2),
    chunk=st.integers(1, 24),
)
def test_chunks_of_any_size_give_the_whole_clips_numbers(
    name: str, frames: int, rows: int, columns: int, clips: int, chunk: int
) -> None:
    model, video = narrow(name), clip(name, frames, rows, columns, clips)
    with torch.inference_mode():
        latents = model.encode(video)
        decoded = model.decode(latents)
    close(model.encode(video, chunk=chunk), latents)
    close(model.decode(latents, chunk=chunk), decoded)
    close(torch.cat(list(model.decode_chunks(latents, chunk)), dim=1), decoded)


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(sorted(VARIANTS)), frames=st.integers(1, 40))
def test_a_stream_gives_the_whole_clips_numbers_frame_by_frame(name: str, frames: int) -> None:
    model, video = narrow(name), clip(name, frames)
    with torch.inference_mode():
        latents = model.encode(video)
        decoded = model.decode(latents)
    told = latents.shape[1] if model.variant.trim_needs_clip_length else None
    stream = StreamingTAEHV(model, told)
    close(
        torch.cat([*(stream.push_frames(video[:, i : i + 1]) for i in range(frames)), stream.flush_frames()], 1),
        latents,
    )
    shown = [frame for i in range(latents.shape[1]) for frame in stream.push_latents(latents[:, i : i + 1])]
    close(torch.stack([*shown, *stream.flush_latents()], 1), decoded)


@settings(max_examples=20, deadline=None)
@given(latents=st.integers(1, 13), told=st.booleans())
def test_any_number_of_minimax_latents_decodes_as_the_whole_clip_does(latents: int, told: bool) -> None:
    """Also numbers that no encoder gives, where the rule fills up with black frames."""
    model = narrow("minimax_h3")
    clip_latents = torch.randn(1, latents, 24, 1, 1)
    stream = StreamingDecoder(model, latents if told else None)
    with torch.inference_mode():
        whole = model.decode(clip_latents)
    pieces = [stream.push(clip_latents[:, i : i + 1]) for i in range(latents)]
    close(torch.cat([*pieces, stream.flush()], 1), whole)


def test_latents_and_frames_come_as_soon_as_they_exist() -> None:
    stream = StreamingTAEHV(narrow("hunyuan_video"))
    video = clip("hunyuan_video", 9)
    counts = [stream.push_frames(video[:, i : i + 1]).shape[1] for i in range(9)]
    assert counts == [0, 0, 0, 1, 0, 0, 0, 1, 0]
    assert stream.flush_frames().shape[1] == 1
    assert [len(stream.push_latents(torch.randn(1, 1, 16, 1, 1))) for _ in range(3)] == [1, 4, 4]
    assert stream.flush_latents() == []


def test_minimax_holds_back_what_depends_on_the_clips_end() -> None:
    model = narrow("minimax_h3")
    video = clip("minimax_h3", 18)
    encoder = StreamingEncoder(model)
    counts = [encoder.push(video[:, i : i + 1]).shape[1] for i in range(18)]
    assert counts == [1, *[0] * 3, 1, *[0] * 12, 4]
    assert encoder.flush().shape[1] == 1
    decoder, told = StreamingDecoder(model), StreamingDecoder(model, 7)
    latents = torch.randn(1, 7, 24, 1, 1)
    assert [decoder.push(latents[:, i : i + 1]).shape[1] for i in range(7)] == [1, 4, 0, 0, 0, 13, 4]
    assert [told.push(latents[:, i : i + 1]).shape[1] for i in range(7)] == [1, 4, 4, 4, 4, 1, 4]


def test_a_flushed_stream_is_ready_for_the_next_clip() -> None:
    model, video = narrow("hunyuan_video"), clip("hunyuan_video", 7)
    encoder = StreamingEncoder(model)
    first = torch.cat([encoder.push(video), encoder.flush()], 1)
    second = torch.cat([encoder.push(video), encoder.flush()], 1)
    assert torch.equal(first, second)
    decoder = StreamingDecoder(model)
    assert torch.equal(*(torch.cat([decoder.push(first), decoder.flush()], 1) for _ in range(2)))


def test_cogvideox_refuses_to_decode_a_stream_of_unknown_length() -> None:
    stream = StreamingTAEHV(narrow("cogvideox"))
    assert stream.push_frames(clip("cogvideox", 4)).shape[1] == 1
    with pytest.raises(ValueError, match="latent_frames at its start"):
        stream.push_latents(torch.randn(1, 1, 16, 1, 1))


def test_a_stream_keeps_to_the_length_it_was_told() -> None:
    model, latents = narrow("cogvideox"), torch.randn(1, 3, 16, 1, 1)
    with pytest.raises(ValueError, match="told 2"):
        StreamingDecoder(model, 2).push(latents)
    stream = StreamingDecoder(model, 4)
    stream.push(latents)
    with pytest.raises(ValueError, match="ended after 3"):
        stream.flush()


def test_empty_streams_frames_of_another_size_and_chunks_of_nothing_are_refused() -> None:
    model = narrow("hunyuan_video")
    encoder = StreamingEncoder(model)
    with pytest.raises(ValueError, match="without frames"):
        encoder.flush()
    with pytest.raises(ValueError, match="without latents"):
        StreamingDecoder(model).flush()
    with pytest.raises(ValueError, match="without latents"):
        StreamingTAEHV(model).flush_latents()
    encoder.push(clip("hunyuan_video", 2))
    with pytest.raises(ValueError, match="one size"):
        encoder.push(clip("hunyuan_video", 2, rows=2))
    with pytest.raises(ValueError, match="at least 1"):
        model.encode(clip("hunyuan_video", 2), chunk=0)


def test_latents_of_another_variant_are_refused() -> None:
    with pytest.raises(ValueError, match="latents of hunyuan_video as"):
        narrow("hunyuan_video").decode(torch.randn(1, 2, 48, 1, 1))
