"""What DVC shows of a finished pipeline: plots that open offline, metrics that fit a table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.project import Project

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


METRICS = {
    "runs/a800_test/metrics.json": {"psnr", "ssim", "step"},
    "runs/gate_psnr.metrics.json": {"psnr", "step", "passed"},
    "runs/h100_train/metrics.json": {"psnr", "ssim", "step"},
    "reports/metrics.json": {"psnr", "ssim", "psnr_on_teacher_latents", "delta_db", "passed"},
}
WIDTH = 120
"""Characters of a terminal."""


def test_the_metrics_are_a_table_that_fits_a_terminal_and_show_what_was_measured(finished: Project) -> None:
    printed = finished.run("dvc", "metrics", "show").stdout.splitlines()
    assert max(map(len, printed)) <= WIDTH
    assert "psnr" in printed[0].split() and len(printed) == 1 + len(METRICS)
    shown = json.loads(finished.run("dvc", "metrics", "show", "--json").stdout)[""]["data"]
    assert {file: set(entry["data"]) for file, entry in shown.items()} == METRICS
    assert len(set().union(*METRICS.values())) <= 8
    measured = {file: entry["data"]["psnr"] for file, entry in shown.items()}
    report, verdict = finished.json("reports/evaluation.json"), finished.json("runs/gate_psnr.json")
    summaries = [finished.json(f"runs/{stage}/summary.json") for stage in ("a800_test", "h100_train")]
    assert measured == {
        "runs/a800_test/metrics.json": summaries[0]["best"]["psnr_db"],
        "runs/gate_psnr.metrics.json": verdict["psnr_db"],
        "runs/h100_train/metrics.json": summaries[1]["best"]["psnr_db"],
        "reports/metrics.json": report["models"]["h100_train"]["round_trip"]["psnr_db"],
    }
    assert shown["reports/metrics.json"]["data"]["delta_db"] == report["parity"]["max_abs_delta_db"]


def test_the_table_of_experiments_has_no_other_metrics(finished: Project) -> None:
    workspace = json.loads(finished.run("dvc", "exp", "show", "--json").stdout)[0]
    assert {file: set(entry["data"]) for file, entry in workspace["data"]["metrics"].items()} == METRICS


def test_files_of_an_older_version_are_said_to_be_that(finished: Project, tmp_path: Path) -> None:
    """Then dvc.lock and the files had one metrics.json per training, with everything in it."""
    project = finished.copy(tmp_path / "project")
    lock = project.root / "dvc.lock"
    locked = yaml.safe_load(lock.read_text())
    for stage in ("a800_test", "h100_train"):
        outs = locked["stages"][stage]["outs"]
        (summary,) = (out for out in outs if out["path"].endswith("/summary.json"))
        outs[:] = [out for out in outs if not out["path"].endswith(("/summary.json", "/metrics.json"))]
        outs.append(summary | {"path": f"runs/{stage}/metrics.json"})
        folder = project.root / "runs" / stage
        (folder / "metrics.json").unlink()
        (folder / "summary.json").rename(folder / "metrics.json")
    lock.write_text(yaml.safe_dump(locked))
    compared = project.run("taehv.cli", "compare", "a800_test", "h100_train", check=False)
    assert compared.returncode == 1
    assert "runs/a800_test is of an older version of this project" in compared.stderr
    assert "dvc repro a800_test" in compared.stderr and "Traceback" not in compared.stderr
    status = project.run("dvc", "status").stdout
    assert "runs/a800_test/summary.json" in status
    dry = project.run("dvc", "repro", "--dry", "a800_test", check=False)
    assert "Running stage 'a800_test'" in dry.stdout, dry.stderr


def test_metrics_of_a_commit_can_be_compared_with_the_workspace(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "project")
    project.change_params({"gate": {"min_psnr_db": 99.0}})
    assert project.run("dvc", "repro", "gate_psnr", check=False).returncode != 0
    file = "runs/gate_psnr.metrics.json"
    difference = json.loads(project.run("dvc", "metrics", "diff", "--json", "--targets", file).stdout)[file]["passed"]
    assert (difference["old"], difference["new"]) == (True, False)
    params = json.loads(project.run("dvc", "params", "diff", "--json").stdout)
    assert params["params.yaml"]["gate.min_psnr_db"]["new"] == 99.0


def test_the_graph_has_the_five_stages(finished: Project) -> None:
    assert all(stage in finished.run("dvc", "dag").stdout for stage in STAGES)
