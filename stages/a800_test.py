"""Stage 2: a short training that shows whether the configuration works. The gate judges it."""

from stages.entry import run_stage
from stages.training_stage import run_training_stage

if __name__ == "__main__":
    run_stage(lambda: run_training_stage("a800_test", continue_from=lambda params: None))
