"""The one reader of YAML takes a plain value for what DVC takes it for, or both refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
from dvc.utils.serialize import load_yaml  # type: ignore[import-untyped]
from support.project import REPOSITORY

from taehv.config.params import load_params
from taehv.config.profiles import load_profile
from taehv.runtime.errors import ConfigError
from taehv.runtime.yaml_files import YamlFileError, read_yaml

PLAIN = """
017 0017 089 -017 +7 0o17 0b101 0x1F -0x1f 1_000 1:30 1:30:10 1:30.5 00 0 5e-05 5E5 5.0e-5 1e400 .5 -.5 5. +5.5 1_0.5
.inf -.Inf .nan yes no Yes NO on off On OFF y n Y N true True TRUE false False tRUE ~ null Null nULL 2024-05-05 12e 0x
1.2.3 +.5e+3 a0 'no' "017"
"""


@pytest.mark.parametrize("text", PLAIN.split())
def test_a_plain_value_is_what_dvc_takes_it_for(text: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"key: {text}\nlist: [{text}]\n")
    ours, theirs = read_yaml(path), load_yaml(str(path))
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("path", ["params.yaml", "dvc.yaml", "profiles/a800.yaml"])
def test_the_projects_own_files_are_read_as_dvc_reads_them(path: str) -> None:
    assert read_yaml(REPOSITORY / path) == load_yaml(str(REPOSITORY / path))


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "b: {a: 1, a: 1}", "'a': 1\na: 2", "x: [{a: 1, b: 2, a: 3}]"])
def test_a_key_that_is_there_twice_is_refused_as_dvc_refuses_it(text: str, tmp_path: Path) -> None:
    (tmp_path / "case.yaml").write_text(text)
    with pytest.raises(YamlFileError, match="the key 'a' is there twice"):
        read_yaml(tmp_path / "case.yaml")
    with pytest.raises(Exception, match="corrupted"):
        load_yaml(str(tmp_path / "case.yaml"))


def test_a_merged_mapping_may_be_changed(tmp_path: Path) -> None:
    (tmp_path / "case.yaml").write_text("a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {<<: *a, x: 5}\n")
    assert read_yaml(tmp_path / "case.yaml") == load_yaml(str(tmp_path / "case.yaml"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed: 42", "seed: 1:30", "seed: must be an integer"),
        ("seed: 42", "seed: 42\nseed: 43", "the key 'seed' is there twice"),
    ],
)
def test_params_say_what_is_wrong_with_such_a_value(old: str, new: str, said: str, tmp_path: Path) -> None:
    text = (REPOSITORY / "params.yaml").read_text(encoding="utf-8")
    assert text.count(f"\n{old}\n") == 1
    (tmp_path / "params.yaml").write_text(text.replace(f"\n{old}\n", f"\n{new}\n"), encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("new", "said"), [("verify_reads: no", "verify_reads"), ("gpus: 0\ngpus: 0", "the key 'gpus' is there twice")]
)
def test_a_profile_says_what_is_wrong_with_such_a_value(new: str, said: str, tmp_path: Path) -> None:
    key = new.partition(":")[0]
    lines = (REPOSITORY / "profiles/local.yaml").read_text(encoding="utf-8").splitlines()
    lines = [new if line.startswith(f"{key}:") else line for line in lines]
    (tmp_path / "local.yaml").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        load_profile("local", tmp_path)
