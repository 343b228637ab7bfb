"""What DVC shows of a finished pipeline: plots that open offline, metrics that fit a table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests_support import Project

pytestmark = pytest.mark.slow

STAGES = ("prepare_data", "a800_test", "gate_psnr", "h100_train", "evaluate")
PLOTS = ("Validation PSNR", "Validation SSIM", "Training loss")


class Page(HTMLParser):
    """What a browser loads for a page, and the scripts in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [f"{tag} {name}={value}" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        self._in_script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts.append(data)


def plots_of(page: Page) -> dict[str, dict[str, Any]]:
    """The vega-lite specifications by title."""
    found = {}
    for script in page.scripts:
        if script.strip().startswith("var spec = "):
            specification, _ = json.JSONDecoder().raw_decode(script.strip().removeprefix("var spec = "))
            found[title_of(specification)] = specification
    return found


def title_of(specification: dict[str, Any]) -> str:
    title = specification["title"]
    return str(title["text"] if isinstance(title, dict) else title)


def keys_of(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from keys_of(inner)


@pytest.mark.parametrize("command", [["show"], ["diff", "HEAD"]])
def test_plots_open_without_a_network(finished: Project, tmp_path: Path, command: list[str]) -> None:
    finished.run("dvc", "plots", *command, "-o", str(tmp_path))
    page = Page(tmp_path / "index.html")
    assert page.loaded == []
    assert "vegaEmbed" in "".join(page.scripts)
    shown = plots_of(page)
    assert set(shown) == set(PLOTS)
    for specification in shown.values():
        assert "url" not in set(keys_of(specification))


def metrics_of(value: Any) -> Iterator[str | int | float]:
    for inner in value.values():
        if isinstance(inner, dict):
            yield from metrics_of(inner)
        else:
            yield inner


def test_every_metric_fits_the_cell_of_a_table(finished: Project) -> None:
    shown = json.loads(finished.run("dvc", "metrics", "show", "--json").stdout)
    texts = [value for value in metrics_of(shown) if isinstance(value, str)]
    assert texts
    assert all("\n" not in text and len(text) <= 64 for text in texts)


def test_metrics_of_a_commit_can_be_compared_with_the_workspace(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "project")
    project.change_params({"gate": {"min_psnr_db": 4.5}})
    project.run("dvc", "repro", "gate_psnr")
    changed = json.loads(project.run("dvc", "metrics", "diff", "--json", "--targets", "runs/gate_psnr.json").stdout)
    difference = changed["runs/gate_psnr.json"]["min_psnr_db"]
    assert (difference["old"], difference["new"]) == (4.0, 4.5)
    params = json.loads(project.run("dvc", "params", "diff", "--json").stdout)
    assert params["params.yaml"]["gate.min_psnr_db"]["new"] == 4.5


def test_the_graph_has_the_five_stages(finished: Project) -> None:
    assert all(stage in finished.run("dvc", "dag").stdout for stage in STAGES)
