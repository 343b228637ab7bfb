"""The parameters: how a step is shared out on this profile, and what is known to fail."""

from __future__ import annotations

from collections.abc import Iterator

from taehv.config.params import Params
from taehv.doctor.check import Check
from taehv.doctor.context import RunContext
from taehv.evaluation.known_failures import known_failures
from taehv.launch import pipeline
from taehv.runtime.errors import ConfigError


def check_settings(context: RunContext) -> list[Check]:
    """The batch, the teacher, and what is known to fail; one line where nothing is."""
    failures = [Check(failure.name, "warn", failure.reason, failure.fix) for failure in known_failures(context.params)]
    return [
        _check_batch(context),
        *judge_teacher(context.params),
        *(failures or [Check("balance", "pass", "no known bad combination")]),
    ]


def judge_teacher(params: Params) -> Iterator[Check]:
    """The full scale is meant to imitate a diffusion model's autoencoder, which is not here yet."""
    if params.scale == "full" and params.active.teacher.name == "pca":
        yield Check(
            "teacher",
            "warn",
            "pca, a linear codec fitted to the clips, is all that scale full can be distilled from so far: no "
            "diffusion model uses its latents, so the result shows that pipeline and machine work, and cannot preview",
            "train to prove the configuration, not to get a preview decoder; for that take a published checkpoint "
            "(README.md, Use a model) until a diffusion model's autoencoder can be the teacher",
        )


def _check_batch(context: RunContext) -> Check:
    """The arithmetic of a step on this profile, and how its processes share the work."""
    try:
        shown = pipeline.describe_batch(context.profile, context.params.active.batch.global_)
    except ConfigError as error:
        advice = "use a profile with fewer processes, or raise the scale's batch.global"
        return Check("batch", "fail", str(error.problems[0]), advice)
    engine = "; plain data parallelism, DeepSpeed is not used yet" if context.profile.processes > 1 else ""
    return Check("batch", "pass", shown + engine)
