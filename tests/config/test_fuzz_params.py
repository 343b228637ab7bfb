"""Hundreds of damaged configuration files: each is read, or refused with one ConfigError; nothing else, no hang."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from support.mutations import mutate
from support.project import REPOSITORY

from taehv.config.params import load_params
from taehv.config.profiles import load_profile
from taehv.runtime.errors import ConfigError

ORIGINALS = [REPOSITORY / "params.yaml", *sorted((REPOSITORY / "profiles").glob("*.yaml"))]
SECONDS = 60
"""For all cases together; they take a few seconds."""


def read_file(path: Path, kind: str) -> str:
    try:
        load_params(path) if kind == "params" else load_profile(path.stem, path.parent)
    except ConfigError as error:
        return str(error)
    return "read"


def read_mutated(folder: Path, seeds: range) -> dict[str, int]:
    """Runs in a process of its own, which is ended when it takes too long; the last seed is in ``folder/seed``."""
    counts = {"read": 0, "refused": 0}
    for seed in seeds:
        original = ORIGINALS[seed % 2 * (1 + seed // 2 % 3)]  # every second one is params.yaml
        kind = "params" if original.name == "params.yaml" else "profile"
        (folder / "seed").write_text(str(seed))
        (folder / "case.yaml").write_bytes(mutate(original.read_bytes(), seed))
        outcome = read_file(folder / "case.yaml", kind)
        assert outcome == "read" or "problem" in outcome.splitlines()[0], outcome
        assert len(outcome) < 20_000
        counts["read" if outcome == "read" else "refused"] += 1
    return counts


@pytest.mark.parametrize("seeds", [range(100), pytest.param(range(100, 500), marks=pytest.mark.soak)])
def test_a_damaged_file_is_read_or_refused_with_one_clear_error(seeds: range, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        try:
            counts = pool.apply_async(read_mutated, (tmp_path, seeds)).get(SECONDS + len(seeds))
        except multiprocessing.TimeoutError:
            pytest.fail(f"seed {(tmp_path / 'seed').read_text()} hangs")
        except Exception as error:
            raise AssertionError(f"seed {(tmp_path / 'seed').read_text()}") from error
    print(counts)
    assert sum(counts.values()) == len(seeds)
    assert counts["refused"] > len(seeds) / 2


BILLIONS = "\n".join(["a: &a0 [x, x]", *(f"b{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))])


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00",
        b"a: \x07",
        b"[" * 1500,
        b"seed: " + b"9" * 5000,
        b"seed: 0x" + b"f" * 5000,
        b"gate: {step: 0x" + b"f" * 5000 + b"}",
        b"[9, 0x" + b"f" * 5000 + b"]",
        b"0x" + b"f" * 5000 + b": 1",
        b"date: 2024-13-45",
        b'a: !!int ""',
        b'a: !!timestamp ""',
        b"a: !!python/object/apply:os.system [touch exploded]",
        b"&a [*a]",
        b"scales: &s {*s : 1}",
        BILLIONS.encode(),
        f"scales: {{full: [{BILLIONS.splitlines()[0][3:]}]}}".encode(),
        b"? [1, 2]\n: 3",
        b"",
    ],
)
def test_what_is_known_to_break_readers_is_refused(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "case.yaml").write_bytes(content)
    for kind in ("params", "profile"):
        message = read_file(tmp_path / "case.yaml", kind)
        assert message != "read"
        assert len(message) < 20_000
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("number", ["1" + "0" * 400, "9" * 30, "0x" + "f" * 600])
def test_numbers_that_no_rule_can_compute_with_are_refused(number: str, tmp_path: Path) -> None:
    shipped = (REPOSITORY / "params.yaml").read_text()
    (tmp_path / "case.yaml").write_text(shipped.replace("height: 64", f"height: {number}").replace("25.0", number))
    message = read_file(tmp_path / "case.yaml", "params")
    assert "scales.embedded.data.height: must be an integer" in message
    assert "gate.min_psnr_db: must be a finite number" in message
