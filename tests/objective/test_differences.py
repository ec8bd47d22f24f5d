"""Hessian-vector products by differences of gradients, where they are asked for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from curvwatch import CurvatureMonitor, CurvwatchError, Objective, Sharpness, StepGeometry
from tests.support.cases import CASES, dense, flat
from tests.support.modules import CLASSES, FEATURES, Classifier, batches, examples, fit, told
from tests.support.studies import without


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("sizes", [[6], [6, 3]], ids=["one_batch", "uneven_batches"])
def test_products_equal_the_dense_twin(name, sizes):
    torch.manual_seed(0)
    case = CASES[name]
    model = case.model()
    given = [case.batch(n) for n in sizes]
    twin = dense(case, model, given, flat(list(model.parameters())))
    objective = Objective.of_batches(
        model, lambda b: case.loss(model(b[0]), b[1]), given, hvp="difference"
    )
    v = torch.randn(objective.layout.size)
    with objective.open() as f:
        point = f.linearize()
        assert point.loss == pytest.approx(twin.loss, rel=1e-12)
        torch.testing.assert_close(point.gradient, twin.gradient, rtol=1e-9, atol=1e-12)
        for scale in (1.0, 1e-6, 1e6):  # whatever the length of v
            hv = point.product(scale * v) / scale
            assert (hv - twin.hessian @ v).norm() < 1e-6 * (twin.hessian @ v).norm()
        assert torch.equal(point.product(0 * v), 0 * v)
        assert (point.coarser(v) - twin.hessian @ v).norm() < 1e-6 * (twin.hessian @ v).norm()
        assert objective.counts.products == 5
        assert objective.counts.gradients == 1 + 2 * 4  # none for v = 0


@pytest.mark.usefixtures("double")
def test_the_standard_error_equals_that_of_exact_products():
    torch.manual_seed(0)
    case = CASES["mlp_mse"]
    model = case.model()
    given = [case.batch(n) for n in (6, 3, 4)]
    found = []
    for hvp in ("exact", "difference"):
        objective = Objective.of_batches(model, lambda b: case.loss(model(b[0]), b[1]), given, hvp=hvp)
        v = F.normalize(torch.ones(objective.layout.size), dim=0)
        with objective.open() as f:
            found.append(f.linearize().quotient_stderr(v))
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    assert found[0] > 0


def test_an_unknown_way_is_refused():
    for make in (CurvatureMonitor, lambda hvp: Objective(nn.Linear(1, 1), abs, [], hvp=hvp)):
        with pytest.raises(ValueError, match="hvp='finite': 'exact', or 'difference'"):
            make(hvp="finite")


class Bag(Classifier):
    """Without a second derivative in torch; `plain` writes the same function with embeddings."""

    def __init__(self, *, plain: bool = False) -> None:
        torch.manual_seed(1)
        super().__init__(nn.Sequential(nn.EmbeddingBag(9, 5), nn.Tanh(), nn.Linear(5, CLASSES)))
        self.plain = plain

    def loss(self, batch):
        x, y = batch
        words = (x * 3).long().clamp(-4, 4) + 4
        if self.plain:
            bag, *rest = self.net
            return F.cross_entropy(nn.Sequential(*rest)(bag.weight[words].mean(1)), y)
        return F.cross_entropy(self.net(words), y)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * (1 - y * y)


class OnceDifferentiable(Classifier):
    def __init__(self, *, plain: bool = False) -> None:
        torch.manual_seed(1)
        super().__init__()
        self.plain = plain

    def loss(self, batch):
        x, y = batch
        h = self.net[0](x)
        return F.cross_entropy(self.net[3](h.tanh() if self.plain else Once.apply(h)), y)


class Ctc(Classifier):
    """Connectionist temporal classification; `plain` sums over all alignments."""

    def __init__(self, *, plain: bool = False) -> None:
        torch.manual_seed(1)
        super().__init__(nn.Linear(FEATURES, 3))
        self.plain = plain

    def loss(self, batch):
        x, _ = batch
        logits = torch.stack([self.net(x), self.net(x.flip(1))]).log_softmax(-1)  # two frames
        if self.plain:  # the word "1" in two frames: 1-, -1 or 11
            p = logits.exp()
            word = p[0, :, 1] * p[1, :, 0] + p[0, :, 0] * p[1, :, 1] + p[0, :, 1] * p[1, :, 1]
            return -word.log().mean()
        n = len(x)
        ones = torch.ones(n, 1, dtype=torch.long)
        return F.ctc_loss(logits, ones, torch.full((n,), 2), torch.full((n,), 1))


# the once-differentiable one is a row of `tests/compat` too
@pytest.mark.parametrize("module", without([Bag, OnceDifferentiable, Ctc], leave=[OnceDifferentiable]))
def test_a_loss_without_a_second_derivative_is_measured_on_request(module):
    measures = [Sharpness(rtol=1e-6), StepGeometry()]
    monitors = []
    for plain in (True, False):
        hvp = "exact" if plain else "difference"
        monitors.append(CurvatureMonitor(measures, every_n_steps=1, hvp=hvp))
        fit(module(plain=plain), monitors[-1], precision="64-true")
    twin, ours = (m.history for m in monitors)
    for name in ("curvature/sharpness", "step/directional_sharpness", "step/loss_change"):
        assert ours[name].values == pytest.approx(twin[name].values, rel=1e-5, abs=1e-12), name


@pytest.mark.parametrize("module", [Bag, OnceDifferentiable, Ctc])
def test_it_is_never_measured_so_silently(module):
    monitor = CurvatureMonitor(every_n_steps=1)
    with told() as warnings:
        fit(module(), monitor)
    assert all("hvp='difference'" in text for text in warnings)
    assert all(math.isnan(v) for v in monitor.history["curvature/sharpness"].values)
    with pytest.raises(CurvwatchError, match="hvp='difference'"):
        fit(module(), CurvatureMonitor(every_n_steps=1, on_error="raise"))


def test_in_single_precision_the_value_carries_the_error_of_the_differences():
    fitted = []
    for hvp in ("exact", "difference"):
        monitor = CurvatureMonitor(["sharpness"], every_n_steps=1, hvp=hvp)
        torch.manual_seed(0)
        fit(Classifier(), monitor)
        fitted.append(monitor.history)
    exact, ours = fitted
    error = abs(ours["curvature/sharpness"].values / exact["curvature/sharpness"].values - 1)
    assert (error < 1e-3).all()
    assert (error <= 2 * ours["curvature/residual"].values + 1e-3).all()


def test_a_gradient_that_is_rounded_or_has_kinks_makes_the_value_doubtful():
    class Kinked(Classifier):
        """max(0, w - w0)^1.5 has a second derivative that grows without bound towards w0."""

        def __init__(self) -> None:
            super().__init__()
            self.start = [p.detach().clone() for p in self.parameters()]

        def loss(self, batch):
            away = sum(
                ((p - s).abs() + 1e-12).pow(1.5).sum()
                for p, s in zip(self.parameters(), self.start, strict=True)
            )
            return super().loss(batch) + away

    monitor = CurvatureMonitor(every_n_steps=1, hvp="difference")
    with told() as warnings:
        fit(Kinked(), monitor, data=batches(4), precision="64-true")
    assert any("curvature/sharpness is not to be trusted: differences" in text for text in warnings)
    assert [n.step for n in monitor.history.notes if "over twice the distance" in n.text] == [0]


def test_the_spread_of_several_batches_is_told_too():
    monitor = CurvatureMonitor(
        ["sharpness"], every_n_steps=3, hvp="difference", probe=[examples(4, seed=i)[:] for i in (1, 2)]
    )
    fit(Classifier(), monitor)
    assert (monitor.history["curvature/sharpness_stderr"].values > 0).all()
