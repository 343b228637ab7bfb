"""Stage 5: measure both best models on the test clips, compare the two runs, write the report."""

from __future__ import annotations

import sys
from typing import Any

import torch

from stages.entry import EXIT_FAILED, run_stage
from stages.finished_training import delete_if_saved
from stages.recorded_inputs import RUN_AGAIN, RecordedInputs
from taehv.config.params import Params, dump_resolved, load_params
from taehv.config.profiles import Profile, load_profile
from taehv.data.clip_store import ClipStore
from taehv.data.dataset import Dataset
from taehv.evaluation import parity, test_set
from taehv.evaluation.parity import Parity
from taehv.evaluation.report.build import write_report
from taehv.evaluation.report.examples import make_examples
from taehv.evaluation.run_records import read_record, read_tracking_ids
from taehv.launch.processes import require_gpus
from taehv.losses.metrics import available_metrics
from taehv.model.checkpoints import load_model
from taehv.model.variants import VARIANTS
from taehv.runtime import atomic_files, dvc_metrics, paths
from taehv.teachers.base import load_teacher
from taehv.tracking.run import check_store, stage_run

STAGES = ("a800_test", "h100_train")
ALIAS = "h100-passed"


def main() -> int:
    """Exit code 1 where the final PSNR or parity fails, after everything was written and tracked."""
    dvc_metrics.delete_earlier("evaluate")
    params, profile = load_params(), load_profile()
    inputs = RecordedInputs.at_start("evaluate", params)
    require_gpus(profile)
    check_store()
    delete_if_saved("a800_test")
    delete_if_saved("h100_train")
    dataset = Dataset.open()
    report, compared = measure(params, profile, dataset.split("test", verify_reads=profile.verify_reads))
    track(params, profile, dataset, report, compared, inputs)
    inputs.refuse_edits(RUN_AGAIN)
    print(test_set.describe_evaluation(report), file=sys.stdout if report["passed"] else sys.stderr)
    return 0 if report["passed"] else EXIT_FAILED


def measure(params: Params, profile: Profile, store: ClipStore) -> tuple[dict[str, Any], Parity]:
    """Everything below reports/; returns evaluation.json and the comparison of the runs."""
    scale = params.active
    device = torch.device("cuda" if profile.gpus else "cpu")
    if profile.threads is not None:
        torch.set_num_threads(profile.threads)
    runs = {stage: parity.read_run(paths.training_outputs(stage)) for stage in STAGES}
    models = {stage: load_model(paths.training_outputs(stage).best_model)[0].to(device) for stage in STAGES}
    teacher = load_teacher(scale.teacher.name, paths.TEACHER, VARIANTS[scale.model.variant]).to(device)

    compared = parity.compare_runs(runs["a800_test"], runs["h100_train"], params.evaluate)
    scorer = test_set.Scorer(store, available_metrics(device), device, profile.validation_batch)
    report = test_set.conclude(
        test_set.evaluate(models, teacher, scale.teacher.name, scorer), compared, scale.final_psnr_db
    )
    shown = {
        "h100_train": test_set.round_trip(models["h100_train"]),
        f"teacher ({scale.teacher.name})": test_set.teacher_round_trip(teacher),
    }
    atomic_files.write_json(paths.EVALUATION, report)
    test_set.write_metrics(report, paths.REPORT_METRICS)
    parity.write_parity(compared, paths.PARITY)
    write_report(paths.REPORTS, report, compared, runs, make_examples(store, shown, device), params.gate)
    dump_resolved(params, paths.REPORT_PARAMS)
    return report, compared


def track(
    params: Params,
    profile: Profile,
    dataset: Dataset,
    report: dict[str, Any],
    compared: Parity,
    inputs: RecordedInputs,
) -> None:
    """Log the report, link both models, and register the H100 model if the evaluation passed."""
    with stage_run("evaluate", params, profile) as run:
        run.dataset(paths.DATASET, "test")
        outputs = {stage: paths.training_outputs(stage) for stage in STAGES}
        ids = {stage: read_tracking_ids(outputs[stage].mlflow) for stage in STAGES}
        run.tags({"verdict": "passed" if report["passed"] else "failed", "parity": compared.verdict})
        run.metrics(0, test_set.tracked_numbers(report))
        for step in compared.steps:
            run.metrics(step.step, parity.tracked_numbers(step))
        run.artifact(paths.REPORTS)
        if not report["passed"]:
            run.fail("; ".join(report["reasons"]))
        inputs.refuse_edits(RUN_AGAIN)
        # These wait for the models where the training stages' journals have not been sent yet, so they come last.
        for stage in STAGES:
            run.link(stage, ids[stage])
            best_step = int(read_record(outputs[stage].best_info)["step"])
            run.model_metrics(ids[stage], best_step, test_set.model_numbers(report, stage))
        if report["passed"]:
            tags = test_set.version_tags(report, "h100_train", dataset.sha256)
            run.register(ids["h100_train"], ALIAS, tags=tags, reason=test_set.describe_passed(report))
            run.promote(ids["h100_train"], tags=tags)


if __name__ == "__main__":
    run_stage(main, __doc__)
