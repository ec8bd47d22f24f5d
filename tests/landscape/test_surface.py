"""Surfaces against dense twins; what they are made from keeps every bit."""

from __future__ import annotations

import copy
import doctest
import random
import sys

import lightning.pytorch as pl
import numpy as np
import pytest
import pytorch_lightning as old_pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from curvwatch import CurvwatchError, Objective, landscape
from curvwatch.landscape import FunctionSurface, slice_1d, slice_2d, surface_of
from tests.landscape.surfaces import Bowl, bowl_objective, case_surface
from tests.support.cases import CASES, dense, flat
from tests.support.modules import FEATURES, Classifier, ClassifierMixin, ListLogger, batches, fit, mlp
from tests.support.trace import assert_same, picture, world

double = pytest.mark.usefixtures("double_precision")


@double
@pytest.mark.parametrize("name", CASES)
def test_loss_gradient_and_hessian_equal_the_dense_twin_at_any_weights(name):
    case = CASES[name]
    model = case.model()
    data = [case.batch(n) for n in (6, 3)]
    surface = surface_of(model, data, loss_fn=lambda m, b: case.loss(m(b[0]), b[1]), mode="train")
    assert torch.equal(surface.start, flat(list(model.parameters())))
    for w in (surface.start, surface.start + 0.1 * torch.randn(surface.size)):
        twin = dense(case, model, data, w)
        assert surface.loss(w) == pytest.approx(twin.loss, rel=1e-12)
        loss, gradient = surface.gradient(w)
        assert loss == pytest.approx(twin.loss, rel=1e-12)
        torch.testing.assert_close(gradient, twin.gradient, rtol=1e-9, atol=1e-12)
        v = torch.randn(surface.size)
        with surface.hessian(w) as H:
            torch.testing.assert_close(H.matvec(v), twin.hessian @ v, rtol=1e-8, atol=1e-11)
    assert surface.counts.forwards == 2


@double
def test_surfaces_of_a_function_an_objective_and_a_module_are_one():
    bowl = Bowl.drawn()
    w = torch.randn(13)
    expected = float(bowl(w))
    for surface in (bowl.surface(), surface_of(bowl_objective(bowl))):
        assert [(g.name, g.shape, g.start) for g in surface.groups] == [
            ("first", (2, 3), 0),
            ("bias", (3,), 6),
            ("second", (2, 2, 1), 9),
        ]
        assert torch.equal(surface.start, bowl.start)
        assert surface.groups[2].of(w).shape == (2, 2, 1)
        assert surface.loss(w) == pytest.approx(expected, rel=1e-14)
        torch.testing.assert_close(surface.gradient(w)[1], bowl.A @ w + bowl.b)
        with surface.hessian() as H:
            torch.testing.assert_close(H.matvec(w), bowl.A @ w)


def test_the_weights_are_met_without_rounding():
    # w1 + (w2 - w1) is another number in float32
    net = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1e6, 1.0]]))
    surface = surface_of(net, [torch.eye(2)], loss_fn=lambda m, x: m(x).sum())
    w = torch.tensor([0.1, 0.7])
    assert surface.loss(w) == float(w.sum())


def test_batches_count_by_their_examples():
    net = nn.Linear(1, 1, bias=False)
    data = [torch.ones(3, 1), torch.full((1, 1), 3.0)]
    surface = surface_of(net, data, loss_fn=lambda m, x: m(x).square().mean())
    assert surface.loss(torch.ones(1)) == pytest.approx((3 * 1 + 9) / 4)
    loader = DataLoader(torch.arange(5.0)[:, None], batch_size=2)
    surface = surface_of(net, loader, loss_fn=lambda m, x: m(x).mean())
    assert surface.loss(torch.ones(1)) == pytest.approx(2.0)
    few = surface_of(net, loader, loss_fn=lambda m, x: m(x).mean(), max_batches=1)
    assert few.loss(torch.ones(1)) == pytest.approx(0.5)


def test_the_generator_of_a_loader_is_put_back():
    loader = DataLoader(
        torch.arange(8.0)[:, None],
        shuffle=True,
        batch_size=2,
        generator=torch.Generator().manual_seed(1),
    )
    before = loader.generator.get_state()
    net = nn.Linear(1, 1)
    losses = [
        surface_of(net, loader, loss_fn=lambda m, x: m(x).square().mean(), max_batches=2).loss(
            torch.ones(2)
        )
        for _ in range(2)
    ]
    assert torch.equal(loader.generator.get_state(), before)
    assert losses[0] == losses[1]


class OldClassifier(ClassifierMixin, old_pl.LightningModule):
    pass


class Batchless(Classifier):
    """`training_step` without an index; its hook doubles the inputs."""

    def training_step(self, batch):
        self.log_dict({"a": 1.0})
        return {"loss": self.loss(batch)}

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return 2 * x, y


@pytest.mark.parametrize("kind", [Classifier, OldClassifier])
def test_the_loss_of_a_lightning_module_is_that_of_training_step(kind):
    module = kind()
    data = list(batches(10, batch_size=4))
    expected = sum(float(module.loss(b).detach()) * len(b[0]) for b in data) / 10
    surface = surface_of(module, data)
    assert surface.loss(surface.start) == pytest.approx(expected, rel=1e-6)


class AsksItsTrainer(Classifier):
    def training_step(self, batch, batch_idx):
        return self.loss(batch) / self.trainer.max_epochs


def test_a_step_that_needs_a_trainer_is_told():
    module = AsksItsTrainer()
    surface = surface_of(module, batches())
    with pytest.raises(CurvwatchError, match=r"asks for self\.trainer.*loss_fn"):
        surface.loss(surface.start)
    fit(module, max_epochs=2)
    surface = surface_of(module, batches())
    trained = surface_of(module, batches(), loss_fn=lambda m, b: m.loss(b))
    assert surface.loss(surface.start) == pytest.approx(trained.loss(surface.start) / 2)


def test_hooks_and_signatures_of_lightning_hold():
    module = Batchless()
    x, y = next(iter(batches(6, batch_size=6)))
    surface = surface_of(module, [(x, y)])
    expected = float(F.cross_entropy(module.net(2 * x), y).detach())
    assert surface.loss(surface.start) == pytest.approx(expected, rel=1e-6)


def test_a_module_that_was_just_trained_logs_nothing():
    logger = ListLogger()

    class Direct(Classifier):
        def training_step(self, batch, batch_idx):
            self.logger.log_metrics({"direct": 1.0}, step=batch_idx)
            return super().training_step(batch, batch_idx)

    module = Direct()
    trainer = fit(module, logger=logger)
    rows, metrics = list(logger.rows), dict(trainer.callback_metrics)
    surface = surface_of(module, batches())
    assert surface.loss(surface.start) > 0
    assert logger.rows == rows
    assert trainer.callback_metrics == metrics
    assert trainer.loggers == [logger]


class Talkative(nn.Module):
    """Counts, has dropout and batch norm, draws from everything, and fails where it is told to."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)
        )
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.calls = 0
        self.seen = []
        self.fails_at = None
        self.failure = KeyboardInterrupt

    def forward(self, x):
        self.calls += 1
        self.seen.append(len(x))
        if self.fails_at is not None and self.calls_in_all() > self.fails_at:
            raise self.failure
        noise = random.random() + np.random.rand() + float(torch.rand(()))
        return self.net(x) * self.frozen + noise

    def calls_in_all(self):
        COUNTED[0] += 1
        return COUNTED[0]


COUNTED = [0]


def _loss(module, batch):
    return F.cross_entropy(module(batch[0]), batch[1])


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("failure", [None, KeyboardInterrupt, ValueError])
def test_nothing_is_left_behind(mode, failure):
    module = Talkative()
    module.net[2].eval()  # one flag unlike the others
    data = batches(10, batch_size=4, shuffle=True)
    for p in module.parameters():
        p.grad = torch.randn_like(p) if p.requires_grad else None
    COUNTED[0] = 0
    module.failure = failure
    module.fails_at = 9 if failure else None
    before = [picture(module), world()]

    def call():
        return slice_2d(module, "gradient", points=3, batches=data, loss_fn=_loss, mode=mode)

    if failure:
        with pytest.raises(failure):
            call()
    else:
        result = call()
        assert np.isfinite(result.losses).all()
    assert_same([picture(module), world()], before)


def test_random_numbers_are_fixed_and_differ_from_batch_to_batch():
    module = Talkative()
    data = [next(iter(batches(4)))] * 2
    drawn = []

    def loss(m, batch):
        drawn.append(float(torch.rand(())))
        return _loss(m, batch)

    surface = surface_of(module, data, loss_fn=loss, mode="train")
    first = surface.loss(surface.start)
    torch.rand(5)
    with surface.open():
        assert surface.loss(surface.start) == first
        assert surface.gradient(surface.start)[0] == first
    assert drawn[0] == drawn[2] == drawn[4]
    assert drawn[0] != drawn[1]
    again = surface_of(module, data, loss_fn=loss, mode="train")
    assert again.loss(surface.start) == first
    other = surface_of(module, data, loss_fn=loss, mode="train", seed=5)
    assert other.loss(surface.start) != first


@double
def test_batch_norm_gets_the_statistics_of_the_weights_at_each_point():
    case = CASES["cnn_batchnorm"]
    model = case.model()
    data = [case.batch(6), case.batch(6)]

    def loss(m, b):
        return case.loss(m(b[0]), b[1])

    surface = surface_of(model, data, loss_fn=loss)
    w = surface.start + 0.3 * torch.randn(surface.size)
    twin = copy.deepcopy(model)
    torch.nn.utils.vector_to_parameters(w, twin.parameters())
    update_bn([x for x, _ in data], twin)
    twin.eval()
    expected = sum(float(loss(twin, b).detach()) for b in data) / 2
    before = surface.counts.forwards
    assert surface.loss(w) == pytest.approx(expected, rel=1e-12)
    assert surface.counts.forwards - before == 2  # one more
    gradient = torch.autograd.grad(sum(loss(twin, b) for b in data) / 2, list(twin.parameters()))
    torch.testing.assert_close(surface.gradient(w)[1], flat(list(gradient)), rtol=1e-9, atol=1e-12)
    # and without: those that the module has
    plain = surface_of(model, data, loss_fn=loss, recalibrate=False)
    fixed = copy.deepcopy(model).eval()
    torch.nn.utils.vector_to_parameters(w, fixed.parameters())
    assert plain.loss(w) == pytest.approx(
        sum(float(loss(fixed, b).detach()) for b in data) / 2, rel=1e-12
    )
    assert plain.counts.forwards == 1
    assert abs(plain.loss(w) - expected) > 1e-3


@double
def test_statistics_of_uneven_batches_are_weighted_and_those_kept_in_eval_mode_stay():
    class Kept(nn.Module):
        def __init__(self):
            super().__init__()
            self.free, self.kept = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
            self.kept.running_mean += 5.0

        def train(self, mode=True):
            super().train(mode)
            self.kept.eval()
            return self

        def forward(self, x):
            return self.kept(self.free(x))

    module = Kept()
    seen = []

    def loss(m, x):
        if not m.training:
            seen.append((m.free.running_mean, m.free.running_var, m.kept.running_mean))
        return m(x).square().mean()

    a, b = torch.randn(6, 2), torch.randn(3, 2)
    surface = surface_of(module, [a, b], loss_fn=loss)
    surface.loss(surface.start)
    for mean, var, kept in seen:
        torch.testing.assert_close(mean, (6 * a.mean(0) + 3 * b.mean(0)) / 9)
        torch.testing.assert_close(var, (6 * a.var(0) + 3 * b.var(0)) / 9)
        torch.testing.assert_close(kept, torch.full((2,), 5.0))
    assert len(seen) == 2


@double
def test_a_batch_of_one_example_gets_the_statistics_of_the_others():
    """As the last batch of a loader often is."""
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
    a, one = torch.randn(6, 3), torch.randn(1, 3)

    def loss(m, x):
        return m(x).square().mean()

    before = picture(module), world()
    surface = surface_of(module, [one, a], loss_fn=loss)
    found = surface.loss(surface.start)
    assert_same((picture(module), world()), before, "module")
    twin = copy.deepcopy(module)
    update_bn([a], twin)
    twin.eval()
    expected = (6 * float(loss(twin, a).detach()) + float(loss(twin, one).detach())) / 7
    assert found == pytest.approx(expected, rel=1e-12)
    alone = surface_of(module, [one], loss_fn=loss)
    with pytest.raises(CurvwatchError, match=r"larger batches, or recalibrate=False"):
        alone.loss(alone.start)
    trained = surface_of(module, [one], loss_fn=loss, mode="train")
    with pytest.raises(ValueError, match="more than 1 value per channel"):  # as in training
        trained.loss(trained.start)
    assert_same((picture(module), world()), before, "module")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(2)),
            r"1\.weight of the Sequential has no values",
        ),
        (nn.Sequential(nn.Linear(2, 2), nn.LazyBatchNorm1d()), r"1\.weight of .* is of a lazy layer"),
        (nn.Linear(2, 2, device="meta"), "weight of the Linear is on the meta device"),
    ],
)
def test_weights_without_values_are_refused_in_words(module, message):
    with pytest.raises(CurvwatchError, match=message):
        surface_of(module, [torch.ones(3, 2)], loss_fn=lambda m, x: m(x).sum())


def test_mode_of_an_objective_is_its_own_unless_told():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    objective = Objective.of_batches(module, lambda x: module(x).square().mean(), [torch.randn(4, 2)])
    assert surface_of(objective).recalibrates
    assert not surface_of(objective, mode="train").recalibrates
    assert not surface_of(objective, recalibrate=False).recalibrates
    assert objective.train is None
    assert objective.counts.forwards == 0
    surface = surface_of(objective)
    surface.loss(surface.start)
    assert objective.counts.forwards == 0
    assert surface_of(surface) is surface


class Manual(Classifier):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class FromIterator(Classifier):
    def training_step(self, dataloader_iter):
        return None


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: surface_of(mlp(), batches()), "Sequential is no LightningModule"),
        (lambda: surface_of(Classifier()), "batches are missing"),
        (lambda: surface_of(Classifier(), torch.zeros(3)), "put a single batch into a list"),
        (lambda: surface_of(Classifier(), []), "there is no batch"),
        (lambda: surface_of(Classifier(), batches(), mode="both"), "mode='both'"),
        (lambda: surface_of(Classifier(), batches(), max_batches=0), "max_batches=0"),
        (lambda: surface_of(Classifier(), batches(), loss_fn=3), "loss_fn=3"),
        (lambda: surface_of(3), "int: a LightningModule"),
        (lambda: surface_of(Manual(), batches()), "Manual optimizes by hand"),
        (lambda: surface_of(FromIterator(), batches()), "takes a dataloader_iter"),
        (lambda: surface_of(Bowl.drawn().surface(), batches()), "has its loss already"),
        (lambda: surface_of(bowl_objective(Bowl.drawn()), batches()), "an Objective has batches"),
        (
            lambda: surface_of(
                nn.Linear(1, 1).requires_grad_(False), [torch.zeros(1, 1)], loss_fn=_loss
            ),
            "no trainable parameter",
        ),
        (
            lambda: Bowl.drawn().surface().loss(torch.zeros(2)),
            r"shape \(2,\): a flat vector of shape \(13,\)",
        ),
        (lambda: FunctionSurface(torch.sum, torch.zeros(2, 2)), "a flat vector"),
        (lambda: FunctionSurface(torch.sum, torch.zeros(2), shapes=[("w", (3,))]), "3 entries in all"),
    ],
)
def test_what_does_not_fit_is_told(make, says):
    with pytest.raises((ValueError, CurvwatchError), match=says):
        make()


def test_a_hessian_of_an_open_surface_is_refused():
    surface = case_surface("mlp_mse")
    with surface.open(), pytest.raises(CurvwatchError, match="the surface is open"), surface.hessian():
        pass
    assert slice_1d(surface, points=3).forwards == 3


def test_examples_in_docstrings_hold():
    names = {**vars(landscape), "torch": torch, "nn": nn}
    modules = [
        sys.modules[f"curvwatch.landscape.{m}"] for m in ("surface", "module_surface", "slices.slices")
    ]
    results = [doctest.testmod(module, extraglobs=names) for module in modules]
    assert sum(r.attempted for r in results) == 8
    assert not any(r.failed for r in results)


def test_a_trained_module_of_lightning_leaves_no_trace():
    module = Classifier(mlp(0.5))
    fit(module)
    before = [picture(module), world()]
    slice_1d(module, points=3, batches=batches(8, shuffle=True), mode="train")
    assert_same([picture(module), world()], before)
    assert isinstance(module, pl.LightningModule)
