"""GPUs that are missing, busy or too old are told before a run, in words that help."""

from __future__ import annotations

import dataclasses

import pynvml
import pytest
from support.project import Project
from support.run_contexts import changed_profile, context

from taehv.doctor.check import Level
from taehv.doctor.gpus import (
    Gpu,
    check_gpus,
    judge_compute_mode,
    judge_count,
    judge_driver,
    judge_gpus,
    judge_memory,
    judge_precision,
)

IDLE = Gpu(0, "NVIDIA H100 80GB HBM3", 85 * 10**9, 6 * 10**8, (), 0, (9, 0))


def test_a_profile_without_gpus_needs_none() -> None:
    (check_result,) = check_gpus(context())
    assert (check_result.level, check_result.detail) == ("pass", "none needed by profile local")


@pytest.mark.slow
def test_absent_gpus_fail_with_the_launchers_words_and_exit_code_1(project: Project) -> None:
    result = project.run("taehv.cli", "doctor", "--profile", "h100", check=False, CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 1
    assert "needs 8 GPU(s) named H100, this machine has no GPU" in result.stdout
    assert "not tried: 0 of 8 GPUs are visible" in result.stdout
    assert "Traceback" not in result.stderr


def test_memory_that_others_hold_is_a_warning_that_names_the_process() -> None:
    busy = dataclasses.replace(IDLE, index=3, used_bytes=60 * 10**9, other_processes=(4711,))
    assert judge_memory([IDLE]).level == "pass"
    check_result = judge_memory([IDLE, busy])
    assert check_result.level == "warn"
    assert check_result.detail == "GPU 3: 60.0 GB of 85.0 GB in use (process 4711)"


@pytest.mark.parametrize(("mode", "level"), [(0, "pass"), (2, "fail"), (3, "pass")])
def test_a_gpu_that_no_process_may_use_fails(mode: int, level: Level) -> None:
    assert judge_compute_mode([IDLE, dataclasses.replace(IDLE, compute_mode=mode)]).level == level


def test_bf16_needs_ampere_and_other_precisions_need_nothing() -> None:
    volta = dataclasses.replace(IDLE, name="Tesla V100", capability=(7, 0))
    assert [check_result.level for check_result in judge_precision([IDLE], "bf16")] == ["pass"]
    assert [check_result.level for check_result in judge_precision([volta], "bf16")] == ["fail"]
    assert judge_precision([volta], "fp32") == []


@pytest.mark.parametrize(
    ("driver", "torch", "level"),
    [((13, 1), (13, 0), "pass"), ((13, 0), (13, 1), "warn"), ((12, 8), (13, 0), "fail"), ((14, 0), (13, 1), "pass")],
)
def test_a_driver_must_know_torchs_cuda(driver: tuple[int, int], torch: tuple[int, int], level: Level) -> None:
    assert judge_driver("580.10", driver, torch).level == level


def test_more_gpus_than_the_profile_uses_are_mentioned() -> None:
    profile = changed_profile("h100", gpus=1, processes=1)
    assert judge_count([IDLE], profile) == []
    assert [check_result.level for check_result in judge_count([IDLE, IDLE], profile)] == ["warn"]


def test_a_driver_that_does_not_describe_the_gpus_is_a_warning() -> None:
    """Torch trains on a part of a GPU (MIG, vGPU) of which the driver says nothing; here there is no driver at all."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        (check_result,) = judge_gpus(changed_profile("h100"), "bf16")
        assert (check_result.name, check_result.level) == ("GPU memory", "warn")
        assert "the driver does not tell" in check_result.detail
    else:
        pytest.skip("this machine's driver describes its GPUs")
