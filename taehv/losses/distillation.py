"""How strongly the student is held to its teacher at each step.

Early on, the encoder and decoder terms weigh more than their parameters say. Both halves of the student then learn a
fixed mapping each (frames to the teacher's latents, the teacher's latents to frames) instead of chasing one another;
what that gains is in docs/losses.md. At the end of the schedule every weight is what params.yaml says.
"""

from __future__ import annotations

from taehv.config.params import Distillation

TERMS = ("encoder", "decoder")


def factor(params: Distillation, step: int) -> float:
    """What the two weights are multiplied by at update ``step``: ``boost``, then falling geometrically to 1."""
    if step <= params.until_step:
        return params.boost
    if step >= params.end_step:
        return 1.0
    remaining = (params.end_step - step) / (params.end_step - params.until_step)
    return params.boost**remaining
