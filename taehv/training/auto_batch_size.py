"""`per_device: auto`: the largest micro-batch that this machine's memory holds, found before the first step."""

from __future__ import annotations

import logging

import torch
from accelerate import Accelerator

from taehv.runtime.errors import UserError
from taehv.training.train_step import TrainStep

log = logging.getLogger(__name__)

NOT_EVEN_ONE_FITS = (
    "not even one clip per micro-batch fits into memory; make room, or train smaller clips or a narrower "
    "model (scales.<scale>.data, .model.width), which is another training"
)


def largest_that_fits(train_step: TrainStep, accelerator: Accelerator, last_step: int) -> int:
    """Halves the micro-batch, from all slots of a process, until a rehearsed step fits; the same on all processes.

    Args:
        train_step: with nothing done yet; it is left as it was.
        accelerator: all its processes call this together.
        last_step: the step to rehearse: by then every loss term has come in.

    Raises:
        UserError: not even single clips fit.
    """
    size = train_step.own_slots
    while not _fits(train_step, size, last_step):
        if size == 1:
            raise UserError(NOT_EVEN_ONE_FITS)
        size = (size + 1) // 2
    sizes = accelerator.gather(torch.tensor([size], device=accelerator.device))
    agreed = int(sizes.min())
    log.info("per_device: auto is %d (%d slots per process)", agreed, train_step.own_slots)
    return agreed


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device, or the CPU's allocator, had no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def out_of_memory(doing: str, setting: str, clips: int, profile: str) -> UserError:
    """What to do about it.

    Args:
        doing: when it happened, in words: ``at step 3``.
        setting: of the profile, says how many clips are computed at once; it does not change the result.
        clips: how many there were.
        profile: its name.
    """
    if clips == 1:
        return UserError(f"out of memory {doing}: {NOT_EVEN_ONE_FITS}")
    return UserError(
        f"out of memory {doing} with {clips} clips per micro-batch. Set {setting}: {clips // 2} in "
        f"profiles/{profile}.yaml and run again: the global batch stays, so the result, and the work "
        "done up to the last checkpoint, stays the same"
    )


def _fits(train_step: TrainStep, size: int, step: int) -> bool:
    try:
        train_step.rehearse(step, size)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        train_step.forget_gradients()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return True
