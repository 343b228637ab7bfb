"""The commands on real video files: every frame, the same size and rate, and an error for each thing that is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.video_stream import planes_as_rgb, tags_of

from taehv.cli import main
from taehv.data.video_files import open_video, write_video
from taehv.model.checkpoints import write_state_dict
from taehv.model.init import create_model
from taehv.model.variants import VARIANTS

HEIGHT, WIDTH, FRAMES, RATE = 37, 51, 11, Fraction(30000, 1001)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short video of an odd size."""
    path = tmp_path_factory.mktemp("video") / "in.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv444p"
        y, x = np.mgrid[:HEIGHT, :WIDTH]
        for number in range(FRAMES):
            rgb = np.stack([np.full_like(x, 20 * number), 4 * x, 6 * y], -1).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv444p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def weights_of(name: str, folder: Path) -> Path:
    path = folder / f"{name}.safetensors"
    write_state_dict(path, create_model(VARIANTS[name], 1 / 16, "torch_default", seed=0).state_dict())
    return path


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def shape_of(path: Path) -> tuple[int, int, int, Fraction]:
    info = open_video(path)
    return info.info.frames, info.info.height, info.info.width, info.rate


@pytest.mark.parametrize("name", ["hunyuan_video", "cogvideox", "wan2_2", "minimax_h3"])
def test_reconstruct_keeps_every_frame_the_size_and_the_rate(
    name: str, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = weights_of(name, tmp_path)
    assert run("reconstruct", video, tmp_path / "out.mp4", "--model", model, "--variant", name) == 0
    assert shape_of(tmp_path / "out.mp4") == (FRAMES, HEIGHT, WIDTH, RATE)
    printed = capsys.readouterr().out
    assert f"{FRAMES} frames, PSNR" in printed and "SSIM 0." in printed


def test_side_by_side_shows_the_original_on_the_left(video: Path, tmp_path: Path) -> None:
    model = weights_of("wan2_2", tmp_path)
    assert (
        run("reconstruct", video, tmp_path / "out.mp4", "--model", model, "--side-by-side", "--dtype", "bfloat16") == 0
    )
    assert shape_of(tmp_path / "out.mp4")[1:3] == (HEIGHT, 2 * WIDTH + 8)
    original, shown = (next(open_video(path).batches(FRAMES)) for path in (video, tmp_path / "out.mp4"))
    assert (shown[..., :WIDTH].float() - original.float()).abs().mean() < 4


@pytest.mark.parametrize("name", ["cogvideox", "wan2_2_super"])
def test_decoding_encoded_latents_gives_what_reconstruct_gives(name: str, video: Path, tmp_path: Path) -> None:
    model = weights_of(name, tmp_path)
    options = ("--model", model, "--variant", name)
    assert run("reconstruct", video, tmp_path / "a.mp4", *options) == 0
    assert run("encode", video, tmp_path / "latents.safetensors", *options) == 0
    assert run("decode", tmp_path / "latents.safetensors", tmp_path / "b.mp4", *options) == 0
    # Read with PyAV: what a network without training makes of a video can look interlaced.
    first, second = (decoded(tmp_path / file) for file in ("a.mp4", "b.mp4"))
    assert second.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert np.abs(first - second).mean() < 1  # H.264 loses something, not always the same


def decoded(path: Path) -> npt.NDArray[np.int64]:
    """All frames, RGB."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(np.int64)


def test_latents_are_what_the_model_computes(video: Path, tmp_path: Path) -> None:
    model = create_model(VARIANTS["wan2_2"], 1 / 16, "torch_default", seed=0)
    run("encode", video, tmp_path / "z.safetensors", "--model", weights_of("wan2_2", tmp_path))
    latents = load_file(tmp_path / "z.safetensors")["latents"]
    frames = next(open_video(video).batches(FRAMES)).float() / 255
    frames = torch.nn.functional.pad(frames, (0, 64 - WIDTH, 0, 48 - HEIGHT), mode="replicate")
    coded = model.variant.frames_to_code(FRAMES)
    frames = torch.cat([frames, frames[-1:].expand(coded - FRAMES, -1, -1, -1)])
    with torch.inference_mode():
        torch.testing.assert_close(latents, model.encode(frames[None])[0], rtol=0, atol=1e-5)


def test_latents_without_metadata_decode_whole_at_24_frames_per_second(tmp_path: Path) -> None:
    save_file({"latents": torch.randn(3, 48, 2, 3)}, tmp_path / "z.safetensors")
    options = ("--model", weights_of("wan2_2", tmp_path))
    assert run("decode", tmp_path / "z.safetensors", tmp_path / "a.mp4", *options) == 0
    assert shape_of(tmp_path / "a.mp4") == (9, 32, 48, Fraction(24))
    assert run("decode", tmp_path / "z.safetensors", tmp_path / "b.mp4", "--fps", "12.5", *options) == 0
    assert shape_of(tmp_path / "b.mp4")[3] == Fraction(25, 2)


def with_times(path: Path, ticks: Sequence[int], clock: Fraction) -> Path:
    """A video whose frames are shown at these ticks, made by PyAV alone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.time_base = stream.codec_context.time_base = clock
        for number, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 8 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = tick, clock
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    return path


def seconds_of(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.time or 0) for frame in container.decode(video=0)]


@pytest.mark.parametrize("source", ["phone.mkv", "ten_digits.mp4"])
def test_a_variable_frame_rate_keeps_the_times_of_the_frames(source: str, tmp_path: Path) -> None:
    """Also through a file of latents. A constant rate, which a clock of milliseconds rounds, stays that rate."""
    if source == "ten_digits.mp4":
        clock, ticks = Fraction(1, 10_000_000), [0, 330_462, 661_211, 991_905, 1_324_861, 1_656_245, 1_992_273]
    else:
        clock, ticks = Fraction(1, 1000), [0, 40, 80, 120, 280, 320, 1200, 1240, 1280, 2320, 2360]
    video = with_times(tmp_path / source, ticks, clock)
    options = ("--model", weights_of("wan2_2", tmp_path))
    assert run("reconstruct", video, tmp_path / "a.mp4", *options) == 0
    assert run("encode", video, tmp_path / "z.safetensors", *options) == 0
    assert run("decode", tmp_path / "z.safetensors", tmp_path / "b.mkv", *options) == 0
    expected = [float(tick * clock) for tick in ticks]
    for written in ("a.mp4", "b.mkv"):
        assert seconds_of(tmp_path / written) == pytest.approx(expected, abs=0.0011)
    assert run("decode", tmp_path / "z.safetensors", tmp_path / "c.mp4", "--fps", "10", *options) == 0
    assert seconds_of(tmp_path / "c.mp4") == pytest.approx([number / 10 for number in range(len(ticks))])


def test_a_constant_rate_in_matroska_stays_that_rate(video: Path, tmp_path: Path) -> None:
    model = weights_of("wan2_2", tmp_path)
    assert run("reconstruct", video, tmp_path / "a.mkv", "--model", model) == 0
    assert run("reconstruct", tmp_path / "a.mkv", tmp_path / "b.mp4", "--model", model) == 0
    assert shape_of(tmp_path / "b.mp4") == (FRAMES, HEIGHT, WIDTH, RATE)


def test_the_colours_of_hd_videos_stay(tmp_path: Path) -> None:
    """Green of the original half of a side-by-side video, by BT.709's equations."""
    source, green = tmp_path / "in.mp4", (38, 180, 36)
    with write_video(source, Fraction(25), 720, 1280) as writer:
        writer.write(np.broadcast_to(np.array(green, dtype=np.uint8), (1, 720, 1280, 3)))
    model = weights_of("wan2_2", tmp_path)
    assert run("reconstruct", source, tmp_path / "out.mp4", "--side-by-side", "--model", model) == 0
    assert tags_of(tmp_path / "out.mp4") == {(1, 1, 1, 1)}
    assert np.abs(planes_as_rgb(tmp_path / "out.mp4")[100:600, 100:1100] - green).max() < 3


@pytest.mark.parametrize("metadata", [{"format": "pt"}, {"format": "pt", "who": "me"}])
def test_latents_of_other_programs_are_decoded_by_the_named_variant(metadata: dict[str, str], tmp_path: Path) -> None:
    save_file({"latents": torch.randn(3, 48, 2, 3)}, tmp_path / "z.safetensors", metadata)
    options = ("--model", weights_of("wan2_2", tmp_path))
    assert run("decode", tmp_path / "z.safetensors", tmp_path / "a.mp4", *options) == 0
    assert shape_of(tmp_path / "a.mp4") == (9, 32, 48, Fraction(24))


@pytest.mark.parametrize("fps", ["1/0", "0", "-1", "nan", "inf", "1e999999999", "x", "1/-2", "99999999999", "", "0/5"])
def test_a_rate_that_is_none_is_one_clear_error(fps: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"latents": torch.randn(1, 48, 2, 3)}, tmp_path / "z.safetensors")
    options = (f"--fps={fps}", "--model", weights_of("wan2_2", tmp_path))
    assert run("decode", tmp_path / "z.safetensors", tmp_path / "a.mp4", *options) == 1
    assert "--fps must be a positive number or fraction" in capsys.readouterr().err


def test_names_with_a_colon_are_files(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = weights_of("wan2_2", tmp_path)
    for name in ("file:out.mp4", "http:out.mkv"):
        assert run("reconstruct", video, name, "--model", model) == 0
        assert Path(name).is_file() and not Path(name.split(":")[1]).exists()


def test_convert_there_and_back_leaves_every_byte_of_the_weights(tmp_path: Path) -> None:
    source = weights_of("wan2_2", tmp_path)
    assert (
        run("convert", source, tmp_path / "b.pth")
        == run("convert", tmp_path / "b.pth", tmp_path / "c.safetensors")
        == 0
    )
    first, second = load_file(source), load_file(tmp_path / "c.safetensors")
    assert list(first) == list(second) and all(torch.equal(first[key], second[key]) for key in first)


def audio_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_unusable_inputs_are_clear_errors_and_leave_no_output(
    video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wan, hunyuan = weights_of("wan2_2", tmp_path), weights_of("hunyuan_video", tmp_path)
    (tmp_path / "text.mp4").write_text("not a video")
    audio_only(tmp_path / "audio.mp4")
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    (tmp_path / "cut.safetensors").write_bytes(wan.read_bytes()[:-100])
    assert run("encode", video, tmp_path / "z.safetensors", "--model", wan) == 0
    save_file({"latents": torch.zeros(1, 7, 2, 2)}, tmp_path / "seven.safetensors")
    z, out = tmp_path / "z.safetensors", tmp_path / "out.mp4"
    capsys.readouterr()
    cases: list[tuple[Sequence[object], str]] = [
        (("reconstruct", tmp_path / "no.mp4", out, "--model", wan), "there is no file"),
        (("reconstruct", tmp_path / "text.mp4", out, "--model", wan), "cannot be opened"),
        (("reconstruct", tmp_path / "audio.mp4", out, "--model", wan), "no video stream"),
        (("reconstruct", tmp_path / "cut.mp4", out, "--model", wan), "cut.mp4: "),
        (("reconstruct", video, video, "--model", wan), "is the input"),
        (("reconstruct", video, tmp_path / "out.txt", "--model", wan), "written as .mp4"),
        (("reconstruct", video, out, "--model", tmp_path / "cut.safetensors"), "cannot be read"),
        (("reconstruct", video, out, "--model", tmp_path / "no.pth"), "there is no model"),
        (("reconstruct", video, out, "--model", hunyuan), "several variants"),
        (("reconstruct", video, out, "--model", hunyuan, "--variant", "wan2_2"), "does not fit wan2_2"),
        (("reconstruct", video, out, "--model", wan, "--variant", "wan"), "must be one of"),
        (("reconstruct", video, out, "--model", wan, "--device", "meta"), "--device must be"),
        (("encode", video, tmp_path / "z.pt", "--model", wan), "written as .safetensors"),
        (("decode", z, out, "--model", hunyuan, "--variant", "hunyuan_video"), "latents of wan2_2, but the model is"),
        (("decode", tmp_path / "seven.safetensors", out, "--model", wan), "7 channels"),
        (("decode", wan, out, "--model", wan), "must hold a tensor 'latents'"),
        (("decode", tmp_path / "text.mp4", out, "--model", wan), "cannot be read as safetensors"),
        (("decode", z, out, "--model", wan, "--fps", "0"), "must be a positive number"),
        (("convert", z, tmp_path / "w.pth"), "unexpected: latents"),
    ]  # fmt: skip
    for arguments, message in cases:
        assert run(*arguments) == 1, arguments
        assert message in capsys.readouterr().err
        assert not out.exists() and not list(tmp_path.glob(".*partial*")), arguments


@pytest.mark.parametrize("name", VARIANTS)
def test_as_many_frames_are_coded_as_the_decoder_must_give_back(name: str) -> None:
    variant = VARIANTS[name]
    for frames in range(1, 40):
        coded = variant.frames_to_code(frames)
        assert coded >= frames and variant.decoded_frames(variant.latent_frames(coded)) >= frames
