"""DVC stage prepare_data: videos to clips, teacher and dataset.json."""

from __future__ import annotations

from stages.entry import run_stage

# The worker processes that decode videos import this file too, but need none of its imports: those of ``main`` stay
# inside it, or each worker would load torch and MLflow.


def main() -> int:
    """Prepare the data and track what was made; returns the exit code."""
    from stages.recorded_inputs import RUN_AGAIN, RecordedInputs
    from taehv.config.params import dump_resolved, load_params
    from taehv.config.profiles import load_profile
    from taehv.data.prepare import prepare
    from taehv.runtime import paths
    from taehv.teachers.base import teacher_class
    from taehv.tracking.run import stage_run

    params, profile = load_params(), load_profile()
    inputs = RecordedInputs.at_start("prepare_data", params)
    with stage_run("prepare_data", params, profile) as run:
        dataset = prepare(params, profile, inputs.code)
        dump_resolved(params, paths.PREPARE_PARAMS)
        run.dataset(paths.DATASET, "preparation")
        run.metrics(0, {f"data/{split}_clips": float(facts["clips"]) for split, facts in dataset["splits"].items()})
        run.metrics(0, {"data/quarantined": float(dataset["quarantined"]), "data/bytes": float(dataset["bytes"])})
        described = paths.TEACHER / teacher_class(params.active.teacher.name).INFO
        for file in (paths.DATASET, paths.QUARANTINE, paths.PREPARE_PARAMS, described):
            run.artifact(file, "data")
        inputs.refuse_edits(RUN_AGAIN)
    inputs.refuse_edits(RUN_AGAIN)
    return 0


if __name__ == "__main__":
    run_stage(main, __doc__)
