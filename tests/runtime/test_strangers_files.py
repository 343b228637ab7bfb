"""Files that someone else made: nothing in them is executed, and no size that they claim is believed."""

from __future__ import annotations

import ast
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.mutations import mutate
from support.project import REPOSITORY

from taehv.cli import main
from taehv.data.latent_files import LatentFileError, open_latents
from taehv.evaluation.run_records import RecordError, read_record
from taehv.losses.metrics import Lpips, MetricError
from taehv.model.checkpoints import WeightsError, load_checkpoint, load_model, read_state_dict, write_state_dict
from taehv.model.init import create_model
from taehv.model.variants import VARIANTS
from taehv.teachers.base import TeacherError, load_teacher

VARIANT = VARIANTS["wan2_2"]


class Bomb:
    """Unpickling it leaves a file called ``exploded``."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


def bomb_as(kind: str) -> bytes:
    data = io.BytesIO()
    if kind == "zip":
        torch.save({"decoder.1.weight": Bomb()}, data)
    elif kind == "legacy":
        torch.save({"decoder.1.weight": Bomb()}, data, _use_new_zipfile_serialization=False)
    elif kind == "npy":
        np.save(data, np.array([Bomb()], dtype=object), allow_pickle=True)
    else:
        pickle.dump(Bomb(), data)
    return data.getvalue()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, in which a bomb would leave its mark, with a small sound model."""
    monkeypatch.chdir(tmp_path)
    write_state_dict(tmp_path / "model.safetensors", create_model(VARIANT, 1 / 16, "torch_default", 0).state_dict())
    return tmp_path


@contextmanager
def measured() -> Iterator[Callable[[], int]]:
    """How much more memory the process had at its most, in bytes; a function that says so afterwards."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmHWM")
    yield lambda: _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


@pytest.mark.parametrize("kind", ["pickle", "zip", "legacy", "npy"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".pt", ".npy"])
def test_a_malicious_pickle_is_one_clear_error_and_is_not_executed(
    here: Path, kind: str, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bomb = here / f"bomb{suffix}"
    bomb.write_bytes(bomb_as(kind))
    commands = [
        ["convert", str(bomb), "out.safetensors"],
        ["decode", "z.safetensors", "out.mp4", "--model", str(bomb)],
        ["decode", str(bomb), "out.mp4", "--model", "model.safetensors"],
        ["reconstruct", str(bomb), "out.mp4", "--model", "model.safetensors"],
    ]
    for command in commands:
        assert main(command) == 1
        assert capsys.readouterr().err.startswith("error: ")
    assert not (here / "exploded").exists()


def test_the_lpips_backbone_is_read_without_executing_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(here))
    folder = here / "hub/checkpoints"
    folder.mkdir(parents=True)
    (folder / "alexnet-owt-7be5be79.pth").write_bytes(bomb_as("zip"))
    with pytest.raises(MetricError, match="cannot load"):
        Lpips("alex", "cpu")
    assert not (here / "exploded").exists()


def test_every_reader_of_pickles_arrays_and_yaml_is_the_safe_one() -> None:
    """``torch.load`` says weights_only, ``np.load`` says allow_pickle=False, YAML is read by ``read_yaml`` alone."""
    unsafe = []
    for path in [*(REPOSITORY / "taehv").rglob("*.py"), *(REPOSITORY / "stages").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            call = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            safe = {
                "torch.load": given.get("weights_only") == "True",
                "np.load": given.get("allow_pickle") == "False",
            }
            forbidden = {
                "pickle.load",
                "pickle.loads",
                "pickle.Unpickler",
                "yaml.load",
                "yaml.safe_load",
                "yaml.unsafe_load",
                "joblib.load",
            }
            if not safe.get(call, call not in forbidden):
                unsafe.append(f"{path.relative_to(REPOSITORY)}:{node.lineno}: {call}")
    assert unsafe == []


def safetensors_with(header: dict[str, Any] | bytes, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


TERABYTES = 8 * 2**40
CLAIMS = {
    "a tensor of terabytes": safetensors_with(
        {"latents": {"dtype": "F32", "shape": [2**31, 16, 8, 8], "data_offsets": [0, TERABYTES]}}
    ),
    "a shape of terabytes over few bytes": safetensors_with(
        {"latents": {"dtype": "F32", "shape": [2**31, 16, 8, 8], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "a header of terabytes": safetensors_with(b"{}", length=TERABYTES),
    "a header that is nested deeply": safetensors_with(b'{"a":' * 20000),
    "sizes whose product overflows": safetensors_with(
        {"latents": {"dtype": "F32", "shape": [2**62, 2**62, 8, 8], "data_offsets": [0, 4]}}, bytes(4)
    ),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_safetensors_header_that_claims_too_much_is_a_clear_error(here: Path, claim: str) -> None:
    path = here / "claims.safetensors"
    path.write_bytes(CLAIMS[claim])
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        read_state_dict(path)
    with pytest.raises(LatentFileError, match="cannot be read as safetensors"):
        open_latents(path)


def test_a_zip_that_would_unpack_to_more_than_its_size_is_a_clear_error(here: Path) -> None:
    torch.save({"decoder.1.weight": torch.zeros(64, 2**14)}, "sound.pth")
    with zipfile.ZipFile("sound.pth") as sound, zipfile.ZipFile("bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for member in sound.infolist():
            bomb.writestr(member.filename, sound.read(member))
    assert Path("bomb.pth").stat().st_size < 10_000
    with pytest.raises(WeightsError, match="more than its own size"):
        read_state_dict(Path("bomb.pth"))
    assert read_state_dict(Path("sound.pth"))


def test_a_legacy_checkpoint_that_claims_terabytes_is_a_clear_error(here: Path) -> None:
    data = io.BytesIO()
    torch.save({"decoder.1.weight": torch.zeros(123457)}, data, _use_new_zipfile_serialization=False)
    claim = data.getvalue().replace(struct.pack("<i", 123457), struct.pack("<i", 2**31 - 1))
    assert claim != data.getvalue()
    Path("claims.pth").write_bytes(claim)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_state_dict(Path("claims.pth"))


@pytest.mark.parametrize("rows", [10**9, 0])
def test_a_checkpoint_of_an_absurd_width_is_a_clear_error(here: Path, rows: int) -> None:
    """A tensor of stride 0 costs four bytes and has any shape."""
    torch.save({"decoder.1.weight": torch.zeros(1).expand(rows, 1)}, "wide.pth")
    with pytest.raises(WeightsError, match="fits no known variant" if rows == 0 else "claim 4,000,000,000 bytes"):
        load_checkpoint(Path("wide.pth"))


@pytest.mark.parametrize("rows", [3, 10**7])
def test_a_checkpoint_whose_tgrow_makes_more_frames_than_any_takes_no_memory(here: Path, rows: int) -> None:
    """A whole model otherwise: it fits but for this, and would be copied. As a view it costs a row in the file."""
    weights = create_model(VARIANT, 1 / 16, "torch_default", 0).state_dict()
    name, grow = next(
        (name, tensor)
        for name, tensor in weights.items()
        if name.endswith("conv.weight") and name.startswith("decoder.") and name.count(".") == 3
    )
    channels = grow.shape[1]
    torch.save(weights | {name: grow[:1].expand(rows * channels, -1, -1, -1)}, "grown.pth")
    assert Path("grown.pth").stat().st_size < 1_000_000
    with measured() as most, pytest.raises(WeightsError, match="misshapen|claim"):
        load_checkpoint(Path("grown.pth"))
    assert most() < 50 * 2**20
    assert main(["convert", "grown.pth", "out.safetensors"]) == 1


def twice_the_frames(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As published files have them where the variant uses fewer frames than were trained."""
    name = next(
        name
        for name, tensor in weights.items()
        if name.endswith("conv.weight")
        and name.startswith("decoder.")
        and name.count(".") == 3
        and tensor.shape[0] == tensor.shape[1]
    )
    return weights | {name: torch.cat([weights[name] * 0, weights[name]])}


def test_a_checkpoint_with_the_second_frame_of_an_unused_tgrow_still_loads(here: Path) -> None:
    weights = read_state_dict(here / "model.safetensors")
    write_state_dict(here / "more.pth", twice_the_frames(weights))
    loaded = load_checkpoint(here / "more.pth").state_dict()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def poisoned(weights: dict[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    name = "decoder.1.weight"
    tensor = weights[name].clone()
    if kind in ("nan", "inf"):
        tensor[0, 0, 0, 0] = float(kind)
    elif kind == "sparse":
        tensor = tensor.to_sparse()
    elif kind == "quantised":
        tensor = torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)
    elif kind == "meta":
        tensor = tensor.to("meta")
    else:
        tensor = tensor.to(getattr(torch, kind))
    return weights | {name: tensor}


SAID = {"nan": "NaN or infinite", "inf": "NaN or infinite", "sparse": "sparse_coo", "meta": "no numbers"}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["nan", "inf", "int64", "bool", "uint8", "complex64", "sparse", "quantised", "meta"])
def test_weights_that_are_no_numbers_are_refused_by_every_reader(
    here: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = poisoned(read_state_dict(here / "model.safetensors"), kind)
    torch.save(weights, "bad.pth")
    files = ["bad.pth"]
    if kind not in ("sparse", "quantised", "meta"):
        save_file(weights, "bad.safetensors")
        files.append("bad.safetensors")
        folder = here / "folder"
        folder.mkdir()
        save_file(weights, folder / "model.safetensors")
        (folder / "model_info.json").write_text('{"variant": "wan2_2", "width": 0.0625}')
        with pytest.raises(WeightsError, match=SAID.get(kind, "floating-point numbers")):
            load_model(folder)
    for file in files:
        with pytest.raises(WeightsError, match=SAID.get(kind, "floating-point numbers")):
            load_checkpoint(Path(file))
        for command in (["convert", file, "out.safetensors"], ["decode", "z.safetensors", "out.mp4", "--model", file]):
            assert main(command) == 1
            assert "decoder.1.weight" in capsys.readouterr().err
    assert not list(here.glob("out.*"))


@pytest.mark.parametrize("kind", ["nan", "int64"])
def test_a_teacher_that_is_no_numbers_is_refused(here: Path, kind: str) -> None:
    from taehv.runtime.hashing import sha256_of_file

    tensors = {"mean": torch.zeros(768), "components": torch.zeros(16, 768), "deviations": torch.ones(16)}
    tensors["components"] = tensors["components"] * float("nan") if kind == "nan" else tensors["components"].long()
    save_file(tensors, here / "pca.safetensors")
    info = {"schema": 1, "name": "pca", "variant": "hunyuan_video", "sha256": sha256_of_file(here / "pca.safetensors")}
    (here / "teacher.json").write_text(json.dumps(info))
    with pytest.raises(TeacherError, match="components"):
        load_teacher("pca", here, VARIANTS["hunyuan_video"])


BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E8M0": 8, "C64": 64, "I64": 64, "U8": 8, "BOOL": 8}


@pytest.mark.parametrize("kind", BITS)
def test_latents_of_a_type_that_is_none_are_one_clear_error(
    here: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    size = 48 * 4 * BITS[kind] // 8
    header = {"latents": {"dtype": kind, "shape": [1, 48, 2, 2], "data_offsets": [0, size]}}
    (here / "z.safetensors").write_bytes(safetensors_with(header, bytes(size)))
    assert main(["decode", "z.safetensors", "out.mp4", "--model", "model.safetensors"]) == 1
    assert f"holds latents of type {kind}; latents are floating-point" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_latents_that_are_not_finite_are_one_clear_error(
    here: Path, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"latents": torch.full((3, 48, 2, 2), float(value))}, here / "z.safetensors")
    assert main(["decode", "z.safetensors", "out.mp4", "--model", "model.safetensors"]) == 1
    assert "hold NaN or infinity" in capsys.readouterr().err and not Path("out.mp4").exists()


TICKS = {
    "too few": ([0], "1/25"),
    "falling": ([0, 2, 1, 3, 4], "1/25"),
    "not from 0": ([1, 2, 3, 4, 5], "1/25"),
    "of another number of frames": ([0, 1, 2], "1/25"),
    "huge": ([0, 1, 2, 3, 2**60], "1/25"),
    "without a clock's number": ([0, 1, 2, 3, 4], "1/0"),
}


@pytest.mark.parametrize("case", TICKS)
def test_frame_times_that_are_none_are_one_clear_error(
    here: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ticks, clock = TICKS[case]
    info = {"variant": "wan2_2", "frames": "4", "height": "16", "width": "16", "rate": "24", "clock": clock}
    save_file({"latents": torch.zeros(2, 48, 1, 1), "frame_ticks": torch.tensor(ticks)}, here / "z.safetensors", info)
    assert main(["decode", "z.safetensors", "out.mp4", "--model", "model.safetensors"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_latents_whose_metadata_is_cut_off_name_what_is_missing(here: Path) -> None:
    save_file({"latents": torch.zeros(2, 48, 1, 1)}, here / "z.safetensors", {"variant": "wan2_2", "rate": "24"})
    with pytest.raises(LatentFileError, match="frames, height, width missing"):
        open_latents(here / "z.safetensors")


@pytest.mark.parametrize("width", ["1e9", "-1.0", "NaN", '"nan"', "null", "[]", "1e400", "1" + 400 * "0"])
def test_a_model_folder_of_an_absurd_width_is_a_clear_error(here: Path, width: str) -> None:
    (here / "model_info.json").write_text(f'{{"variant": "wan2_2", "width": {width}}}')
    with pytest.raises(WeightsError, match="no usable model"):
        load_model(here)


def test_json_that_is_nested_deeply_is_a_clear_error(here: Path) -> None:
    (here / "model_info.json").write_text("[" * 20_000)
    with pytest.raises(WeightsError, match="no usable model"):
        load_model(here)
    with pytest.raises(RecordError, match="cannot be read"):
        read_record(here / "model_info.json")


@pytest.mark.parametrize("rate", ["1e999999999", "0", "-24", "24/0", "nan", "9" * 400])
def test_latents_of_an_absurd_rate_are_a_clear_error(here: Path, rate: str) -> None:
    info = {"variant": "wan2_2", "frames": "1", "height": "16", "width": "16", "rate": rate}
    save_file({"latents": torch.zeros(1, 48, 1, 1)}, here / "z.safetensors", info)
    with pytest.raises(LatentFileError, match="is not what `taehv encode` writes"):
        open_latents(here / "z.safetensors")


def test_latents_that_make_a_huge_frame_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"latents": torch.zeros(1, 48, 1000, 1000, dtype=torch.float16)}, here / "z.safetensors")
    assert main(["decode", "z.safetensors", "out.mp4", "--model", "model.safetensors"]) == 1
    assert "makes frames of 256,000,000 pixels, 35,389,440 are allowed" in capsys.readouterr().err


def test_a_teacher_that_lacks_a_tensor_is_a_clear_error(here: Path) -> None:
    from taehv.runtime.hashing import sha256_of_file

    save_file({"mean": torch.zeros(3)}, here / "pca.safetensors")
    info = {"schema": 1, "name": "pca", "variant": "hunyuan_video", "sha256": sha256_of_file(here / "pca.safetensors")}
    (here / "teacher.json").write_text(json.dumps(info))
    with pytest.raises(TeacherError, match="wanted"):
        load_teacher("pca", here, VARIANTS["hunyuan_video"])


@pytest.mark.parametrize("seeds", [range(60), pytest.param(range(60, 500), marks=pytest.mark.soak)])
def test_damaged_checkpoints_and_latents_are_read_or_refused_with_one_clear_error(here: Path, seeds: range) -> None:
    weights = read_state_dict(here / "model.safetensors")
    write_state_dict(here / "model.pth", weights)
    torch.save(weights, here / "legacy.pth", _use_new_zipfile_serialization=False)
    info = {"variant": "wan2_2", "frames": "4", "height": "16", "width": "16", "rate": "24"}
    save_file({"latents": torch.zeros(2, 48, 1, 1)}, here / "z.safetensors", info)
    originals = [here / name for name in ("model.safetensors", "model.pth", "legacy.pth", "z.safetensors")]
    for seed in seeds:
        original = originals[seed % len(originals)]
        path = here / f"case{original.suffix}"
        path.write_bytes(mutate(original.read_bytes(), seed))
        try:
            if original.name == "z.safetensors":
                list(open_latents(path).batches(1))
            else:
                load_checkpoint(path)
        except (WeightsError, LatentFileError):
            continue
        except Exception as error:
            raise AssertionError(f"seed {seed}, {original.name}") from error
