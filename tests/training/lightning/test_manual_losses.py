"""Manual optimization without a loss_fn: losses are told by what training_step sends backward."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curvwatch import CurvatureMonitor, CurvwatchError, Sharpness, StepGeometry
from tests.support.modules import TIMES, Classifier, fit, told
from tests.support.studies import only, without
from tests.support.trace import Witness, assert_same, state_of

GENERATOR, CRITIC = "-SGD", "-SGD-1"


class Adversaries(Classifier):
    """A generator and a critic on two features; keeps what each step did to its own loss."""

    automatic_optimization = False

    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.generator = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))
        self.critic = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
        self.noise = nn.Dropout(0.2)
        self.made: dict[str, list[tuple[int, float, float]]] = {GENERATOR: [], CRITIC: []}

    def configure_optimizers(self) -> Any:
        return (
            torch.optim.SGD(self.generator.parameters(), lr=0.3),
            torch.optim.SGD(self.critic.parameters(), lr=0.2, momentum=0.5),
        )

    def fake(self, batch: Any) -> Tensor:
        return self.generator(self.noise(torch.randn_like(batch[0][:, :2])))

    def generator_loss(self, fake: Tensor) -> Tensor:
        return F.softplus(-self.critic(fake)).mean()

    def critic_loss(self, batch: Any, fake: Tensor) -> Tensor:
        real = batch[0][:, :2]
        return F.softplus(-self.critic(real)).mean() + F.softplus(self.critic(fake)).mean()

    def backward_of(self, loss: Tensor) -> None:
        self.manual_backward(loss)

    def make_step(self, name: str, loss_of: Callable[[], Tensor], batch_idx: int) -> None:
        """One step of one player."""
        optimizer = self.optimizers()[[GENERATOR, CRITIC].index(name)]
        loss = loss_of()
        optimizer.zero_grad()
        self.backward_of(loss)
        optimizer.step()
        self.keep(name, batch_idx, loss, loss_of)

    def keep(self, name: str, batch_idx: int, loss: Tensor, loss_of: Callable[[], Tensor]) -> None:
        self.made[name].append((batch_idx, float(loss.detach()), float((loss_of() - loss).detach())))


class CriticFirst(Adversaries):
    """The order of PyTorch's tutorial: one fake for both, detached for the critic."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        fake = self.fake(batch)
        self.make_step(CRITIC, lambda: self.critic_loss(batch, fake.detach()), batch_idx)
        loss = self.generator_loss(fake)  # by the critic after its step
        optimizer = self.optimizers()[0]
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    loss_fns = (
        lambda m, b: m.generator_loss(m.fake(b)),
        lambda m, b: m.critic_loss(b, m.fake(b).detach()),
    )


class GeneratorFirst(Adversaries):
    """The critic sees what the generator made before its step, and a count that the step moved."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        generator, _ = self.optimizers()
        fake = self.fake(batch)
        loss = self.generator_loss(fake)
        generator.zero_grad()
        self.manual_backward(loss)
        generator.step()
        scale = 1 + self.global_step
        self.make_step(CRITIC, lambda: scale * self.critic_loss(batch, fake.detach()), batch_idx)


class StepsAtTheEnd(Adversaries):
    """Both losses are made, and sent backward, before the first step."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        generator, critic = self.optimizers()
        fake = self.fake(batch)
        losses = self.generator_loss(fake), self.critic_loss(batch, fake.detach())
        generator.zero_grad()
        losses[0].backward()
        critic.zero_grad()
        losses[1].backward()
        critic.step()
        self.keep(CRITIC, batch_idx, losses[1], lambda: self.critic_loss(batch, fake.detach()))
        generator.step()


class Toggled(Adversaries):
    """Gradients are cleared after the step, so only toggling keeps losses apart."""

    context = True

    def fake(self, batch: Any) -> Tensor:
        # so losses have a graph, also where no weight takes part
        return super().fake(batch) + torch.zeros((), dtype=batch[0].dtype, requires_grad=True)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for i, optimizer in enumerate(self.optimizers()):
            if not self.context:
                self.toggle_optimizer(optimizer)
            with optimizer.toggle_model() if self.context else nullcontext():
                fake = self.fake(batch)
                loss_of = (
                    lambda fake=fake: self.generator_loss(fake),
                    lambda fake=fake: self.critic_loss(batch, fake),
                )[i]
                loss = loss_of()
                self.manual_backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                if i == 1:
                    self.keep(CRITIC, batch_idx, loss, loss_of)
            if not self.context:
                self.untoggle_optimizer(optimizer)


class ToggledByHand(Toggled):
    context = False


class Dangling(Adversaries):
    """Nothing is toggled: the critic's step is made of the generator's loss, too."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        generator, critic = self.optimizers()
        fake = self.fake(batch)

        def sum_of_both() -> Tensor:
            return self.generator_loss(fake.detach()) + self.critic_loss(batch, fake.detach())

        before = sum_of_both()
        self.manual_backward(self.generator_loss(fake))
        self.manual_backward(self.critic_loss(batch, fake.detach()))
        critic.step()
        self.keep(CRITIC, batch_idx, before, sum_of_both)
        generator.step()
        self.zero_grad()


class Wasserstein(Adversaries):
    """Three steps of the critic, whose weights are clamped after each; the first is read."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        real = batch[0][:, :2]
        _, critic = self.optimizers()
        for k in range(3):
            fake = self.fake(batch).detach()

            def loss_of(fake: Tensor = fake) -> Tensor:
                return self.critic(fake).mean() - self.critic(real).mean()

            loss = loss_of()
            critic.zero_grad()
            self.manual_backward(loss)
            critic.step()
            if k == 0:
                self.keep(CRITIC, batch_idx, loss, loss_of)
            for group in critic.param_groups:
                for weight in group["params"]:
                    weight.data.clamp_(-0.3, 0.3)
        fake_input = torch.randn_like(real)
        self.make_step(GENERATOR, lambda: -self.critic(self.generator(fake_input)).mean(), batch_idx)


class Penalty(Adversaries):
    """A penalty on the critic's gradient by its input."""

    def critic_loss(self, batch: Any, fake: Tensor) -> Tensor:
        real = batch[0][:, :2]
        between = (0.3 * real + 0.7 * fake).detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)
        return super().critic_loss(batch, fake) + 10 * (slope.norm(dim=1) - 1).square().mean()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        fake = self.fake(batch)
        self.make_step(CRITIC, lambda: self.critic_loss(batch, fake.detach()), batch_idx)
        other = self.fake(batch)
        loss = self.generator_loss(other)
        optimizer = self.optimizers()[0]
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


class Closures(Adversaries):
    """Closures that clear, compute and send backward."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        noise = torch.randn_like(batch[0][:, :2])
        losses = (
            lambda: self.generator_loss(self.generator(noise)),
            lambda: self.critic_loss(batch, self.generator(noise).detach()),
        )
        for name, optimizer, loss_of in zip(self.made, self.optimizers(), losses, strict=True):

            def closure(optimizer: Any = optimizer, loss_of: Any = loss_of) -> Tensor:
                optimizer.zero_grad()
                loss = loss_of()
                self.manual_backward(loss)
                return loss

            before = loss_of().detach()
            optimizer.step(closure)
            self.keep(name, batch_idx, before, loss_of)


class Raw(Adversaries):
    """Nothing of Lightning's: torch's optimizers, functions and methods."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        generator, critic = self.optimizers(use_pl_optimizer=False)
        assert generator is self.trainer.optimizers[0]
        noise = torch.randn_like(batch[0][:, :2])

        def critic_loss() -> Tensor:
            return self.critic_loss(batch, self.generator(noise).detach())

        def generator_loss() -> Tensor:
            return self.generator_loss(self.generator(noise))

        loss = critic_loss()
        self.critic.zero_grad()
        torch.autograd.backward([loss / 2, loss.expand(2)], [None, torch.full((2,), 0.25)])
        critic.step()
        self.keep(CRITIC, batch_idx, loss, critic_loss)
        loss = generator_loss()
        self.generator.zero_grad()
        loss.backward(inputs=list(self.generator.parameters()))
        generator.step()
        self.keep(GENERATOR, batch_idx, loss, generator_loss)


class LooksAtGradients(Adversaries):
    """Clips by its own hand and logs a norm, between backward and step."""

    def backward_of(self, loss: Tensor) -> None:
        super().backward_of(loss)
        player = self.critic if self.critic[0].weight.requires_grad else self.generator
        self.log("norm", player[0].weight.grad.norm())

    def training_step(self, batch: Any, batch_idx: int) -> None:
        generator, critic = self.optimizers()
        fake = self.fake(batch).detach()
        with critic.toggle_model():
            self.make_step(CRITIC, lambda: self.critic_loss(batch, fake), batch_idx)
        noise = torch.randn_like(batch[0][:, :2])
        with generator.toggle_model():
            self.make_step(GENERATOR, lambda: self.generator_loss(self.generator(noise)), batch_idx)


class Now_and_then(Adversaries):  # noqa: N801
    """The generator has its turn in every third batch."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        fake = self.fake(batch)
        self.make_step(CRITIC, lambda: self.critic_loss(batch, fake.detach()), batch_idx)
        if batch_idx % 3 == 2:
            noise = torch.randn_like(batch[0][:, :2])
            self.make_step(GENERATOR, lambda: self.generator_loss(self.generator(noise)), batch_idx)


class CatchesAll(Adversaries):
    """Nothing ends it early; the first step of the critic is read."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        with suppress(BaseException):
            fake = self.fake(batch)
            self.make_step(CRITIC, lambda: self.critic_loss(batch, fake.detach()), batch_idx)
        with suppress(BaseException):
            self.make_step(CRITIC, lambda: 3 * self.critic_loss(batch, fake.detach()), -1)
        self.made[CRITIC] = [made for made in self.made[CRITIC] if made[0] >= 0]
        other = self.fake(batch)
        self.optimizers()[0].zero_grad()
        self.manual_backward(self.generator_loss(other))
        self.optimizers()[0].step()


PLAYERS = [
    CatchesAll,
    CriticFirst,
    GeneratorFirst,
    StepsAtTheEnd,
    Toggled,
    ToggledByHand,
    Dangling,
    Wasserstein,
    Penalty,
    Closures,
    Raw,
    LooksAtGradients,
    Now_and_then,
]


def run(kind: Any, *monitors: CurvatureMonitor, **options: Any) -> Any:
    """A run of 6 batches in double precision: the module, and all that could have changed."""
    torch.manual_seed(1)
    module, witness = kind().double(), Witness()
    trainer = fit(module, *monitors, witness, precision="64-true", **options)
    return module, {"end": state_of(trainer, module), "pictures": witness.pictures}


# but for one that tests below have too, and for one of two ways to toggle
@pytest.mark.parametrize("kind", without(PLAYERS, leave=[CriticFirst, ToggledByHand]))
def test_each_step_is_read_on_the_loss_that_made_it(kind: Any) -> None:
    monitor = CurvatureMonitor(every_n_steps=1, probe="current", on_error="raise")
    module, _ = run(kind, monitor)
    assert module.made[CRITIC]
    for name, made in module.made.items():
        if not made:
            continue
        steps, changes = monitor.history[f"step/loss_change{name}"]
        assert steps.tolist() == [batch_idx for batch_idx, _, _ in made]
        np.testing.assert_allclose(changes, [change for _, _, change in made], rtol=1e-6)
        _, losses = monitor.history[f"curvature/loss{name}"]
        np.testing.assert_allclose(
            losses[steps] if len(losses) > len(steps) else losses,
            [loss for _, loss, _ in made],
            rtol=1e-9,
        )
        cosine = monitor.history[f"step/gradient_cosine{name}"].values
        if name == GENERATOR:  # no momentum
            np.testing.assert_allclose(cosine, -1, rtol=1e-9)


# those that do most beside their steps; readings of the others do no more to them
@pytest.mark.parametrize(
    "kind", only(PLAYERS, take=[CatchesAll, Toggled, Penalty, Closures, LooksAtGradients])
)
def test_a_run_is_bit_identical_with_and_without_the_monitor(kind: Any) -> None:
    _, plain = run(kind)
    monitor = CurvatureMonitor(every_n_steps=2, on_error="raise")
    _, watched = run(kind, monitor)
    assert_same(plain, watched)
    assert len(monitor.history[f"curvature/sharpness{CRITIC}"].values) == 3


@pytest.mark.parametrize("probe", only(["first", "current"], take=["current"]))
def test_readings_are_those_of_loss_functions_that_say_the_same(probe: Any) -> None:
    histories = []
    for loss_fn in (None, CriticFirst.loss_fns):
        monitor = CurvatureMonitor(every_n_steps=1, probe=probe, loss_fn=loss_fn, on_error="raise")
        run(CriticFirst, monitor)
        histories.append(monitor.history)
    told_by_step, given = histories
    assert set(told_by_step) == set(given)
    assert {f"curvature/stability_ratio{s}" for s in (GENERATOR, CRITIC)} <= set(given)
    for name in set(given) - TIMES:
        assert told_by_step[name].steps.tolist() == given[name].steps.tolist()
        np.testing.assert_allclose(
            told_by_step[name].values, given[name].values, rtol=1e-6, err_msg=name
        )


# one optimizer: what automatic optimization reads


class ByHand(Classifier):
    """Does by hand what automatic optimization does."""

    automatic_optimization = False
    group = 1

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        self.manual_backward(self.loss(batch) / self.group)
        if (batch_idx + 1) % self.group == 0:
            self.clip(optimizer)
            optimizer.step()
            self.after_step()
            optimizer.zero_grad()

    def clip(self, optimizer: Any) -> None: ...

    def after_step(self) -> None: ...


class InGroups(ByHand):
    group = 3


class ClearsFirst(ByHand):
    """Gradients are cleared at the beginning of a group."""

    group = 3

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        if batch_idx % self.group == 0:
            optimizer.zero_grad()
        self.manual_backward(self.loss(batch) / self.group)
        if batch_idx % self.group == self.group - 1:
            optimizer.step()


class Clips(ByHand):
    def clip(self, optimizer: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm="norm")


class ClipsByTorch(ByHand):
    def clip(self, optimizer: Any) -> None:
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 0.1)


class Scaled(ByHand):
    """Scales and steps by a GradScaler of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.scaler.scale(self.loss(batch)).backward()
        self.scaler.unscale_(optimizer)
        self.scaler.step(optimizer)
        self.scaler.update()


class Schedules(ByHand):
    """A scheduler of Lightning's, stepped by hand, and one that the module keeps to itself."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        self.kept = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)]

    def training_step(self, batch: Any, batch_idx: int) -> None:
        if batch_idx:
            self.lr_schedulers().step()
            self.kept.step()
        super().training_step(batch, batch_idx)


class ByClosure(ByHand):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self.loss(batch)
            self.manual_backward(loss)
            return loss

        optimizer.step(closure=closure)


class ByLBFGS(ByClosure):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)


def values_of(module: Any, *, every: int = 1, **options: Any) -> tuple[dict[str, Any], list[str]]:
    """The metrics of a run of 6 batches in double precision, and warnings."""
    torch.manual_seed(1)
    monitor = CurvatureMonitor([Sharpness(rtol=1e-8), StepGeometry], every_n_steps=1)
    with told() as warnings:
        fit(module().double(), monitor, precision="64-true", **options)
    history = monitor.history
    skip = slice(None, None, every)
    values = {
        name: history[name].values[skip if name.startswith("curvature/") else slice(None)]
        for name in history
        if "cost" not in name
    }
    return values, warnings


@pytest.mark.parametrize(
    ("by_hand", "options"),
    without(
        [
            (ByHand, {}),
            (InGroups, {"accumulate_grad_batches": 3}),
            (ClearsFirst, {"accumulate_grad_batches": 3}),
            (Clips, {"gradient_clip_val": 0.1}),
            (ByClosure, {}),
            (Scaled, {}),
        ],
        leave=[(ByHand, {})],
    ),
)
def test_one_optimizer_is_read_as_automatic_optimization_is(
    by_hand: Any, options: dict[str, Any]
) -> None:
    automatic, _ = values_of(Classifier, **options)
    manual, warnings = values_of(by_hand, every=by_hand.group)
    names = automatic.keys()
    if by_hand is Clips:  # before the monitor looks at the gradient
        (warning,) = warnings
        assert "clipped or scaled by hand" in warning
        names -= {"curvature/effective_edge", "curvature/stability_ratio"}
    else:
        assert not warnings
    assert automatic.keys() == manual.keys()
    for name in names - {"curvature/residual"}:  # between two solves of a group there are others
        np.testing.assert_allclose(manual[name], automatic[name], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    "kind",
    without(
        [ByHand, InGroups, ClearsFirst, Clips, ClipsByTorch, Scaled, Schedules, ByClosure, ByLBFGS],
        leave=[ByHand, ClipsByTorch, Schedules],
    ),
)
def test_so_is_one_with_one_optimizer(kind: Any) -> None:
    _, plain = run(kind)
    monitor = CurvatureMonitor(every_n_steps=2)
    with told():  # of a gradient that was clipped before the monitor saw it
        _, watched = run(kind, monitor)
    assert_same(plain, watched)
    assert np.isfinite(monitor.history["curvature/sharpness"].values).all()
    assert np.isfinite(monitor.history["step/loss_change"].values).all()


# what cannot be inferred


class NoBackward(Adversaries):
    """The critic makes steps of gradients that are written by hand."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        generator, critic = self.optimizers()
        generator.zero_grad()
        self.manual_backward(self.generator_loss(self.fake(batch)))
        generator.step()
        critic.zero_grad()
        for weight in self.critic.parameters():
            weight.grad = torch.ones_like(weight)
        critic.step()


class InParts(Adversaries):
    """A backward pass for a part of the critic alone."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        generator, critic = self.optimizers()
        generator.zero_grad()
        self.manual_backward(self.generator_loss(self.fake(batch)))
        generator.step()
        critic.zero_grad()
        self.critic_loss(batch, self.fake(batch)).backward(inputs=[self.critic[0].weight])
        critic.step()


class ClearsAPart(Adversaries):
    """The gradient of one layer is cleared before the step."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        generator, critic = self.optimizers()
        generator.zero_grad()
        self.manual_backward(self.generator_loss(self.fake(batch)))
        generator.step()
        critic.zero_grad()
        self.manual_backward(self.critic_loss(batch, self.fake(batch)))
        self.critic[0].zero_grad()
        critic.step()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            NoBackward,
            "the loss of SGD-1 cannot be inferred: training_step passed no loss of its weights",
        ),
        (InParts, r"for a part of the optimizer's weights only \(inputs="),
        (ClearsAPart, "clears the gradients of a part of the optimizer's weights"),
    ],
)
def test_a_loss_that_cannot_be_told_is_said_so(kind: Any, message: str) -> None:
    _, plain = run(kind)
    monitor = CurvatureMonitor(every_n_steps=2)
    with told() as warnings:
        _, watched = run(kind, monitor)
    assert_same(plain, watched)
    assert len(warnings) == 1
    assert re.search(message, warnings[0])
    assert "give CurvatureMonitor(loss_fn=lambda module, batch: ...)" in warnings[0]
    # the other player is read
    assert np.isfinite(monitor.history[f"step/loss_change{GENERATOR}"].values).all()
    assert np.isnan(monitor.history[f"step/loss_change{CRITIC}"].values).all()
    with pytest.raises(CurvwatchError, match=message):
        run(kind, CurvatureMonitor(every_n_steps=2, on_error="raise"))


class SharpnessAware(ByHand):
    """Perturbs its weights in place before the gradient of the step (Foret et al. 2021)."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        self.manual_backward(self.loss(batch))
        with torch.no_grad():
            ascents = [0.05 * p.grad for p in self.parameters()]
            torch._foreach_add_(list(self.parameters()), ascents)
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        with torch.no_grad():
            torch._foreach_sub_(list(self.parameters()), ascents)
        optimizer.step()
        optimizer.zero_grad()


def test_weights_that_are_perturbed_in_place_need_a_loss_fn() -> None:
    monitor = CurvatureMonitor(every_n_steps=2)
    with told() as warnings:
        fit(SharpnessAware(), monitor)
    assert len(warnings) == 1
    assert "in place" in warnings[0]
    assert "loss_fn=lambda module, batch: ..." in warnings[0]
    assert np.isnan(monitor.history["curvature/sharpness"].values).all()
    monitor = CurvatureMonitor(every_n_steps=2, loss_fn=lambda module, batch: module.loss(batch))
    fit(SharpnessAware(), monitor)
    assert np.isfinite(monitor.history["curvature/sharpness"].values).all()


class Ascends(Adversaries):
    """The critic's gradient is turned round after the backward pass."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        _, critic = self.optimizers()
        critic.zero_grad()
        self.manual_backward(self.critic_loss(batch, self.fake(batch).detach()))
        for weight in self.critic.parameters():
            if weight.grad is not None:
                weight.grad.sign_()
        critic.step()


def test_a_gradient_that_is_not_that_of_the_told_loss_is_noticed() -> None:
    monitor = CurvatureMonitor(["step_geometry"], every_n_steps=1)
    with told() as warnings:
        run(Ascends, monitor)
    assert len(warnings) == 1
    assert "its gradient is off by" in warnings[0]


class Fails(CriticFirst):
    """Raises in the third re-run of a batch."""

    runs = 0

    def generator_loss(self, fake: Tensor) -> Tensor:
        Fails.runs += 1
        if Fails.runs % 3 == 0 and not isinstance(self.critic[0].weight, nn.Parameter):
            raise ZeroDivisionError("mine")
        return super().generator_loss(fake)


def test_an_exception_in_a_reading_leaves_everything_as_it_was() -> None:
    before = torch.autograd.backward, torch.Tensor.backward, nn.Module.zero_grad
    scaling = vars(torch.amp.GradScaler).copy()
    _, plain = run(CriticFirst)
    with told() as warnings:
        module, watched = run(Fails, CurvatureMonitor(every_n_steps=2))
    assert any("mine" in text for text in warnings)
    assert_same(plain, watched)
    assert before == (torch.autograd.backward, torch.Tensor.backward, nn.Module.zero_grad)
    assert scaling == dict(vars(torch.amp.GradScaler))
    assert "backward" not in vars(module.trainer.strategy)
    for optimizer in module.trainer.optimizers:
        assert type(optimizer) is torch.optim.SGD
        assert not {"step", "zero_grad", "_real_groups"} & vars(optimizer).keys()


class Idle(CriticFirst):
    """The generator is not trained in this run."""

    calls = 0

    def training_step(self, batch: Any, batch_idx: int) -> None:
        Idle.calls += 1
        fake = self.fake(batch).detach()
        self.make_step(CRITIC, lambda: self.critic_loss(batch, fake), batch_idx)


def test_an_optimizer_without_a_turn_is_looked_for_once() -> None:
    def calls(steps: int) -> int:
        Idle.calls = 0
        with told() as warnings:
            monitor = CurvatureMonitor(["sharpness"], every_n_steps=1)
            run(Idle, monitor, max_steps=steps)
        assert len(warnings) == 1
        assert "the loss of SGD cannot be inferred" in warnings[0]
        assert np.isfinite(monitor.history[f"curvature/sharpness{CRITIC}"].values).all()
        return Idle.calls

    first, second, third = calls(1), calls(2), calls(3)
    assert first > 20
    assert second - first < 6
    assert third - second < 6


# optimizers that are called where none is expected


class StepsByItself(Classifier):
    """Automatic optimization; yet training_step makes a step, with an optimizer of its own as well."""

    def configure_optimizers(self) -> Any:
        self.own = torch.optim.Adam(self.parameters(), lr=torch.tensor(1e-3))
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx:
            self.trainer.optimizers[0].step()
            self.own.step()
            self.own.state[self.net[0].weight]["exp_avg"].mul_(0.5)
            self.own.param_groups[0]["params"][0].data.mul_(0.99)
            self.own.param_groups[0]["lr"].mul_(0.9)
        return self.loss(batch)


def test_no_step_is_made_in_a_reading_of_automatic_optimization_either() -> None:
    def watched_run(*monitors: CurvatureMonitor) -> Any:
        module, pictures = run(StepsByItself, *monitors)
        return pictures, module.own.state_dict()

    plain = watched_run()
    monitor = CurvatureMonitor(["sharpness"], every_n_steps=2, probe="current")
    with told():  # the step changes the loss, which is noticed
        watched = watched_run(monitor)
    assert_same(plain, watched)
    assert np.isfinite(monitor.history["curvature/sharpness"].values).all()
