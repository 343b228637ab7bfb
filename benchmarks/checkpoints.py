"""What checkpoints cost a training step: steps with one written behind each, against steps without.

    make bench-checkpoints                    # ARGS="--rounds 6 --steps 10"

The state is the embedded default's with its adversary at work; rounds with and without
take turns, so that the machine's mood cancels out. Prints a markdown table; a run writes one every 100 steps.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from taehv.config.params import load_params
from taehv.config.profiles import load_profile
from taehv.data.dataset import Dataset
from taehv.runtime import paths
from taehv.training.build import start_accelerator
from taehv.training.run_spec import RunSpec
from taehv.training.trainer import NullRecorder, Trainer

STEPS_BETWEEN_CHECKPOINTS = 100
"""checkpoint_every of profiles/local.yaml."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=10, help="steps per round")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TAEHV_ROOT"] = folder
        trainer = trainer_with_adversary(options.threads)
        seconds: dict[bool, list[float]] = {False: [], True: []}
        step = 1
        for number in range(2 * options.rounds + 1):
            with_checkpoint = number % 2 == 1
            started = time.perf_counter()
            for _ in range(options.steps):
                step += 1
                trainer.train_step(step)
                trainer.state.progress.step = step
                if with_checkpoint:
                    trainer.checkpoints.save(Path(folder) / "rolling", trainer.state, keep=2)
            if number > 0:  # the first round warms up
                seconds[with_checkpoint].append((time.perf_counter() - started) / options.steps)
            trainer.checkpoints.wait()
        size = sum(file.stat().st_size for file in (Path(folder) / f"rolling/step-{step - options.steps}").iterdir())
        trainer.checkpoints.close()
        trainer.loader.close()
    without, behind = (statistics.median(seconds[which]) for which in (False, True))
    cost = (behind - without) / STEPS_BETWEEN_CHECKPOINTS / without
    print("| step, s | with a checkpoint behind each, s | checkpoint | cost of one every 100 steps |")
    print("|---|---|---|---|")
    print(f"| {without:.3f} | {behind:.3f} | {size / 1e6:.1f} MB | {cost:.2%} |")


def trainer_with_adversary(threads: int | None) -> Trainer:
    """The embedded default with the adversarial term from the first step on."""
    params, profile = load_params(), load_profile("local")
    scale = params.active
    early = scale.model_copy(update={"seraena": scale.seraena.model_copy(update={"start_step": 1, "ramp_steps": 0})})
    params = params.model_copy(update={"scales": {**params.scales, params.scale: early}})
    profile = profile.model_copy(update={"threads": threads or profile.threads})
    spec = RunSpec("h100_train", params, profile, Dataset.open(), paths.TEACHER)
    return Trainer(spec, start_accelerator(spec), NullRecorder())


if __name__ == "__main__":
    main()
