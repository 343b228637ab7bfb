"""What the documents tell a reader to type, to open or to set exists."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import re
import shlex
from pathlib import Path

import pytest
import yaml
from support.project import REPOSITORY

from taehv import cli
from taehv.config.overrides import overridden_params, split_overrides

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("benchmarks/*.md")]


def commands(text: str) -> list[list[str]]:
    """The indented lines that begin with a program of ours, as words; continued lines joined, comments left out."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = re.findall(r"^    ((?:taehv|make|dvc|mlflow|python|nohup) .*)$", joined, re.MULTILINE)
    return [shlex.split(re.sub(r"[<>&]", " ", line), comments=True) for line in lines]


def heading_anchors(path: Path) -> set[str]:
    """As GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = document.parent / file if file else document
        assert linked.exists(), target
        assert not anchor or anchor in heading_anchors(linked), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_commands_of_this_project_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for program, *words in commands(document.read_text(encoding="utf-8")):
        if program == "make":
            assert next(word for word in words if "=" not in word) in targets, words
        elif program == "taehv":
            with pytest.raises(SystemExit) as ended:
                cli.main([*words[: 2 if words[0] == "track" else 1], "--help"])
            assert ended.value.code == 0, words
        elif program == "python" and words[0] == "-m" and words[1].startswith(("taehv", "stages")):
            assert importlib.util.find_spec(words[1]), words
        elif program == "python" and words[0].endswith(".py"):
            assert (REPOSITORY / words[0]).is_file(), words


def test_parameters_that_the_readme_sets_can_be_set() -> None:
    """`dvc exp run -S`, in the order of each command, and `mlflow run -P set=...`."""
    tried = 0
    for program, *words in commands(README):
        changes = [word for flag, word in itertools.pairwise(words) if flag == "-S"]
        sets = [word.removeprefix("set=") for word in words if program == "mlflow" and word.startswith("set=")]
        for change in [changes, *(split_overrides(each) for each in sets)]:
            if change:
                overridden_params(change, REPOSITORY / "params.yaml")
                tried += 1
    assert tried >= 3


def test_the_readmes_python_can_be_imported() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, name.name) for name in node.names)


def test_every_profile_is_in_the_readmes_table() -> None:
    for profile in REPOSITORY.glob("profiles/*.yaml"):
        assert f"| `{profile.stem}` |" in README


@pytest.mark.parametrize("scale", yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))["scales"])
def test_a_reader_is_told_what_a_model_of_this_teacher_cannot_do(scale: str) -> None:
    """As long as a scale is distilled from the linear teacher, README and params.yaml say so."""
    text = (REPOSITORY / "params.yaml").read_text(encoding="utf-8")
    if yaml.safe_load(text)["scales"][scale]["teacher"]["name"] == "pca":
        assert "no diffusion model can use the result" in text
        assert "distil from PCA" in README and "No diffusion model uses" in README


def test_the_licence_is_named_where_tools_look() -> None:
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    assert (REPOSITORY / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")
    assert 'license = "MIT"' in project and 'license-files = ["LICENSE"]' in project
