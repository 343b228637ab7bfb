"""Loss balances, rates and schedules that params.yaml allows and that are known to fail, with the measurement."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from taehv.config.params import LossWeights, Optim, Params
from taehv.training.schedule import learning_rate_fraction

_LEGACY_BALANCE = {"recon": 0.1, "encoder": 1.0, "decoder": 1.0}

KNOWN_RATES = {
    ("embedded", "muon", "muon_lr"): (
        0.0035,
        0.012,
        "0.005 is best, 0.0035 and 0.01 lose 0.4 to 1.4 dB, 0.02 3.5 dB (measured)",
    ),
    ("embedded", "muon", "lr"): (1e-3, 1e-2, "0.0015 is best, 0.001 and 0.003 were trained"),
    ("embedded", "adamw", "lr"): (
        1e-3,
        1e-2,
        "0.003 was trained; the guide at 0.0001 ends at 23.4 dB, the legacy weights at 0.00005 at 19.4 (measured)",
    ),
    ("full", "adamw", "lr"): (3e-5, 3e-4, "the training guide uses 0.00005 to 0.0001; not measured here"),
}
"""Scale, optimizer and key to the range that is known to work, and why (benchmarks/RESULTS.md, tuning)."""
SLOW_END = 0.3
"""Of the peak rate: a cosine that is still above it at the last step has not done its work."""
EMA_UPDATES = 10
"""Updates that a moving average should span; below that it is hardly an average."""


@dataclass(frozen=True)
class KnownFailure:
    """A setting that is known to fail."""

    name: str
    """What it is about; short, the doctor makes a column of it."""
    reason: str
    """How it fails, with its measurement."""
    fix: str
    """What to set instead."""


def known_failures(params: Params) -> Iterator[KnownFailure]:
    """Everything about the parameters that is known to fail; nothing where nothing is."""
    yield from judge_loss_weights(params)
    yield from judge_seraena_start(params)
    yield from judge_rates(params)
    yield from judge_schedule(params)
    yield from judge_averaging(params)


def is_legacy(loss: LossWeights) -> bool:
    """Whether the weights that decide are those of the guide's legacy balance."""
    return all(getattr(loss, term) == weight for term, weight in _LEGACY_BALANCE.items())


def judge_loss_weights(params: Params) -> Iterator[KnownFailure]:
    """Weights that the guide blames, or that leave something untrained."""
    loss = params.loss
    if is_legacy(loss):
        yield KnownFailure(
            "loss balance",
            "the guide's legacy balance (recon 0.1, encoder 1, decoder 1), reported with 4.2 dB at step 1,000; here it "
            "gave 27.5 dB on the embedded scale against 28.0 dB for the guide's weights (3 seeds), on full nothing is "
            "measured",
            "the guide's weights: loss: {recon: 10.0, encoder: 0.1, decoder: 0.1, perceptual: 0.1, seraena: 0.1}",
        )
    if loss.recon == 0:
        yield KnownFailure(
            "loss balance",
            "loss.recon is 0: nothing compares the round trip with its input, which is what the gate measures",
            "set loss.recon: 10.0",
        )
    if loss.encoder == 0 and loss.decoder == 0:
        yield KnownFailure(
            "distillation",
            "loss.encoder and loss.decoder are 0: the decoder never meets the teacher's latents, which is how it is "
            "used; only the round trip will be good",
            "set loss.decoder and loss.encoder: 0.1 or more",
        )


def judge_seraena_start(params: Params) -> Iterator[KnownFailure]:
    """The gate is meant to judge reconstruction alone (docs/architecture.md, the adversary)."""
    start, step = params.active.seraena.start_step, params.gate.step
    if params.loss.seraena > 0 and start <= step:
        yield KnownFailure(
            "seraena start",
            f"starts at step {start:,}, before the gate at {step:,}: adversarial terms are reported to help only once "
            "reconstruction has converged, and the gate would judge both at once",
            f"set the scale's seraena.start_step: {step + 1}",
        )


def judge_rates(params: Params) -> Iterator[KnownFailure]:
    """Learning rates far from those that are known to work on this scale."""
    optim = params.active.optim
    for (scale, name, key), (low, high, known) in KNOWN_RATES.items():
        rate = getattr(optim, key)
        if (scale, name) == (params.scale, optim.name) and not low <= rate <= high:
            yield KnownFailure(
                "learning rate",
                f"{key} {rate:g} on {scale} with {name}: {known}",
                f"set the scale's optim.{key} between {low:g} and {high:g}",
            )
    if optim.warmup_steps >= params.gate.step:
        yield KnownFailure(
            "warm-up",
            f"{optim.warmup_steps:,} steps: the gate at {params.gate.step:,} judges before the rate is at its peak",
            "set the scale's optim.warmup_steps to a tenth of the gate step or less",
        )


def judge_schedule(params: Params) -> Iterator[KnownFailure]:
    """A cosine that ends long before or long after the long training does."""
    optim, last = params.active.optim, params.active.steps.h100_train
    if optim.schedule != "cosine":
        return
    left = learning_rate_fraction(optim, last)
    if left > SLOW_END:
        yield _decay_failure(optim, f"at the last step ({last:,}) the rate is still {left:.0%} of its peak", last)
    elif optim.decay_steps < last / 2:
        spent = last - optim.decay_steps
        yield _decay_failure(
            optim, f"{spent:,} of {last:,} steps run at {optim.final_lr_fraction:.0%} of the peak", last
        )


def judge_averaging(params: Params) -> Iterator[KnownFailure]:
    """Validation, gate and best model use the averaged weights."""
    decay = params.active.optim.ema_decay
    updates = 1 / (1 - decay)
    if updates < EMA_UPDATES:
        yield KnownFailure(
            "moving average",
            f"ema_decay {decay:g} spans {updates:.0f} updates: hardly an average",
            "set the scale's optim.ema_decay: 0.98 (embedded) or 0.999 (full)",
        )


def _decay_failure(optim: Optim, what: str, last: int) -> KnownFailure:
    return KnownFailure("schedule", f"decay_steps {optim.decay_steps:,}: {what}", f"set optim.decay_steps near {last}")
