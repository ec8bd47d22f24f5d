"""Advice on the learning rate: closed forms, made-up runs, a dense Hessian, and the command."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curvwatch import CurvatureMonitor, History, Watch, advise, cli
from curvwatch.results.advice import Advice, Warmup, advise_curves
from curvwatch.results.advice.evidence import _start
from curvwatch.results.advice.rates import _momentum, ratio_of_step
from tests.report import logs
from tests.support.modules import Classifier, batches, fit
from tests.support.studies import without

NAN = math.nan
EIGENVALUES = torch.tensor([5.0, 1.0, 0.5, 0.1], dtype=torch.float64)


def on_a_quadratic(make: Callable[[Iterable[Tensor]], torch.optim.Optimizer], steps: int) -> Advice:
    """Advice of a run on sum(h w^2) / 2, read at each tenth of its steps."""
    net = nn.Linear(4, 1, bias=False).double()
    with torch.no_grad():
        net.weight.fill_(1e-4)

    def loss_fn(net: nn.Module, batch: Tensor) -> Tensor:
        return (EIGENVALUES * net.weight.square()).sum() / 2

    optimizer = make(net.parameters())
    with Watch(net, optimizer, loss_fn, every_n_steps=steps // 20, alerts="off") as watch:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = watch.loss(torch.ones(1))
            loss.backward()
            optimizer.step()
            watch.step()
    return watch.advice().only


# an optimizer, steps, and the edge; eps is far over the gradients, so that P is 1 and stays
QUADRATIC: dict[str, tuple[Any, int, float]] = {
    "sgd": (lambda p: torch.optim.SGD(p, lr=0.02), 100, 2 / 5),
    "heavy ball": (lambda p: torch.optim.SGD(p, lr=2e-4, momentum=0.9), 400, 2 * 1.9 / 5),
    "nesterov": (
        lambda p: torch.optim.SGD(p, lr=2e-4, momentum=0.9, nesterov=True),
        400,
        2 * 1.9 / 2.8 / 5,
    ),
    "weight decay": (
        lambda p: torch.optim.SGD(p, lr=0.02, weight_decay=0.01),
        100,
        2 / (5 + 0.01),
    ),
    "adam": (lambda p: torch.optim.Adam(p, lr=0.01, eps=1.0), 400, 38 / 5),
    "rmsprop": (lambda p: torch.optim.RMSprop(p, lr=0.01, eps=1.0), 200, 2 / 5),
}


@pytest.mark.parametrize("name", without(QUADRATIC, leave=["nesterov", "rmsprop"]))
def test_on_a_quadratic_it_is_the_edge(name: str) -> None:
    make, steps, edge = QUADRATIC[name]
    advice = on_a_quadratic(make, steps)
    assert advice.given, str(advice)
    error = advice.evidence["error"]
    assert error < 2e-3
    decay = 0.002 if edge == 2 / 5.01 else 0.0  # with one learning rate its part is not seen
    assert advice.learning_rate == pytest.approx(edge, rel=error + decay + 1e-4)
    assert advice.low <= advice.learning_rate <= advice.high
    assert advice.high == pytest.approx(edge, rel=2 * error + decay + 1e-4)
    assert advice.warmup is None
    assert advice.could_raise == (advice.low > 1.5 * advice.evidence["learning_rate"])


# made-up runs


def made(
    chi: Sequence[float] | np.ndarray,
    *,
    lr: float | Sequence[float] = 0.01,
    law: Callable[[float], float] = lambda lr: 2 / lr,
    s: Sequence[float] | np.ndarray | float | None = 0.1,
    loss: Sequence[float] | None = None,
    residual: float = 1e-3,
    suffix: str = "",
    into: History | None = None,
) -> History:
    """A history with a reading of the landscape in every tenth step."""
    history = into or History()
    n = len(chi)
    rates = [lr] * n if isinstance(lr, float) else lr
    losses = np.geomspace(1.0, 0.1, n) if loss is None else loss
    for i in range(n):
        edge = law(rates[i])
        values = {
            "loss": losses[i],
            "edge": 2 / rates[i] if rates[i] else NAN,
            "effective_edge": edge,
            "effective_sharpness": chi[i] * edge,
            "stability_ratio": chi[i],
            "sharpness": 1.0,
            "sharpness_stderr": 0.0,
            "residual": residual,
        }
        history.record(10 * i, {f"curvature/{name}{suffix}": v for name, v in values.items()})
    if s is not None:
        ratios = np.broadcast_to(s, 10 * n) if np.size(s) in (1, 10 * n) else np.repeat(s, 10)
        for step, ratio in enumerate(map(float, ratios)):
            history.record(step, {f"step/stability_ratio{suffix}": ratio})
    return history


def test_the_lowest_of_the_last_quarters_counts() -> None:
    chi = [0.05] * 10 + [0.1] * 5 + [0.08] * 5
    advice = advise(made(chi)).only
    assert advice.learning_rate == pytest.approx(0.01 / 0.1)
    assert advice.low == pytest.approx(0.1 * (1 - 1e-3))
    assert advice.factor == pytest.approx(10)
    assert advice.could_raise
    assert advice.warmup is None
    # sharper at .125 from the last quarter; steps at .1 grow to .1 in proportion, no lower
    assert advice.high == pytest.approx(0.1 * (1 + 0))
    assert "Learning rate 0.1 (0.0999 to" in str(advice)


def test_a_warmup_where_the_start_is_sharper() -> None:
    chi = [0.8, 0.8, 0.4, 0.4, 0.2] + [0.1] * 15
    advice = advise(made(chi, s=0.01)).only
    assert advice.learning_rate == pytest.approx(0.1)
    # the reading at step 40 supports 3/7 of the way: (40 - 50 * 3/7) / (4/7) = 32.5
    assert advice.warmup == (pytest.approx(0.0125), 33, 50)
    assert "Hold 0.0125 until step 33, then warm up to it until step 50: before that," in str(advice)
    # a single stray reading is no reason
    assert advise(made([0.1, 0.1, 0.9] + [0.1] * 17, s=0.01)).only.warmup is None


def rise(warmup: Warmup, rate: float, step: float) -> float:
    """The learning rate that is advised at `step`, after the docstring."""
    if step <= warmup.start:
        return warmup.learning_rate
    if step >= warmup.until:
        return rate
    share = (step - warmup.start) / (warmup.until - warmup.start)
    return warmup.learning_rate + share * (rate - warmup.learning_rate)


def first_start(warmup: Warmup, rate: float, support: dict[int, float]) -> int:
    """By trying all, the first from which on the rise exceeds none of `support`, by step."""
    for start in range(warmup.until):
        tried = warmup._replace(start=start)
        if all(rise(tried, rate, step) <= r * (1 + 1e-6) for step, r in support.items()):
            return start
    raise AssertionError(f"every rise until {warmup.until} exceeds one of {support}")


# of support over the advice: the first readings, one in every ten steps
@pytest.mark.parametrize(
    ("support", "start"),
    [
        ([0.1, 0.1, 0.1, 0.1, 0.1], 40),  # flat, then all at once: not before the last of these
        ([0.25, 0.625], 0),  # on a line up to the advice
        ([0.28, 0.65], 0),  # over it
        ([0.25, 0.6], 2),  # under it: (10 - 20 * 7/15) / (8/15) = 1.25
        ([0.1, 0.13, 0.17, 0.22, 0.3], 38),  # far under it: (40 - 50 * 2/9) / (7/9) = 37.1
    ],
    ids=["flat", "line", "concave", "convex", "more convex"],
)
def test_a_warmup_begins_as_early_as_the_readings_support(support: list[float], start: int) -> None:
    chi = 0.1 / np.array([*support, *[1.0] * 18])
    advice = advise(made(chi, s=None)).only
    assert advice.warmup is not None
    assert advice.warmup.until == 10 * len(support)
    found = dict(zip(range(0, advice.warmup.until, 10), np.multiply(support, 0.1), strict=False))
    assert advice.warmup.start == start
    assert advice.warmup.start == first_start(advice.warmup, advice.learning_rate, found)
    assert advice.warmup.learning_rate == pytest.approx(0.1 * support[0])
    begins = (
        f"Hold {0.1 * support[0]:.3g} until step {start}, then warm up" if start else "Warm up from"
    )
    assert begins in str(advice)


def test_a_warmup_exceeds_no_early_reading_and_begins_no_later_than_it_must() -> None:
    rng, starts, steps = np.random.default_rng(0), [], [0.9] * 20 + [0.1] * 20
    for draw in range(60):
        # a rise of any shape from any depth, with or without scatter and a few strays
        shape = np.linspace(0, 1, 20) ** rng.uniform(0.2, 3)
        rates = 0.1 * rng.uniform(0.01, 0.6) ** (1 - shape)
        rates *= np.exp(rng.choice([0.0, 0.3]) * rng.standard_normal(20))
        rates[rng.integers(0, 20, 2)] *= rng.choice([1.0, 0.1, 10.0], 2)
        rates = np.concatenate([rates, np.full(20, 0.1)])
        tried = 0.03 if draw % 2 else 1e-4  # of the run; with 0.03 it is over the edge at first
        advice = advise(made(tried / rates, lr=tried, s=steps if draw % 2 else None)).only
        assert advice.learning_rate == pytest.approx(0.1, rel=1e-6)
        # the median of three, apart from the first, which the smoothing of the next may not bound
        support = [max(tried, sorted(rates[i - 1 : i + 2])[1]) for i in range(1, 20)]
        sharp = [i for i, r in enumerate(support, 1) if r < 0.1 / 1.5]
        if not sharp:
            assert advice.warmup is None or advice.warmup.until == 10
            continue
        assert advice.warmup is not None
        least = advice.warmup.learning_rate
        assert advice.warmup.until == 10 * (sharp[-1] + 1)
        first = max(tried, min(rates[0], support[0]))
        assert min(first, *support[: sharp[-1]]) <= least * (1 + 1e-9)
        assert least <= min(support[: sharp[-1]]) * (1 + 1e-9)
        bounds = {10 * i: r for i, r in enumerate(support, 1) if i <= sharp[-1]}
        start = first_start(advice.warmup, 0.1, bounds)
        assert advice.warmup.start == start
        starts.append(start)
    assert len(starts) > 40
    assert min(starts) < 20
    assert max(starts) > 100


def test_the_first_reading_is_followed_and_no_stray_is() -> None:
    at_once = advise(made([0.8, 0.4, 0.2] + [0.1] * 17, s=None)).only
    assert at_once.warmup == (pytest.approx(0.0125), 13, 30)
    assert advise(made([0.8] + [0.1] * 19, s=None)).only.warmup is None
    assert advise(made([-0.1] * 3 + [0.1] * 17, s=None)).only.warmup is None
    # negative curvature bounds nothing, and what comes next does
    dented = advise(made([-0.1] * 3 + [0.8] * 3 + [0.1] * 14, s=None)).only
    assert dented.warmup == (pytest.approx(0.0125), 50, 60)


def test_on_a_line_it_begins_at_once_whatever_the_rounding() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        times = np.sort(rng.choice(1000, size=30, replace=False))
        until, times[0] = int(times[-1]), 0
        least, rate = np.sort(rng.lognormal(size=2))
        support = least + (rate - least) * times[:-1] / until
        assert _start(times[:-1], support, rate, until) == 0


def test_a_warmup_begins_at_what_went_well() -> None:
    chi = [1.4] * 5 + [0.1] * 15
    # of more than .01 nothing says that it goes until step 40
    assert advise(made(chi, s=[0.7] * 5 + [0.1] * 15)).only.warmup == (pytest.approx(0.01), 40, 50)
    overshot = advise(made(chi, s=[1.5] * 5 + [0.1] * 15)).only
    assert overshot.warmup == (pytest.approx(0.01 / 1.4), 40, 50)
    # most steps went well, the first did not
    at_first = advise(made(chi, s=[1.5] * 2 + [0.7] * 3 + [0.1] * 15)).only
    assert at_first.warmup == (pytest.approx(0.01 / 1.4), 40, 50)
    later = made(chi, s=None)
    for step in range(50, 200):
        later.record(step, {"step/stability_ratio": 0.1})
    assert advise(later).only.warmup == (pytest.approx(0.01 / 1.4), 40, 50)


def test_no_warmup_to_what_went_well_from_the_start() -> None:
    chi = [1.4] * 5 + [0.9] * 15
    assert advise(made(chi, s=0.7)).only.warmup is None
    overshot = advise(made(chi, s=[1.5] * 5 + [0.7] * 15)).only
    assert overshot.warmup == (pytest.approx(0.01 / 1.4), 40, 50)


def test_each_reading_supports_the_learning_rate_it_was_made_with() -> None:
    # a run that warmed up itself: no step overshot though the landscape had it over the edge
    lr = [0.01, 0.01, 0.02, 0.03, 0.04] + [0.1] * 15
    advice = advise(made([1.4] * 5 + [0.9] * 15, lr=lr, s=0.7)).only
    rate = advice.learning_rate
    assert rate == pytest.approx(0.1 / 0.9)
    assert advice.warmup is not None
    assert advice.warmup == (pytest.approx(0.01), advice.warmup.start, 50)
    assert advice.warmup.start == first_start(
        advice.warmup, rate, dict(zip(range(0, 50, 10), lr, strict=False))
    )


@pytest.mark.parametrize("above", [0.0, 0.4], ids=["at the edge", "riding above it, as RMSprop"])
def test_a_run_at_its_edge_keeps_its_learning_rate(above: float) -> None:
    rng = np.random.default_rng(0)
    chi = np.concatenate([np.linspace(0.3, 0.95, 10), 1.0 + above + 0.03 * rng.standard_normal(20)])
    advice = advise(made(chi, s=0.9)).only
    assert advice.learning_rate == pytest.approx(0.01, rel=0.03)
    assert not advice.could_raise
    assert "has settled at its edge" in str(advice)
    assert "keep it" in str(advice)


def test_an_edge_that_the_steps_do_not_see_is_told() -> None:
    noise = np.exp(0.3 * np.random.default_rng(0).standard_normal(200))
    advice = advise(made([0.95] * 20, s=0.1 * noise)).only
    assert advice.learning_rate == pytest.approx(0.01, rel=0.06)
    assert "but by its steps it is not (their median is 0.1)" in str(advice)
    # nobody read them; a full batch, most of whose steps go along flat directions; some do overshoot
    bursts = [0.1] * 17 + [1.1] * 3
    for s in (None, 0.1, 0.1 * noise + np.repeat(bursts, 10) - 0.1):
        told = str(advise(made([0.95] * 20, s=s)))
        assert "has settled at its edge" in told
        assert "its steps do not" not in told


def test_steps_that_overshoot_ask_for_less() -> None:
    advice = advise(made([1.3] * 20, s=1.4)).only
    assert advice.learning_rate == pytest.approx(0.01 / 1.4)
    assert "lower it" in str(advice)
    assert "The steps limit it" in str(advice)
    # over the edge, too: not held there
    assert advise(made([1.6] * 20, s=1.2)).only.learning_rate == pytest.approx(0.01 / 1.6)


def test_small_batches_are_bound_by_their_steps() -> None:
    noise = np.exp(0.3 * np.random.default_rng(0).standard_normal(200))
    # plain SGD: the ratio of the step is batch sharpness over 2/lr
    advice = advise(made([0.3] * 20, s=0.8 * noise)).only
    assert advice.learning_rate == pytest.approx(0.01 / 0.8, rel=0.05)
    assert advice.low < 0.01 / 0.8 < advice.high
    assert not advice.could_raise
    assert "The steps limit it" in str(advice)
    # momentum: they grow in proportion at worst, and end with the landscape at best
    noisy = advise(made([0.3] * 20, s=0.4 * noise, law=lambda lr: 3.8 / lr)).only
    assert noisy.learning_rate == pytest.approx(0.025, rel=0.05)
    assert noisy.high == pytest.approx(0.01 / 0.3, rel=2e-3)
    # of a full batch they say little: a direction of the landscape's own
    smooth = advise(made([0.3] * 20, s=0.4, law=lambda lr: 3.8 / lr)).only
    assert smooth.evidence["momentum"] == pytest.approx(0.9)
    assert smooth.learning_rate == pytest.approx(0.01 / 0.3)


@pytest.mark.parametrize(
    ("factor", "momentum"),
    [(1.0, 0.0), (1.9, 0.9), (19.0, 0.9), (1.9 / 2.8, 0.9), (0.999, 0.0), (5 / 3, 2 / 3)],
)
def test_momentum_is_seen_in_the_edges(factor: float, momentum: float) -> None:
    advice = advise(made([0.1] * 20, law=lambda lr: 2 * factor / lr)).only
    assert advice.evidence["momentum"] == pytest.approx(momentum, abs=2e-3)


def test_noise_alone_never_binds_before_the_landscape() -> None:
    # heavy ball on a quadratic with noise of its own in each of 2000 directions
    rng, m, h, n = np.random.default_rng(0), 0.9, 1.0, 2000
    for chi in (0.02, 0.2, 0.7, 0.95):
        lr = chi * 2 * (1 + m) / h
        x, buffer, ratios = np.zeros(n), np.zeros(n), []
        for t in range(800):
            g = h * x + rng.standard_normal(n)
            buffer = m * buffer + g
            d = -lr * buffer
            x = x + d
            if t >= 400:
                ratios.append(h * d @ d / (-2 * g @ d))
        s = float(np.median(ratios))
        assert s == pytest.approx(chi / (chi + (1 - m) * (1 - chi)), rel=0.05)
        assert chi / (1 + m) * 0.95 < float(ratio_of_step(np.array(s), (1 - m) / (1 + m))) <= chi * 1.02


def test_without_momentum_a_step_has_the_ratio_of_its_direction() -> None:
    s = np.array([-0.5, 0.0, 0.3, 1.0, 1.7])
    assert ratio_of_step(s, 1.0) == pytest.approx(s)


@pytest.mark.parametrize(
    ("make", "edge"),
    [
        (lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9), lambda lr: 3.8 / lr),
        (
            lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, nesterov=True),
            lambda lr: 3.8 / 2.8 / lr,
        ),
        # eps is far over the gradients, so that P is 1 - b1^t
        (lambda p, lr: torch.optim.Adam(p, lr=lr, eps=1.0), lambda lr: 38 / lr),
    ],
    ids=["heavy ball", "nesterov", "adam"],
)
def test_far_from_the_edge_a_step_is_as_slow_as_the_edges_tell(make, edge) -> None:
    # one weight of curvature h, far from the edge: its chi from its step, as torch's optimizer makes it
    lr, h = 1e-4, 1e-3
    w = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = make([w], lr)
    for _ in range(400):
        before = w.detach().clone()
        optimizer.zero_grad()
        (h * w.square().sum() / 2).backward()
        optimizer.step()
    d = w.detach() - before
    s = float(h * d @ d / (-2 * h * before @ d))
    slowness = _momentum(np.array([edge(lr) * lr / 2]))[1]
    assert float(ratio_of_step(np.array(s), slowness)) == pytest.approx(h / edge(lr), rel=0.01)


def test_without_steps_a_run_is_at_its_edge_if_its_loss_fell() -> None:
    history = made([1.1] * 20, loss=np.geomspace(1, 0.1, 20))
    without = History()
    for name in history:
        if not name.startswith("step/"):
            for step, value in zip(*history[name], strict=True):
                without.record(int(step), {name: float(value)})
    assert advise(without).only.learning_rate == pytest.approx(0.01)
    blind = History()
    for name in without:
        if name != "curvature/loss":
            for step, value in zip(*without[name], strict=True):
                blind.record(int(step), {name: float(value)})
    # nothing says that it trains: the rate is that of the landscape alone
    assert advise(blind).only.learning_rate == pytest.approx(0.01 / 1.1)


def test_readings_that_steps_refute_are_left_out() -> None:
    chi = [0.1] * 4 + [30.0, 8.0, 50.0, 2.0] + [0.1] * 4 + [12.0] + [0.1] * 7
    advice = advise(made(chi)).only
    assert advice.learning_rate == pytest.approx(0.1)
    assert advice.warmup is None
    assert "5 readings are left out: over the edge while no step overshot" in str(advice)
    # where steps do overshoot they count
    ratios = [0.1] * 4 + [2.0] * 4 + [0.1] * 12
    warmed = advise(made(chi, s=ratios)).only
    assert warmed.warmup is not None
    all_over = advise(made([3.0] * 20)).only
    assert not all_over.given
    assert "probe_batches=" in str(all_over)


def test_noise_is_in_the_uncertainty() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        chi = 0.1 * np.exp(0.3 * rng.standard_normal(40))
        advice = advise(made(chi, s=0.01)).only
        assert 0.07 < advice.learning_rate < 0.12
        assert 0.04 < advice.low <= advice.learning_rate <= advice.high < 0.2
    history = made([0.1] * 20, s=0.01)
    for i in range(20):
        history._values["curvature/sharpness_stderr"][i] = 0.1
    assert advise(history).only.low == pytest.approx(0.1 * (1 - 0.2 - 1e-3))


def test_edges_of_several_learning_rates_tell_the_law() -> None:
    # AdamW: 38/lr - 19 d; sharpness stays, so chi is not in proportion to lr
    d, sharpness = 5.0, 100.0

    def law(lr: float) -> float:
        return 19 * (2 / lr - d)

    rates = [0.005] * 10 + [0.01] * 10
    chi = [sharpness / law(lr) for lr in rates]
    exact = 2 / (sharpness / 19 + d)
    advice = advise(made(chi, lr=rates, law=law, s=0.01)).only
    assert advice.learning_rate == pytest.approx(exact, rel=1e-6)
    single = advise(made([chi[-1]] * 20, law=law, s=0.01)).only
    assert single.learning_rate == pytest.approx(0.01 / chi[-1])
    assert abs(single.learning_rate / exact - 1) > 0.1


def test_after_the_learning_rate_was_lowered_the_landscape_sharpens() -> None:
    rates = [0.1] * 20 + [0.01] * 20
    advice = advise(made([0.5] * 40, lr=rates)).only
    assert advice.learning_rate == pytest.approx(0.2)
    assert "20 readings are left out: made after the learning rate was halved" in str(advice)


def test_a_landscape_that_sharpens() -> None:
    slowly = advise(made(np.geomspace(0.05, 0.1, 20), s=0.01)).only
    rises = slowly.evidence["rises"]
    assert 0.7 < rises < 0.9
    quickly = advise(made(np.geomspace(0.001, 0.1, 20), s=0.01)).only
    assert not quickly.given
    assert "is still getting sharper" in str(quickly)
    faster = advise(made(np.geomspace(0.01, 0.1, 20), s=0.01)).only
    assert faster.low < 0.8 * faster.evidence["at_edge_low"]
    assert "was still getting sharper" in str(faster)


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        (History(), "the readings have no curvature/stability_ratio"),
        (made([0.1] * 7), "7 of 7 readings of the landscape can be used, 8 are needed"),
        (made([0.1] * 20, residual=0.5), "20 are doubtful"),
        (
            made([0.1] * 20, loss=[*np.geomspace(1, 0.1, 19), math.inf]),
            "its last losses are not finite",
        ),
        (
            made([3.0] * 20, s=2.0, loss=np.geomspace(1, 9, 20)),
            "the run diverged: the loss went from 1",
        ),
        (made([0.1] * 20, loss=np.linspace(1, 0.995, 20)), "the loss has hardly fallen (1 to 0.995)"),
        (made([0.1] * 20, s=-0.1, loss=np.linspace(1, 0.95, 20)), "the loss has hardly fallen"),
        (made([0.1] * 20, loss=np.linspace(1, 0.995, 20)), "train for longer, or with a larger"),
        # it was killed at once: by what steps did, or by what the landscape was
        (
            made([0.1] * 20, s=[2.0] * 30 + [0.1] * 170, loss=np.linspace(1, 0.995, 20)),
            "steps overshot, so restart with a smaller",
        ),
        (
            made([1.2] + [0.1] * 19, loss=np.linspace(1, 0.995, 20)),
            "steps overshot, so restart with a smaller",
        ),
        (made([0.1] * 20, s=0.5, loss=np.linspace(1, 1.2, 20)), "the loss has risen (1 to 1.19)"),
        # thrown to a flat place, where it stands still
        (made([2.0] + [0.01] * 19, s=None, loss=[3.0] + [2.3] * 19), "the loss is stuck at 2.3"),
        # as batches make it scatter, and seen by the steps alone
        (
            made(
                [0.9] + [0.01] * 19,
                s=[3.0] * 30 + [0.1] * 170,
                loss=[3.0, *(2.33 - 0.001 * np.arange(19) + 0.01 * (-1.0) ** np.arange(19))],
            ),
            "the loss is stuck at 2.3",
        ),
        (made([-0.1] * 20, s=-0.1), "no positive curvature"),
        (made([0.1] * 20, lr=[0.0] * 20, law=lambda lr: NAN), "no reading has a stability ratio"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_where_there_is_no_advice_it_says_why(history: History, reason: str) -> None:
    advice = advise(history).only
    assert not advice.given
    assert reason in str(advice)
    assert str(advice).startswith("No advice: ")
    assert advice.warmup is None
    assert not advice.could_raise
    assert all(math.isnan(v) for v in (advice.low, advice.high, advice.factor))


@pytest.mark.parametrize(
    ("chi", "loss"),
    [
        ([2.0] + [0.01] * 19, [3.0] + [1.0] * 19),  # it ends low
        ([1.1] + [0.5] * 19, [3.0] + [2.3] * 19),  # it was hardly sharper
        ([0.9] + [0.01] * 19, [3.0] + [2.3] * 19),  # nothing threw it there
        ([2.0] + [0.01] * 19, np.linspace(3.0, 2.0, 20)),  # its loss falls
    ],
)
def test_a_run_that_only_looks_still_gets_advice(chi: Sequence[float], loss: Sequence[float]) -> None:
    assert advise(made(chi, s=None, loss=loss)).only.given


def test_the_learning_rates_of_a_schedule_are_told() -> None:
    rates = np.linspace(0.05, 0.03, 20)
    told = str(advise(made([0.1] * 20, lr=list(rates))))
    assert f"at learning rates of 0.03 to {rates[10]:.3g}, and" in told


@pytest.mark.parametrize(
    ("ratios", "low"), [([0.15, 0.2, 0.3, 0.5, 0.6], 0.0056), ([0.02, 2.0, 0.3, 0.02, 2.0], 0.0)]
)
def test_what_may_be_raised_but_is_not_sure_is_said_so(ratios: list[float], low: float) -> None:
    # the landscape allows more, and the few steps that were read scatter
    history = made([0.1] * 20, s=None)
    for step, ratio in zip(range(110, 160, 10), ratios, strict=True):
        history.record(step, {"step/stability_ratio": ratio})
    advice = advise(history).only
    assert advice.learning_rate == pytest.approx(0.01 / 0.3)
    assert advice.low == pytest.approx(low, rel=0.1)
    assert not advice.could_raise
    assert (
        "it may be raised, though the low end of the range does not support that" in str(advice)
    ) == (low > 0)
    assert ("keep it: how far it could be raised is unknown" in str(advice)) == (low == 0)
    assert ("The low end of the range is 0" in str(advice)) == (low == 0)


def test_an_optimizer_without_a_law() -> None:
    history = made([NAN] * 20, law=lambda lr: NAN)
    for step in range(0, 200, 10):
        history.note(step, "Lion: the sign of a gradient does not grow with it")
    assert "has no stability law" in str(advise(history))
    assert "Lion: the sign" in str(advise(history))


def test_doubtful_readings_are_left_out(tmp_path: Path) -> None:
    history = made([0.1] * 12 + [0.9] * 4 + [0.1] * 4)
    history.doubt(120, ["curvature/stability_ratio"])
    for step in (130, 140, 150):
        history.doubt(step, ["curvature/stability_ratio", "curvature/loss"])
    advice = advise(history).only
    assert advice.learning_rate == pytest.approx(0.1)
    assert "4 readings are left out: doubtful, or with a large residual" in str(advice)
    again = History.load(history.save(tmp_path / "run"))
    assert again.doubtful == history.doubtful
    assert str(advise(again)) == str(advice)
    resumed = History()
    resumed.load_state_dict(history.state_dict())
    assert resumed.doubtful == history.doubtful


def test_several_optimizers_and_groups() -> None:
    history = made([0.1] * 20, suffix="-SGD")
    made([0.2] * 20, suffix="-Adam", law=lambda lr: 38 / lr, into=history)
    for step in range(0, 200, 10):
        history.record(step, {"curvature/edge-Adam/pg1": 200.0, "curvature/edge-Adam/pg2": 2000.0})
        history.record(step, {"curvature/edge-Adam/frozen": NAN})
    advices = advise(history)
    assert list(advices) == ["-SGD", "-Adam/pg1", "-Adam/pg2", "-Adam/frozen"]
    assert advices["-SGD"].learning_rate == pytest.approx(0.1)
    assert advices["-Adam/pg1"].learning_rate == pytest.approx(0.05)
    assert advices["-Adam/pg2"].learning_rate == pytest.approx(0.005)
    assert advices["-Adam/pg2"].factor == pytest.approx(5)
    assert "the 0.001 of this run" in str(advices["-Adam/pg2"])
    assert "a median of 0.2 at learning rate 0.001, and" in str(advices["-Adam/pg2"])
    assert not advices["-Adam/frozen"].given
    assert str(advices).startswith("SGD\nLearning rate 0.1")
    with pytest.raises(ValueError, match="'-SGD', '-Adam/pg1'"):
        _ = advices.only


def test_units_of_time_do_not_matter_and_steps_may_be_missing() -> None:
    chi = [0.3] * 5 + [0.1] * 15
    with_steps, without = (advise(made(chi, s=s)).only for s in (0.001, None))
    assert without.learning_rate == with_steps.learning_rate
    assert "Steps were not read" in str(without)
    # the same landscape, probed with a tenth of the learning rate
    other = advise(made([c / 10 for c in chi], lr=0.001, s=None)).only
    assert other.learning_rate == pytest.approx(without.learning_rate)
    assert other.factor == pytest.approx(10 * without.factor)


# real runs


def test_the_dense_hessian_of_a_run_on_digits_agrees() -> None:
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels[:200]) / 16, torch.tensor(classes[:200])
    net = nn.Sequential(nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 10)).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)

    def loss_fn(net: nn.Module, batch: Tensor) -> Tensor:
        return F.cross_entropy(net(batch), y)

    kept = {}
    with Watch(net, optimizer, loss_fn, every_n_steps=40, alerts="off") as watch:
        for step in range(400):
            if step % 40 == 0 and step >= 200:
                kept[step] = nn.utils.parameters_to_vector(net.parameters()).detach()
            optimizer.zero_grad()
            loss_fn(net, x).backward()
            optimizer.step()
            watch.step(x)
    rates = []
    for weights in kept.values():
        H = torch.autograd.functional.hessian(_flat_loss(net, x, y), weights)
        rates.append(2 / float(torch.linalg.eigvalsh(H)[-1]))
    advice = watch.advice().only
    assert advice.given, str(advice)
    first, last = (np.median(part) for part in np.array_split(rates, 2))
    assert advice.learning_rate == pytest.approx(min(first, last), rel=advice.evidence["error"] + 1e-6)
    strays_apart = [np.median(rates[i : i + 3]) for i in range(len(rates) - 2)]
    assert advice.low == pytest.approx(min(strays_apart), rel=2 * advice.evidence["error"] + 1e-6)
    assert advice.high == pytest.approx(max(strays_apart), rel=2 * advice.evidence["error"] + 1e-6)


def _flat_loss(net: nn.Sequential, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    named = list(net.named_parameters())

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([p.numel() for _, p in named])
        given = {name: part.view_as(p) for (name, p), part in zip(named, parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(net, given, (x,)), y)

    return loss


def test_the_monitor_gives_it() -> None:
    monitor = CurvatureMonitor(every_n_steps=1, alerts="off")
    fit(Classifier(), monitor, data=batches(48))
    advice = monitor.advice()
    assert str(advice) == str(advise(monitor.history))
    assert advice.only.sentences


# the command


def test_the_command_reads_any_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = made([0.5] * 4 + [0.1] * 16, s=None)
    values = {name: list(history[name].values) for name in history}
    history.save(tmp_path / "saved" / "run")
    logs.tensorboard(tmp_path / "board" / "run", values)
    told = {}
    for kind in ("saved", "board"):
        assert cli.main(["advise", str(tmp_path / kind)]) == 0
        told[kind] = capsys.readouterr().out.splitlines()
    assert told["saved"][0] == told["board"][0] == "run"
    assert told["saved"][1:] == told["board"][1:]
    assert told["saved"][1].startswith(
        "  Learning rate 0.1 (0.0999 to 0.1), 10 times the 0.01 of this run"
    )
    assert "Hold 0.02 until step 30, then warm up to it until step 40" in told["saved"][2]


def test_the_command_says_what_it_cannot_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["advise", str(tmp_path / "nothing")]) == 1
    assert "there is no such file or folder" in capsys.readouterr().err
    doubtful = made([0.1] * 20)
    for step in range(0, 200, 10):
        doubtful.doubt(step, ["curvature/stability_ratio"])
    doubtful.save(tmp_path / "doubtful")
    assert cli.main(["advise", str(tmp_path)]) == 0
    assert "No advice: 0 of 20 readings" in capsys.readouterr().out


def test_curves_need_no_history() -> None:
    history = made([0.1] * 20)
    assert str(advise_curves({name: history[name] for name in history})) == str(advise(history))
