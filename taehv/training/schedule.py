"""What depends on the step alone: learning rate, EMA decay, and when something is due."""

from __future__ import annotations

import math

from taehv.config.params import Optim


def learning_rate_fraction(optim: Optim, step: int) -> float:
    """Learning rate of update number ``step`` (the first is 1), as a fraction of the peak rate.

    A function of the absolute step: it knows neither the length of a stage nor the number of processes, so that a
    short and a long run of the same configuration have the same curve.
    """
    warmup = min(1.0, step / optim.warmup_steps) if optim.warmup_steps else 1.0
    if optim.schedule == "constant":
        return warmup
    progress = (step - optim.warmup_steps) / (optim.decay_steps - optim.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, max(0.0, progress))))
    return warmup * (optim.final_lr_fraction + (1.0 - optim.final_lr_fraction) * cosine)


def ema_decay(optim: Optim, step: int) -> float:
    """EMA decay of update ``step``: shorter at the start, so that the initial weights are soon forgotten."""
    return min(optim.ema_decay, (1 + step) / (10 + step))


def is_due(step: int, every: int, last: int) -> bool:
    """Whether something that happens every ``every`` steps, and after the last one, happens after ``step``."""
    return step % every == 0 or step == last
