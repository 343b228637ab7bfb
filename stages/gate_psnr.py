"""Stage 3: judge the short training. A failed gate ends the pipeline here, before the long training is paid for."""

from __future__ import annotations

import sys

from stages.entry import EXIT_FAILED, run_stage
from stages.finished_training import delete_if_saved
from stages.recorded_inputs import RUN_AGAIN, RecordedInputs
from taehv.config.params import dump_resolved, load_params
from taehv.config.profiles import load_profile
from taehv.evaluation import gate
from taehv.evaluation.run_records import read_tracking_ids
from taehv.runtime import dvc_metrics, paths
from taehv.tracking.run import check_store, stage_run

ALIAS = "a800-passed"


def main() -> int:
    """Exit code 1 where the gate fails, after the verdict was written and tracked."""
    dvc_metrics.delete_earlier("gate_psnr")
    params, profile = load_params(), load_profile()
    inputs = RecordedInputs.at_start("gate_psnr", params)
    check_store()
    delete_if_saved("a800_test")
    tested = paths.training_outputs("a800_test")
    verdict = gate.judge(tested, params, paths.DATASET)
    gate.write_verdict(verdict, paths.GATE_VERDICT)
    gate.write_metrics(verdict, paths.GATE_METRICS)
    dump_resolved(params, paths.GATE_PARAMS)
    with stage_run("gate_psnr", params, profile) as run:
        judged = read_tracking_ids(tested.mlflow)
        run.tags({"verdict": "passed" if verdict.passed else "failed"})
        run.metrics(verdict.step, gate.tracked_numbers(verdict))
        run.artifact(paths.GATE_VERDICT)
        run.artifact(paths.GATE_PARAMS)
        if not verdict.passed:
            run.fail(f"gate failed: {', '.join(verdict.failed_checks)}")
        inputs.refuse_edits(RUN_AGAIN)
        # These wait for the model where a800_test's journal has not been sent yet, so they come last.
        run.link("judged", judged)
        if verdict.passed:
            run.register(judged, ALIAS, tags=gate.version_tags(verdict), reason=gate.describe_passed(verdict))
    inputs.refuse_edits(RUN_AGAIN)
    print(verdict.diagnosis, file=sys.stdout if verdict.passed else sys.stderr)
    return 0 if verdict.passed else EXIT_FAILED


if __name__ == "__main__":
    run_stage(main, __doc__)
