"""A dvc.lock of the version before the folders of `taehv/` were rebuilt (commit 0aad802). Real DVC."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from support.project import Project

pytestmark = pytest.mark.slow

THEN = {
    "taehv/evaluation/diagnosis.py": "taehv/diagnosis.py",
    "taehv/evaluation/gate.py": "taehv/gate.py",
    "taehv/evaluation/gate_checks.py": "taehv/gate_checks.py",
    "taehv/evaluation/parity.py": "taehv/parity.py",
    "taehv/evaluation/report": "taehv/report",
    "taehv/evaluation/run_records.py": "taehv/records.py",
    "taehv/evaluation/test_set.py": "taehv/evaluation.py",
    "taehv/losses/alignment.py": "taehv/alignment.py",
    "taehv/losses/metrics.py": "taehv/metrics.py",
    "taehv/runtime/counter_random.py": "taehv/keyed_random.py",
    "taehv/runtime/dvc_metrics.py": "taehv/dvc_metrics.py",
}
"""Where the code of that version's dvc.yaml was, by where it is now; both lists have everything else at one place."""
NOT_LISTED_THEN = {"taehv/runtime/thinning.py"}


def test_it_makes_dvc_run_every_stage_again_and_nothing_fails(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "project")
    lock = project.root / "dvc.lock"
    older = yaml.safe_load(lock.read_text())
    renamed = 0
    for stage in older["stages"].values():
        stage["deps"] = [dep for dep in stage["deps"] if dep["path"] not in NOT_LISTED_THEN]
        for dep in stage["deps"]:
            renamed += dep["path"] in THEN
            dep["path"] = THEN.get(dep["path"], dep["path"])
    assert renamed > len(THEN)
    lock.write_text(yaml.safe_dump(older))
    project.commit("the dvc.lock of 0aad802")

    stages = set(older["stages"])
    assert stages == {"prepare_data", "a800_test", "gate_psnr", "h100_train", "evaluate"}
    assert stages <= set(project.run("dvc", "status").stdout.replace(":", "").split())
    planned = project.run("dvc", "repro", "--dry").stdout
    assert [stage for stage in stages if f"Running stage '{stage}'" not in planned] == []

    # The stage that reads dvc.lock itself, and whose code has moved most.
    judged = project.run("dvc", "repro", "--single-item", "gate_psnr")
    assert "Running stage 'gate_psnr'" in judged.stdout and "Traceback" not in judged.stderr
    listed = {dep["path"] for dep in yaml.safe_load(lock.read_text())["stages"]["gate_psnr"]["deps"]}
    assert "taehv/evaluation/gate.py" in listed and not listed & set(THEN.values())
