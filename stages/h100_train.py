"""Stage 4: the long training. It starts only behind a passed gate that judged exactly the files that are here now."""

from pathlib import Path

from stages.entry import run_stage
from stages.training_stage import run_training_stage
from taehv.config.params import Params
from taehv.evaluation import gate
from taehv.runtime import paths


def continue_from(params: Params) -> Path | None:
    """Refuse without a fresh passed gate; the A800 checkpoint that the parameters name, if any."""
    tested = paths.training_outputs("a800_test")
    gate.check_fresh(paths.GATE_VERDICT, tested, params, paths.DATASET)
    step = params.h100_train.resume_from_a800_step
    return None if step is None else tested.checkpoints / f"step-{step}"


if __name__ == "__main__":
    run_stage(lambda: run_training_stage("h100_train", continue_from))
