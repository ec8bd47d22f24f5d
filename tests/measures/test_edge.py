"""Edge of stability on real runs: scikit-learn's digits, whole batch, as Cohen et al. 2021 and 2022."""

from __future__ import annotations

from functools import partial

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from curvwatch import CurvatureMonitor
from curvwatch.cli.demo.digits import DigitsNet, whole_data_set

pytestmark = [
    pytest.mark.slow,
    pytest.mark.study,
    # the user's own values are logged once, on purpose
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]

EVERY = 20


def history_of(optimizer, steps):
    torch.manual_seed(0)
    module = DigitsNet(optimizer)
    monitor = CurvatureMonitor(["sharpness"], every_n_steps=EVERY, on_error="raise")
    L.Trainer(
        max_steps=steps,
        max_epochs=-1,
        callbacks=[monitor],
        logger=L.pytorch.loggers.CSVLogger("."),
        log_every_n_steps=steps,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    ).fit(module, DataLoader([whole_data_set()] * steps, batch_size=None))  # one long epoch is faster
    return monitor.history


def at_the_edge(ratios):
    """The readings after the ratio first passes .95."""
    passed = np.flatnonzero(ratios > 0.95)
    assert len(passed), f"never reached the edge: at most {np.nanmax(ratios):.3f}"
    after = ratios[passed[0] + 1 :]
    assert len(after) >= 20
    return after


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_gradient_descent_hovers_at_two_over_lr():
    history = history_of(lambda p: torch.optim.SGD(p, lr=0.2), 1400)
    ratios = history["curvature/stability_ratio"].values
    assert 0.95 <= np.median(at_the_edge(ratios)) <= 1.06
    sharpness, edge = history["curvature/sharpness"].values, history["curvature/edge"].values
    np.testing.assert_allclose(ratios, sharpness / edge)
    assert np.all(edge == 10.0)


def test_gradient_descent_with_half_the_rate_stays_below():
    ratios = history_of(lambda p: torch.optim.SGD(p, lr=0.1), 1000)["curvature/stability_ratio"].values
    assert ratios.max() < 0.85
    assert ratios[-1] > 2 * ratios[0]  # it sharpens, but not so far


@pytest.mark.parametrize(
    ("optimizer", "steps", "low", "high"),
    [
        (partial(torch.optim.SGD, lr=0.2, momentum=0.9), 940, 0.90, 1.05),
        (partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True), 680, 0.93, 1.08),
        (partial(torch.optim.AdamW, lr=1e-3, eps=1e-7), 1000, 0.93, 1.08),
    ],
    ids=["heavy ball", "nesterov", "adamw"],
)
def test_others_hover_at_their_own_edge(optimizer, steps, low, high):
    ratios = history_of(optimizer, steps)["curvature/stability_ratio"].values
    assert low <= np.median(at_the_edge(ratios)) <= high


def test_adam_hovers_at_its_own_edge_while_plain_sharpness_rises():
    history = history_of(lambda p: torch.optim.Adam(p, lr=1e-3, eps=1e-7), 1200)
    ratios = history["curvature/stability_ratio"]
    after = at_the_edge(ratios.values)
    assert 0.95 <= np.median(after) <= 1.05
    sharpness = history["curvature/sharpness"].values
    assert sharpness[-1] > 5 * sharpness[0]
    there = sharpness[-len(after) :]
    assert np.median(there[-10:]) > 1.1 * np.median(there[:10])  # and goes on rising at the edge
    assert sharpness.max() < history["curvature/edge"].values[0] / 20  # 2/lr says nothing here
