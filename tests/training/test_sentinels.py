"""The loss and the learning rate watched at every step."""

from __future__ import annotations

import math
import random
from statistics import median

import pytest
import torch

from curvwatch.training.sentinels import (
    LOSS_OVER_MEDIAN,
    LOSS_OVER_START,
    PULLED_STEPS,
    Sentinels,
    silent_share,
)


def seen(losses: list[float], rate: float = 0.1) -> Sentinels:
    sentinels = Sentinels()
    for loss in losses:
        sentinels.see(loss, rate)
    return sentinels


def test_the_ratio_is_that_to_the_median_of_the_fifty_losses_before() -> None:
    noise = random.Random(0)
    losses = [noise.lognormvariate(0, 0.4) for _ in range(300)]
    sentinels = Sentinels()
    for t, loss in enumerate(losses):
        sentinels.see(loss, 0.1)
        expected = loss / median(losses[max(0, t - 50) : t]) if t >= 10 else None
        assert sentinels.loss_over_median == (None if expected is None else pytest.approx(expected))


def test_the_progress_compares_the_last_losses_with_the_first() -> None:
    losses = [4.0, *(4.5 - 0.01 * t for t in range(200))]
    assert LOSS_OVER_START not in seen(losses[:59]).values(with_reading=True)
    ratio = seen(losses).values(with_reading=True)[LOSS_OVER_START]
    assert ratio == pytest.approx(median(losses[-50:]) / 4.0)  # the first steps threw it up
    ratio = seen(losses[1:]).values(with_reading=True)[LOSS_OVER_START]
    assert ratio == pytest.approx(median(losses[-50:]) / median(losses[1:11]))
    assert LOSS_OVER_START not in seen(losses).values(with_reading=False)


def test_the_silent_share_counts_tensors_without_any_gradient() -> None:
    silent, loud = torch.zeros(3, 4), torch.tensor([0.0, 1e-30])
    assert silent_share([silent, loud, silent, torch.zeros(1)]) == 0.75
    assert silent_share([loud]) == 0.0
    assert silent_share([torch.full((2,), math.nan)]) == 0.0
    assert math.isnan(silent_share([]))


def test_a_loss_that_jumps_pulls_readings_for_some_steps_and_is_reported_while_it_is_high() -> None:
    sentinels = seen([1.0] * 60)
    assert not sentinels.pulls
    assert sentinels.see(1.6, 0.1)
    assert sentinels.pulls
    assert sentinels.values(with_reading=False) == {}
    assert sentinels.see(4.0, 0.1)
    assert sentinels.values(with_reading=False) == {LOSS_OVER_MEDIAN: 4.0}
    assert sentinels.see(1.0, 0.1)  # that it fell again is reported once, so that rules are clear
    assert sentinels.values(with_reading=False) == {LOSS_OVER_MEDIAN: 1.0}
    for _ in range(PULLED_STEPS - 2):
        assert sentinels.see(1.0, 0.1)
        assert sentinels.values(with_reading=False) == {}
    assert not sentinels.see(1.0, 0.1)
    assert not sentinels.pulls


def test_a_small_loss_that_scatters_pulls_little() -> None:
    noise = random.Random(0)
    sentinels = Sentinels()
    pulled = 0
    for _ in range(20_000):
        sentinels.see(noise.lognormvariate(-6, 0.5), 0.1)
        pulled += sentinels.pulls
    assert pulled / 20_000 < 0.2


@pytest.mark.parametrize("losses", [[-1.0] * 60, [0.0] * 60, [math.nan] * 60, [1.0] * 5])
def test_where_a_ratio_means_nothing_there_is_none(losses: list[float]) -> None:
    sentinels = seen(losses)
    assert not sentinels.see(5.0, 0.1)
    assert sentinels.loss_over_median is None


def test_a_loss_that_is_not_finite_is_left_out() -> None:
    sentinels = seen([1.0] * 60)
    sentinels.see(math.inf, 0.1)
    assert sentinels.loss_over_median is None
    sentinels.see(3.0, 0.1)
    assert sentinels.loss_over_median == 3.0


def test_a_loss_that_is_unknown_is_none() -> None:
    sentinels = Sentinels()
    assert not sentinels.see(None, 0.1)
    assert sentinels.values(with_reading=True) == {}


def rates_that_pull(rates: list[float]) -> list[int]:
    """The steps at which a learning rate begins to pull readings."""
    sentinels, begun = Sentinels(), []
    for t, rate in enumerate(rates):
        before = sentinels.pulls
        sentinels.see(None, rate)
        if sentinels.pulls and not before:
            begun.append(t)
    return begun


def test_a_learning_rate_that_jumps_pulls_readings() -> None:
    assert rates_that_pull([0.1] * 100 + [0.19] * 60) == []
    assert rates_that_pull([0.1] * 100 + [0.21] * 60) == [100]
    # a restart of a cosine
    cosine = [0.05 * (1 + math.cos(math.pi * t / 200)) for t in range(200)]
    assert rates_that_pull(cosine * 2) == [200]


def test_a_warmup_and_a_decay_pull_nothing() -> None:
    assert rates_that_pull([0.001 * t for t in range(300)]) == []
    assert rates_that_pull([0.1 * 0.99**t for t in range(300)]) == []
    assert rates_that_pull([math.nan] * 100) == []


def test_state_goes_on_alike() -> None:
    noise = random.Random(1)
    losses = [noise.lognormvariate(0, 0.5) for _ in range(200)]
    whole = seen(losses)
    cut = seen(losses[:77])
    resumed = Sentinels()
    resumed.load_state_dict(cut.state_dict())
    for loss in losses[77:]:
        resumed.see(loss, 0.1)
    assert resumed.state_dict() == whole.state_dict()
    assert resumed.values(with_reading=True) == whole.values(with_reading=True)
    resumed.load_state_dict({})  # of an earlier version
