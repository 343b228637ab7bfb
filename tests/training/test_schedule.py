"""The learning rate is a function of the absolute step; slots are shared out evenly."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taehv.config.batch_shares import micro_batches, slots_of_rank
from taehv.config.params import load_params
from taehv.runtime.errors import ConfigError
from taehv.training.schedule import ema_decay, is_due, learning_rate_fraction

OPTIM = load_params(Path(__file__).parents[2] / "params.yaml").active.optim


def test_warm_up_is_linear_and_ends_at_the_peak() -> None:
    halfway = learning_rate_fraction(OPTIM, OPTIM.warmup_steps // 2)
    assert halfway == pytest.approx(0.5)
    assert learning_rate_fraction(OPTIM, OPTIM.warmup_steps) == pytest.approx(1.0)


def test_cosine_ends_at_the_final_rate_and_stays_there() -> None:
    final = OPTIM.final_lr_fraction
    assert learning_rate_fraction(OPTIM, OPTIM.decay_steps) == pytest.approx(final)
    assert learning_rate_fraction(OPTIM, 10 * OPTIM.decay_steps) == pytest.approx(final)


def test_a_constant_schedule_stays_at_the_peak() -> None:
    constant = OPTIM.model_copy(update={"schedule": "constant"})
    assert learning_rate_fraction(constant, 10**6) == 1.0


@given(st.integers(1, 10**6))
def test_the_rate_is_never_above_the_peak_nor_negative(step: int) -> None:
    assert 0 <= learning_rate_fraction(OPTIM, step) <= 1.0


def test_the_average_forgets_the_initial_weights_first() -> None:
    assert ema_decay(OPTIM, 1) < 0.2
    assert ema_decay(OPTIM, 10**6) == OPTIM.ema_decay


def test_something_is_due_on_its_multiples_and_after_the_last_step() -> None:
    assert [step for step in range(1, 11) if is_due(step, 4, last=10)] == [4, 8, 10]


@given(global_batch=st.integers(1, 200), world_size=st.integers(1, 64))
def test_every_slot_is_computed_exactly_once_and_shares_differ_by_at_most_one(
    global_batch: int, world_size: int
) -> None:
    if world_size > global_batch:
        with pytest.raises(ConfigError, match="number of processes"):
            slots_of_rank(global_batch, world_size, 0)
        return
    shares = [slots_of_rank(global_batch, world_size, rank) for rank in range(world_size)]
    assert [slot for share in shares for slot in share] == list(range(global_batch))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_full_scale_on_8_gpus_is_8_micro_batches_of_2() -> None:
    share = slots_of_rank(128, 8, 3)
    assert [len(group) for group in micro_batches(share, 2)] == [2] * 8
