"""The ready files of deploy/, as far as they can be checked without a cluster."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from support.project import REPOSITORY

SCRIPT = REPOSITORY / "deploy/ray.sbatch"
SLURM_OPTIONS = {"job-name", "nodes", "ntasks-per-node", "cpus-per-task", "mem", "time", "output"}
"""Of https://slurm.schedmd.com/sbatch.html."""


def test_the_script_for_slurm_is_bash_with_options_that_sbatch_has() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    options = re.findall(r"^#SBATCH --([a-z-]+)=\S+$", SCRIPT.read_text(), re.MULTILINE)
    assert set(options) == SLURM_OPTIONS
    assert len(options) == SCRIPT.read_text().count("#SBATCH")


def test_ray_has_the_options_that_it_starts_nodes_with() -> None:
    shown = subprocess.run(
        [Path(sys.executable).with_name("ray"), "start", "--help"], capture_output=True, text=True, check=True
    ).stdout
    lines = [line for line in SCRIPT.read_text().splitlines() if "start" in line and not line.startswith("#")]
    used = set(re.findall(r"--(num-cpus|block|head|port|include-dashboard|address)\b", " ".join(lines)))
    assert used == {"num-cpus", "block", "head", "port", "include-dashboard", "address"}
    assert all(f"--{option}" in shown for option in used)
