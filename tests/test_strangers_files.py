"""Files that somebody else made: nothing in them is executed, and no size that they claim is believed."""

from __future__ import annotations

import ast
import io
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mutations import mutate
from safetensors.torch import save_file

from taehv.cli import main
from taehv.commands.latent_files import LatentFileError, open_latents
from taehv.metrics import Lpips, MetricError
from taehv.model.checkpoints import CheckpointError, load_checkpoint, read_state_dict, write_state_dict
from taehv.model.init import create_model
from taehv.model.variants import VARIANTS
from taehv.model.weights import ModelError, load_model
from taehv.records import RecordError, read_record
from taehv.teachers import TeacherError, load_teacher

REPOSITORY = Path(__file__).parent.parent
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
    """``torch.load`` says weights_only, ``np.load`` says allow_pickle=False, YAML is read by safe_load alone."""
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
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        read_state_dict(path)
    with pytest.raises(LatentFileError, match="cannot be read as safetensors"):
        open_latents(path)


def test_a_zip_that_would_unpack_to_more_than_its_size_is_a_clear_error(here: Path) -> None:
    torch.save({"decoder.1.weight": torch.zeros(64, 2**14)}, "sound.pth")
    with zipfile.ZipFile("sound.pth") as sound, zipfile.ZipFile("bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for member in sound.infolist():
            bomb.writestr(member.filename, sound.read(member))
    assert Path("bomb.pth").stat().st_size < 10_000
    with pytest.raises(CheckpointError, match="more than its own size"):
        read_state_dict(Path("bomb.pth"))
    assert read_state_dict(Path("sound.pth"))


def test_a_legacy_checkpoint_that_claims_terabytes_is_a_clear_error(here: Path) -> None:
    data = io.BytesIO()
    torch.save({"decoder.1.weight": torch.zeros(123457)}, data, _use_new_zipfile_serialization=False)
    claim = data.getvalue().replace(struct.pack("<i", 123457), struct.pack("<i", 2**31 - 1))
    assert claim != data.getvalue()
    Path("claims.pth").write_bytes(claim)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_state_dict(Path("claims.pth"))


@pytest.mark.parametrize("rows", [10**9, 0])
def test_a_checkpoint_of_an_absurd_width_is_a_clear_error(here: Path, rows: int) -> None:
    """A tensor of stride 0 costs four bytes and has any shape."""
    torch.save({"decoder.1.weight": torch.zeros(1).expand(rows, 1)}, "wide.pth")
    with pytest.raises(CheckpointError, match="fits no known variant"):
        load_checkpoint(Path("wide.pth"))


@pytest.mark.parametrize("width", ["1e9", "-1.0", "NaN", '"nan"', "null", "[]", "1e400"])
def test_a_model_folder_of_an_absurd_width_is_a_clear_error(here: Path, width: str) -> None:
    (here / "model_info.json").write_text(f'{{"variant": "wan2_2", "width": {width}}}')
    with pytest.raises(ModelError, match="no usable model"):
        load_model(here)


def test_json_that_is_nested_deeply_is_a_clear_error(here: Path) -> None:
    (here / "model_info.json").write_text("[" * 20_000)
    with pytest.raises(ModelError, match="no usable model"):
        load_model(here)
    with pytest.raises(RecordError, match="cannot be read"):
        read_record(here / "model_info.json")


@pytest.mark.parametrize("rate", ["1e999999999", "0", "-24", "24/0", "nan", "9" * 400])
def test_latents_of_an_absurd_rate_are_a_clear_error(here: Path, rate: str) -> None:
    info = {"variant": "wan2_2", "frames": "1", "height": "16", "width": "16", "rate": rate}
    save_file({"latents": torch.zeros(1, 48, 1, 1)}, here / "z.safetensors", info)
    with pytest.raises(LatentFileError, match="is not what `taehv encode` writes"):
        open_latents(here / "z.safetensors")


def test_latents_that_make_a_huge_picture_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"latents": torch.zeros(1, 48, 1000, 1000, dtype=torch.float16)}, here / "z.safetensors")
    assert main(["decode", "z.safetensors", "out.mp4", "--model", "model.safetensors"]) == 1
    assert "makes pictures of 256,000,000 pixels, 35,389,440 are allowed" in capsys.readouterr().err


def test_a_teacher_that_lacks_a_tensor_is_a_clear_error(here: Path) -> None:
    from taehv.fingerprint import sha256_of_file

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
        except (CheckpointError, LatentFileError):
            continue
        except Exception as error:
            raise AssertionError(f"seed {seed}, {original.name}") from error
