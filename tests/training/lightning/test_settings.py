"""The logged edge is that of the settings each step was really made with."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from curvwatch import CurvatureMonitor
from tests.support.modules import FEATURES, Classifier, batches, fit, mlp, told


class AtTheStep(pl.Callback):
    """What the optimizer is about to step with, noted by a hook of its own."""

    def __init__(self, note: Any) -> None:
        self.note = note
        self.noted: list[Any] = []
        self.limit: float | None = None

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.noted.append(self.note(pl_module, optimizer.param_groups[0]))


def read(module: Classifier, note: Any, **options: Any) -> tuple[Any, np.ndarray]:
    """The history, and what was noted at each step."""
    monitor, seen = CurvatureMonitor(["sharpness"], every_n_steps=1, on_error="raise"), AtTheStep(note)
    fit(module, monitor, seen, **options)
    return monitor.history, np.array(seen.noted)


class OneCycle(Classifier):
    """Learning rate and momentum (or the first beta) go round in opposite directions."""

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=8)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def test_one_cycle_with_momentum() -> None:
    module = OneCycle(optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    history, noted = read(module, lambda _, g: (g["lr"], g["momentum"]), data=batches(28), max_steps=7)
    lr, momentum = noted.T
    assert len(set(lr)) == 7
    assert len(set(momentum)) > 5
    np.testing.assert_allclose(history["curvature/edge"].values, 2 / lr, rtol=1e-12)
    np.testing.assert_allclose(history["curvature/effective_edge"].values, 2 * (1 + momentum) / lr)
    np.testing.assert_allclose(
        history["curvature/sharpness_x_lr"].values, lr * history["curvature/sharpness"].values
    )


def test_one_cycle_with_betas() -> None:
    module = OneCycle(optimizer=lambda p: torch.optim.Adam(p, lr=0.1))
    history, noted = read(module, lambda _, g: (g["lr"], g["betas"][0]), data=batches(28), max_steps=7)
    lr, beta = noted.T
    edge = 2 * (1 + beta) / ((1 - beta) * lr)
    np.testing.assert_allclose(history["curvature/effective_edge"].values[1:], edge[1:], rtol=1e-12)


def gradient_norm(module: Any, _: Any) -> float:
    return float(torch.cat([p.grad.reshape(-1) for p in module.parameters()]).double().norm())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_clipping_by_norm_divides_the_learning_rate(momentum: float) -> None:
    module = Classifier(optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=momentum))
    history, norms = read(module, gradient_norm, data=batches(48), max_steps=12, gradient_clip_val=0.8)
    assert (norms > 0.8).any()
    assert (norms < 0.8).any()
    scale = np.minimum(1, 0.8 / (norms + 1e-6))
    edge = 2 * (1 + momentum) / (0.1 * scale)
    np.testing.assert_allclose(history["curvature/effective_edge"].values, edge, rtol=1e-5)
    np.testing.assert_allclose(
        history["curvature/stability_ratio"].values,
        history["curvature/sharpness"].values / edge,
        rtol=1e-5,
    )


class ClipsInItsHook(Classifier):
    def configure_gradient_clipping(self, optimizer: Any, **options: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=0.3, gradient_clip_algorithm="norm")


@pytest.mark.parametrize("foreach", [False, True])
def test_momentum_that_a_step_adds_to_the_gradient_is_no_clipping(foreach: bool) -> None:
    monitor = CurvatureMonitor(["sharpness"], every_n_steps=1)

    def nesterov(params: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True, foreach=foreach)

    fit(Classifier(optimizer=nesterov), monitor)
    edges = monitor.history["curvature/effective_edge"].values
    assert edges == pytest.approx([2 * 1.9 / (2.8 * 0.1)] * 6, rel=1e-6)


def test_clipping_in_the_modules_own_hook_is_measured() -> None:
    history, norms = read(ClipsInItsHook(), gradient_norm, data=batches(24))
    scale = np.minimum(1, 0.3 / (norms + 1e-6))
    np.testing.assert_allclose(history["curvature/effective_edge"].values, 20 / scale, rtol=1e-5)


def test_clipping_by_value_has_no_edge_and_says_so() -> None:
    monitor = CurvatureMonitor(every_n_steps=1, on_error="raise")
    options = {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}
    fit(Classifier(), monitor, data=batches(12), **options)
    assert np.isnan(monitor.history["curvature/effective_edge"].values).all()
    assert np.isnan(monitor.history["curvature/stability_ratio"].values).all()
    assert np.isfinite(monitor.history["curvature/sharpness"].values).all()
    assert np.isfinite(monitor.history["step/stability_ratio"].values).all()
    assert "clipped by value" in monitor.history.notes[0].text


def test_accumulation_measures_the_rate_of_the_whole_step() -> None:
    history, noted = read(
        OneCycle(optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5)),
        lambda _, g: (g["lr"], g["momentum"]),
        data=batches(48),
        accumulate_grad_batches=3,
    )
    lr, momentum = noted.T
    assert history["curvature/edge"].steps.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(history["curvature/effective_edge"].values, 2 * (1 + momentum) / lr)


def test_a_learning_rate_of_zero_at_the_start_of_a_warmup_has_no_edge() -> None:
    class Warmup(Classifier):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.4)
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 4)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    monitor = CurvatureMonitor(every_n_steps=1, on_error="raise")
    fit(Warmup(), monitor, data=batches(16))
    edges = monitor.history["curvature/effective_edge"].values
    np.testing.assert_allclose(edges, [np.nan, 20, 10, 20 / 3], rtol=1e-6)
    assert monitor.history["curvature/sharpness_x_lr"].values[0] == 0
    assert monitor.history["step/update_norm"].values[0] == 0
    texts = [n.text for n in monitor.history.notes]
    assert "learning rate is 0" in " ".join(texts)
    assert "the step did not move the weights" in texts


class Groups(Classifier):
    """Three groups of their own rates, momenta and decays; the last is frozen."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(FEATURES, 5), nn.Tanh(), nn.Linear(5, 3)))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)

    def configure_optimizers(self) -> Any:
        groups = [
            {"params": self.net[0].parameters(), "lr": 0.3, "momentum": 0.9, "weight_decay": 0.05},
            {"params": self.net[2].parameters(), "lr": 0.02, "name": "head"},
            {"params": self.frozen.parameters(), "lr": 9.0},
        ]
        return torch.optim.SGD(groups, lr=0.1)


def test_groups_with_settings_of_their_own() -> None:
    from torch.func import functional_call

    module = Groups().double()
    before: list[Any] = []

    class Weights(pl.Callback):
        def on_train_batch_start(
            self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
        ) -> None:
            before.append([p.detach().clone() for p in pl_module.net.parameters()])

    x, y = batches(8, batch_size=8).dataset.tensors
    monitor = CurvatureMonitor(["sharpness"], every_n_steps=1, on_error="raise")
    fit(module, Weights(), monitor, data=DataLoader([(x.double(), y)] * 4, batch_size=None))
    names = [n for n, _ in module.net.named_parameters()]
    for step, weights in enumerate(before):
        shapes = [w.shape for w in weights]

        def loss(flat: torch.Tensor, shapes: Any = shapes) -> torch.Tensor:
            parts = flat.split([s.numel() for s in shapes])
            named = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
            return F.cross_entropy(functional_call(module.net, named, (x.double(),)), y)

        flat = torch.cat([w.reshape(-1) for w in weights])
        H = torch.autograd.functional.hessian(loss, flat)
        first = torch.arange(len(flat)) < 5 * FEATURES + 5
        lr = torch.where(first, 0.3, 0.02).double()
        edge = torch.where(first, 2 * 1.9 / 0.3, 2 / 0.02).double()
        decay = torch.where(first, 0.05, 0.0).double()
        ratio = torch.linalg.eigvals((H + torch.diag(decay)) / edge[:, None]).real.max()
        values = {name: monitor.history[name].values[step] for name in monitor.history}
        assert values["curvature/stability_ratio"] == pytest.approx(float(ratio), rel=1e-3)
        x_lr = torch.linalg.eigvals(lr[:, None] * H).real.max()
        assert values["curvature/sharpness_x_lr"] == pytest.approx(float(x_lr), rel=1e-3)
        assert values["curvature/edge"] == pytest.approx(2 / 0.3)
        assert values["curvature/edge/pg1"] == pytest.approx(2 / 0.3)
        assert values["curvature/edge/head"] == pytest.approx(2 / 0.02)


class Gan(pl.LightningModule):
    """Two networks and two optimizers, each with a schedule of its own, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, FEATURES))
        self.critic = mlp()
        self.rates: dict[str, list[float]] = {"generator": [], "critic": []}

    def noise(self, batch: Any) -> torch.Tensor:
        return batch[0][:, :2]

    def generator_loss(self, batch: Any) -> torch.Tensor:
        return F.softplus(-self.critic(self.generator(self.noise(batch)))[:, 0]).mean()

    def critic_loss(self, batch: Any) -> torch.Tensor:
        fake = self.generator(self.noise(batch)).detach()
        real = F.softplus(-self.critic(batch[0])[:, 0]).mean()
        return real + F.softplus(self.critic(fake)[:, 0]).mean()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers, schedulers = self.optimizers(), self.lr_schedulers()
        for name, optimizer, scheduler in zip(self.rates, optimizers, schedulers, strict=True):
            self.toggle_optimizer(optimizer)
            loss = getattr(self, f"{name}_loss")(batch)
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.rates[name].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            self.untoggle_optimizer(optimizer)
            scheduler.step()

    def configure_optimizers(self) -> Any:
        g = torch.optim.Adam(self.generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
        c = torch.optim.SGD(self.critic.parameters(), lr=0.05, momentum=0.3)
        return [g, c], [torch.optim.lr_scheduler.ExponentialLR(o, 0.9) for o in (g, c)]


def test_each_optimizer_of_a_gan_has_its_own_law_on_its_own_weights() -> None:
    module = Gan()
    losses = [lambda m, b: m.generator_loss(b), lambda m, b: m.critic_loss(b)]
    monitor = CurvatureMonitor(every_n_steps=1, loss_fn=losses, on_error="raise")
    fit(module, monitor, data=batches(20))
    history = monitor.history
    for name, suffix in (("generator", "-Adam"), ("critic", "-SGD")):
        lr = np.array(module.rates[name])
        edge = 2 * 1.5 / (0.5 * lr) if suffix == "-Adam" else 2 * 1.3 / lr
        logged = history["curvature/effective_edge" + suffix].values
        first = 1 if suffix == "-Adam" else 0  # a preconditioner of one gradient is none
        np.testing.assert_allclose(logged[first:], edge[first:], rtol=1e-12)
        np.testing.assert_allclose(history["curvature/edge" + suffix].values, 2 / lr)
        ratio = history["curvature/effective_sharpness" + suffix].values / edge
        np.testing.assert_allclose(history["curvature/stability_ratio" + suffix].values, ratio)
        assert (history["step/update_norm" + suffix].values > 0).all()
    np.testing.assert_allclose(
        history["curvature/effective_sharpness-SGD"].values, history["curvature/sharpness-SGD"].values
    )


@pytest.mark.parametrize(
    ("optimizer", "reason"),
    [
        (lambda p: torch.optim.Rprop(p, lr=0.01), "Rprop"),
        (lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=2), "LBFGS"),
    ],
)
def test_an_optimizer_without_a_law_gets_no_made_up_edge(optimizer: Any, reason: str) -> None:
    monitor = CurvatureMonitor(every_n_steps=1, on_error="raise")
    fit(Classifier(optimizer=optimizer), monitor, data=batches(12))
    for name in ("effective_edge", "effective_sharpness", "stability_ratio"):
        assert np.isnan(monitor.history[f"curvature/{name}"].values).all()
    assert np.isfinite(monitor.history["curvature/sharpness"].values).all()
    assert np.isfinite(monitor.history["step/stability_ratio"].values).all()
    assert reason in monitor.history.notes[0].text


@pytest.mark.parametrize("name", ["Adam", "Adagrad", "RMSprop", "Adadelta", "Adafactor", "Adamax"])
def test_a_preconditioner_of_one_gradient_is_not_shown_as_one(name: str) -> None:
    monitor = CurvatureMonitor(["sharpness"], every_n_steps=1, on_error="raise")
    fit(Classifier(optimizer=getattr(torch.optim, name)), monitor, data=batches(16))
    ratios = monitor.history["curvature/stability_ratio"].values
    assert np.isnan(ratios).tolist() == [True, False, False, False]
    assert "one gradient alone" in monitor.history.notes[0].text


def test_a_parameter_that_is_unfrozen_leaves_out_one_reading_too() -> None:
    class Unfreezes(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.net[0].requires_grad_(batch_idx >= 2)

    module = Unfreezes(optimizer=lambda p: torch.optim.Adam(p, lr=1e-2))
    module.net[0].requires_grad_(False)
    monitor = CurvatureMonitor(["sharpness"], every_n_steps=1, on_error="raise")
    fit(module, monitor, data=batches(20))
    ratios = monitor.history["curvature/stability_ratio"].values
    assert np.isnan(ratios).tolist() == [True, False, True, False, False]


class Changes(Classifier):
    """Changes its gradient between backward and step."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.change = change

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.change(self.net)


def _only_the_last_layer(net: Any) -> None:
    torch.nn.utils.clip_grad_norm_(net[-1].parameters(), 1e-3)


def _clamped(net: Any) -> None:
    largest = max(float(p.grad.abs().max()) for p in net.parameters())
    torch.nn.utils.clip_grad_value_(net.parameters(), 0.5 * largest)


def _times_three(net: Any) -> None:
    for p in net.parameters():
        p.grad.mul_(3.0)


def _clipped_and_one_cancelled(net: Any) -> None:
    for p in net.parameters():
        p.grad.mul_(0.1)
    net[-1].bias.grad = None


def _reversed(net: Any) -> None:
    for p in net.parameters():
        p.grad.neg_()


@pytest.mark.parametrize("change", [_only_the_last_layer, _clamped, _reversed])
def test_a_gradient_that_is_turned_has_no_edge(change: Any) -> None:
    monitor = CurvatureMonitor(["sharpness"], every_n_steps=1, on_error="raise")
    fit(Changes(change), monitor)
    assert np.isnan(monitor.history["curvature/effective_edge"].values).all()
    assert "not by one factor for all weights" in monitor.history.notes[0].text


@pytest.mark.parametrize(("change", "k"), [(_times_three, 3.0), (_clipped_and_one_cancelled, 0.1)])
def test_a_gradient_that_is_scaled_by_hand_moves_the_edge(change: Any, k: float) -> None:
    monitor = CurvatureMonitor(["sharpness"], every_n_steps=1, on_error="raise")
    fit(Changes(change), monitor)
    edges = monitor.history["curvature/effective_edge"].values
    np.testing.assert_allclose(edges, 20 / k, rtol=1e-5)


def test_a_gradient_of_zero_after_clipping_is_told() -> None:
    monitor = CurvatureMonitor(["sharpness"], every_n_steps=1, on_error="raise")
    fit(Changes(lambda net: [p.grad.zero_() for p in net.parameters()]), monitor)
    assert np.isnan(monitor.history["curvature/effective_edge"].values).all()
    assert "scaled to 0" in monitor.history.notes[0].text


def test_clipping_before_any_hook_is_told() -> None:
    class ClipsEarly(Classifier):
        def on_after_backward(self) -> None:
            torch.nn.utils.clip_grad_norm_(self.parameters(), 0.05)

    monitor = CurvatureMonitor(every_n_steps=1)
    with told() as warnings:
        fit(ClipsEarly(), monitor)
    (warning,) = warnings
    assert "times that of its loss" in warning
    assert "curvature/effective_edge ignores this factor" in warning
