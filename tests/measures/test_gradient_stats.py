"""Statistics of the gradient against plain ones, in a Trainer and in a loop, clipped and scaled."""

from __future__ import annotations

import math

import lightning as L
import pytest
import torch
from torch import nn

from curvwatch import CurvatureMonitor, Watch
from curvwatch.measures.gradient_stats import GradientStats
from tests.measures.points import objective_of, step
from tests.support.cases import CASES, dense, flat
from tests.support.modules import Classifier, batches, fit


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("name", CASES)
def test_values_equal_the_plain_ones_and_cost_no_gradient(name):
    case = CASES[name]
    model = case.model()
    batch = case.batch(6)
    w = flat(list(model.parameters()))
    g = dense(case, model, [batch], w).gradient
    used = g.clamp(-0.01, 0.01)
    d = -0.1 * used
    objective = objective_of(case, model, [batch])
    measure = GradientStats(by="parameter", near_zero=0.2)
    with step(objective, d, gradient=g, used=used) as at:
        reading = measure.read(at)
    counts = objective.counts
    assert (counts.forwards, counts.gradients, counts.products) == (0, 0, 0)
    assert set(reading.values) == set(measure.metrics_of(model, list(model.parameters())))
    limit = 0.2 * used.square().mean().sqrt()

    def expected(part):
        return {
            "gradient_norm": g[part].norm(),
            "clipped_gradient_norm": used[part].norm(),
            "gradient_near_zero": (used[part].abs() <= limit).double().mean(),
            "update_to_weight": d[part].norm() / w[part].norm() if w[part].any() else math.nan,
        }

    twin = {"step/" + k: v for k, v in expected(slice(None)).items()}
    twin["step/gradient_mean"], twin["step/gradient_std"] = used.mean(), used.std(correction=0)
    place = 0
    for parameter, p in model.named_parameters():
        part = slice(place, place := place + p.numel())
        twin.update({f"step/layer/{parameter}/{k}": v for k, v in expected(part).items()})
    assert reading.values == pytest.approx(
        {k: float(v) for k, v in twin.items()}, rel=1e-9, abs=1e-12, nan_ok=True
    )


class Seen(L.Callback):
    """Norms of the gradient before and after clipping, and of the update, as a user would take them."""

    def __init__(self):
        self.before, self.after, self.ratio = [], [], []

    @staticmethod
    def norm(tensors):
        return float(torch.cat([t.detach().reshape(-1) for t in tensors]).norm())

    def on_train_batch_start(self, trainer, pl_module, *_):
        self.w = [p.detach().clone() for p in pl_module.parameters()]

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.before.append(self.norm([p.grad for p in pl_module.parameters()]))

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.after.append(self.norm([p.grad for p in pl_module.parameters()]))
        moved = [p - w for p, w in zip(pl_module.parameters(), self.w, strict=True)]
        self.ratio.append(self.norm(moved) / self.norm(self.w))


def foreach_nesterov(params):
    return torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True, foreach=True)


@pytest.mark.parametrize("options", [{}, {"gradient_clip_val": 0.05}, {"accumulate_grad_batches": 2}])
def test_in_a_trainer_they_are_those_of_training(options):
    seen = Seen()
    monitor = CurvatureMonitor([GradientStats()], every_n_steps=1, on_error="raise")
    trainer = fit(Classifier(), seen, monitor, max_steps=3, **options)
    h = monitor.history
    assert h["step/gradient_norm"].values == pytest.approx(seen.before, rel=1e-5)
    clipped = h["step/clipped_gradient_norm"].values
    if "gradient_clip_val" in options:
        assert clipped == pytest.approx([0.05] * 3, rel=1e-3)
        assert min(seen.before) > 0.06
    else:
        assert clipped == pytest.approx(h["step/gradient_norm"].values, rel=1e-6)
    if "accumulate_grad_batches" not in options:
        assert clipped == pytest.approx(seen.after, rel=1e-5)
        assert h["step/update_to_weight"].values == pytest.approx(seen.ratio, rel=1e-4)
    parts = [h[f"step/layer/net.{i}/gradient_norm"].values for i in (0, 3)]
    assert (parts[0] ** 2 + parts[1] ** 2) ** 0.5 == pytest.approx(seen.before, rel=1e-5)
    keys = trainer.logger.keys() - {"train_loss", "epoch"}
    module = Classifier()
    assert keys == set(GradientStats().metrics_of(module, list(module.parameters())))


def test_a_nesterov_step_that_adds_its_momentum_to_the_gradient_is_seen_through():
    monitor = CurvatureMonitor([GradientStats()], every_n_steps=1, on_error="raise")
    fit(Classifier(optimizer=foreach_nesterov), monitor, max_steps=4)
    h = monitor.history
    assert h["step/clipped_gradient_norm"].values == pytest.approx(
        h["step/gradient_norm"].values, rel=1e-4
    )


def test_under_a_gradient_scaler_they_are_unscaled():
    from lightning.pytorch.plugins.precision import MixedPrecision

    values = []
    for plugins in (None, [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]):
        monitor = CurvatureMonitor([GradientStats()], every_n_steps=1, on_error="raise")
        torch.manual_seed(3)
        fit(Classifier(), monitor, max_steps=2, plugins=plugins, gradient_clip_val=0.1)
        h = monitor.history
        values.append([*h["step/gradient_norm"].values, *h["step/clipped_gradient_norm"].values])
    assert values[1] == pytest.approx(values[0], rel=0.02)


def test_in_a_loop_the_gradient_that_the_optimizer_got_is_known_and_nothing_is_evaluated():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    calls, norms = [], []

    def loss_fn(model, batch):
        calls.append(1)
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    measures = [GradientStats()]
    with Watch(model, optimizer, loss_fn, measures, every_n_steps=1, on_error="raise") as watch:
        for batch in batches(12):
            loss_fn(model, batch).backward()
            norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.1)))
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
            values = watch.step(batch)
            assert values["step/clipped_gradient_norm"] == pytest.approx(0.1, rel=1e-3)
            assert math.isnan(values["step/gradient_norm"])
    assert min(norms) > 0.11
    assert len(calls) == 3
    assert any("before clipping" in text for _, text in watch.history.notes)


def test_a_step_by_lbfgs_has_no_single_gradient():
    def lbfgs(params):
        return torch.optim.LBFGS(params, max_iter=3)

    monitor = CurvatureMonitor([GradientStats()], every_n_steps=1, on_error="raise")
    fit(Classifier(optimizer=lbfgs), monitor, max_steps=2)
    assert all(math.isnan(v) for v in monitor.history["step/clipped_gradient_norm"].values)
    assert all(v > 0 for v in monitor.history["step/update_to_weight"].values)


@pytest.mark.parametrize("options", [{"by": 3}, {"near_zero": -1}, {"near_zero": "small"}])
def test_arguments_are_checked(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        GradientStats(**options)
