"""`StepGeometry(compare=...)` in runs: the values, and that training does not feel it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curvwatch import Compared, CurvatureMonitor, Objective, Sharpness, StepGeometry, Watch
from curvwatch.measures.compared import COMPARED, METRICS
from tests.measures.test_monitor_twins import trained
from tests.support.cases import CASES, dense, flat
from tests.support.modules import Classifier, ListLogger, adam, batches, fit, sgd, told
from tests.support.studies import only
from tests.support.trace import assert_same
from tests.training.lightning import test_no_trace, test_resume
from tests.training.loop.loops import loop, loss_fn, normalised
from tests.training.loop.test_no_trace import fused, nesterov, pictures

RMSPROP = {"rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, weight_decay=0.1)}
# its foreach step writes into the gradient
NESTEROV = {"foreach": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, foreach=True)}
ALL = [*COMPARED, RMSPROP, NESTEROV]
OWN = [f"step/{metric}" for metric in METRICS]


def monitor(compare: Any, *, every_n_steps: int = 1, **options: Any) -> CurvatureMonitor:
    measure = StepGeometry(compare=compare, **options)
    return CurvatureMonitor([measure], every_n_steps=every_n_steps, on_error="raise")


def of(history: Any, name: str) -> list[np.ndarray]:
    return [history[f"step/{name}/{metric}"].values for metric in METRICS]


def own(history: Any) -> list[np.ndarray]:
    return [history[metric].values for metric in OWN]


# the values


@pytest.mark.parametrize(
    ("curvature", "case"),
    only(
        itertools.product(["exact", "secant"], ["mlp_cross_entropy", "transformer_sdpa"]),
        take=[("exact", "mlp_cross_entropy"), ("secant", "mlp_cross_entropy")],
    ),
)
def test_values_equal_dense_twins(case: str, curvature: Any) -> None:
    """Adam beside momentum: its own steps, never taken, at weights that momentum moves."""
    measure = StepGeometry(compare=["adam", RMSPROP], curvature=curvature)
    module, history, seen = trained(CASES[case], "momentum", [measure])
    shapes = [p.shape for p in module.model.parameters()]
    twins = {
        "adam": lambda p: torch.optim.Adam(p, lr=1.0),
        "rmsprop": RMSPROP["rmsprop"],
    }
    for name, make in twins.items():
        parts = [nn.Parameter(torch.zeros(s, dtype=torch.float64)) for s in shapes]
        optimizer = make(parts)
        for i, (before, batch) in enumerate(zip(seen.before, seen.batches, strict=True)):
            twin = dense(CASES[case], module.model, [batch], before)
            cut = [s.numel() for s in shapes]
            for p, w, g in zip(parts, before.split(cut), twin.gradient.split(cut), strict=True):
                p.data, p.grad = w.view_as(p).clone(), g.view_as(p).clone()
            optimizer.step()
            d = flat(parts) - before
            g, H = twin.gradient, twin.hessian
            slope = float(g @ d / d.norm())
            expected = float(d @ H @ d / (d @ d)), slope, slope / float(g.norm())
            for values, e in zip(of(history, name), expected, strict=True):
                assert values[i] == pytest.approx(e, rel=1e-7)
    assert not history.notes


class Groups(Classifier):
    """Two groups, with learning rates of their own that a scheduler moves."""

    def configure_optimizers(self) -> Any:
        first, *rest = self.parameters()
        groups = [{"params": [first], "lr": 0.003}, {"params": rest, "lr": 0.01}]
        optimizer = self.make_optimizer(groups)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def momentum(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.1, momentum=0.9)


def like_nesterov(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True)


# what is compared, the run's optimizer, and its module
OWN_RUNS: dict[str, tuple[Any, Any, Any]] = {
    "adam": ("adam", adam, Classifier),
    "adam of groups": ("adam", adam, Groups),
    "momentum of groups": ("momentum", momentum, Groups),
    "nesterov": ({"nesterov": like_nesterov}, nesterov, Classifier),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation": {"accumulate_grad_batches": 2},
    "clipping": {"gradient_clip_val": 0.05},
    "by value": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
}


# each way to make a step with two of the runs
@pytest.mark.parametrize(
    ("which", "own_run"),
    only(
        itertools.product(OPTIONS, OWN_RUNS),
        take=[
            ("plain", "adam"),
            ("plain", "momentum of groups"),
            ("accumulation", "adam of groups"),
            ("accumulation", "nesterov"),
            ("clipping", "adam of groups"),
            ("clipping", "nesterov"),
            ("by value", "adam"),
            ("by value", "momentum of groups"),
        ],
    ),
)
def test_the_runs_own_optimizer_compared_has_the_values_of_the_step(which: str, own_run: str) -> None:
    name, make, module = OWN_RUNS[own_run]
    options = OPTIONS[which]
    watch = monitor([name], every_n_steps=2)
    torch.manual_seed(0)
    fit(module(optimizer=make), watch, precision="64-true", max_epochs=2, **options)
    history = watch.history
    (key,) = [name] if isinstance(name, str) else name
    assert len(history["step/directional_sharpness"].steps) >= 3
    for ours, theirs in zip(of(history, key), own(history), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_a_loop_reads_what_the_trainer_reads() -> None:
    torch.manual_seed(0)
    module = Classifier(optimizer=momentum)
    torch.manual_seed(0)
    net = Classifier(optimizer=momentum).net
    in_trainer = monitor(ALL, every_n_steps=2)
    fit(module, in_trainer)
    optimizer = momentum(net.parameters())
    measure = StepGeometry(compare=ALL)
    with Watch(net, optimizer, loss_fn, [measure], every_n_steps=2, on_error="raise") as watch:
        loop(net, optimizer, watch=watch)
    for name in [*COMPARED, "rmsprop"]:
        for a, b in zip(of(in_trainer.history, name), of(watch.history, name), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_scaler_skips_feeds_nobody(fused: bool) -> None:
    net = normalised()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=100)
    measure = StepGeometry(compare=["adam"])
    with Watch(net, optimizer, loss_fn, [measure], every_n_steps=1, on_error="raise") as watch:
        for i, batch in enumerate(batches()):
            loss = loss_fn(net, batch) * (math.inf if i == 2 else 1.0)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            watch.step(batch)
    sharpness = watch.history["step/adam/directional_sharpness"]
    assert np.isfinite(sharpness.values).sum() == 5
    for ours, theirs in zip(of(watch.history, "adam"), own(watch.history), strict=True):
        np.testing.assert_allclose(ours[-2:], theirs[-2:], rtol=1e-4)


class Two(pl.LightningModule):
    """Two optimizers by hand; the first makes two steps of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.a, self.b = nn.Linear(6, 3), nn.Linear(6, 3)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        first, second = self.optimizers()
        for net, optimizer in ((self.a, first), (self.b, second), (self.a, first)):
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(net(x), y))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.Adam(self.a.parameters(), lr=0.01),
            torch.optim.SGD(self.b.parameters(), lr=0.1, momentum=0.9),
        ]


def test_each_of_several_optimizers_is_compared() -> None:
    watch = monitor(["adam", "momentum"], every_n_steps=2)
    fit(Two(), watch, precision="64-true")
    history = watch.history
    for name, suffix in (("adam", "-Adam"), ("momentum", "-SGD")):
        for metric in METRICS:
            ours = history[f"step/{name}/{metric}{suffix}"].values
            np.testing.assert_allclose(ours, history[f"step/{metric}{suffix}"].values, rtol=1e-6)
            assert len(ours) >= 2
    assert "step/adam/directional_sharpness-SGD" in history


@pytest.mark.parametrize("curvature", ["exact", "secant"])
def test_a_compared_optimizer_costs_one_product(monkeypatch: Any, curvature: Any) -> None:
    spent: list[Any] = []
    closed = Objective.open

    @contextmanager
    def opened(self: Objective, weights: Any = None) -> Iterator[Any]:
        with closed(self, weights) as f:
            yield f
        spent.append(self.counts)

    monkeypatch.setattr(Objective, "open", opened)
    watch = monitor(["sgd", "adam", RMSPROP], every_n_steps=2, curvature=curvature)
    fit(Classifier(), watch)
    assert len(spent) == 3
    own_product = int(curvature == "exact")
    assert {counts.products for counts in spent} == {3 + own_product}


# training does not feel it


@pytest.mark.parametrize("accumulate", only([1, 2], take=[2]))
def test_a_run_is_bit_identical(tmp_path: Path, accumulate: int) -> None:
    watch = monitor(ALL, every_n_steps=3)
    test_no_trace.compare(tmp_path, watch, optimizer="sgd", accumulate_grad_batches=accumulate)
    assert np.isfinite(of(watch.history, "rmsprop")[0]).all()


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
def test_a_run_in_two_parts_reads_the_same(tmp_path: Path, monkeypatch: Any) -> None:
    def watch(**options: Any) -> CurvatureMonitor:
        measures = [Sharpness(), StepGeometry(compare=ALL)]
        return CurvatureMonitor(measures, every_n_steps=3, on_error="raise", **options)

    monkeypatch.setattr(test_resume, "watch", watch)
    make = lambda: test_resume.Noisy(adam)  # noqa: E731
    test_resume.cut_in_two(tmp_path / "cut.ckpt", "on_train_batch_end", at=5, make=make)


def test_a_loop_in_two_parts_reads_the_same() -> None:
    def run(cut: bool) -> Any:
        torch.manual_seed(0)
        net = normalised()
        optimizer = momentum(net.parameters())
        make = lambda: Watch(  # noqa: E731
            net, optimizer, loss_fn, [StepGeometry(compare=ALL)], every_n_steps=3, on_error="raise"
        )
        data = list(batches())
        watch = make()
        loop(net, optimizer, watch=watch, data=data[:2])
        if cut:
            watch.close()
            state = watch.state_dict()
            watch = make()
            watch.load_state_dict(state)
        loop(net, optimizer, watch=watch, data=data[2:])
        watch.close()
        return watch.history.to_dict()

    assert_same(run(cut=True), run(cut=False), "history")


@pytest.mark.parametrize("make", [sgd, nesterov, adam, fused])
def test_a_loop_is_bit_identical(make: Any) -> None:
    options = {"every_n_steps": 2, "measures": [StepGeometry(compare=ALL)]}
    assert_same(pictures(make, options), pictures(make, None), "run")


# what cannot be compared


class Closure(Classifier):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), max_iter=2)


def test_lbfgs_is_refused_and_the_step_itself_read() -> None:
    logger, watch = ListLogger(), CurvatureMonitor([StepGeometry(compare="adam")], every_n_steps=1)
    with told() as texts:
        fit(Closure(), watch, logger=logger)
    assert sum("LBFGS evaluates several gradients" in text for text in texts) == 1
    assert np.isnan(of(watch.history, "adam")[0]).all()
    assert np.isfinite(watch.history["step/directional_sharpness"].values).any()
    rows = [set(row) for _, row in logger.rows if "step/update_norm" in row]
    assert all(row == rows[0] for row in rows)
    assert {f"step/adam/{metric}" for metric in METRICS} <= rows[0]


def test_a_factory_that_fails_is_told_once_and_left_alone() -> None:
    class Breaks(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            raise OSError("broken")

    compare = [{"bad": lambda p: Breaks(p, lr=0.1)}, "adam"]
    watch = CurvatureMonitor([StepGeometry(compare=compare)], every_n_steps=1)
    with told() as texts:
        fit(Classifier(), watch)
    (text,) = texts
    assert "computing the steps of the compared optimizer bad failed: OSError: broken" in text
    assert np.isnan(of(watch.history, "bad")[0]).all()
    assert np.isfinite(of(watch.history, "adam")[0]).all()
    assert np.isfinite(watch.history["step/directional_sharpness"].values).all()
    assert "there is no shadow step of bad" in watch.history.notes[0].text


def test_a_loss_without_a_second_derivative_keeps_its_secant() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return 2 * ctx.saved_tensors[0] * g

    class Module(Classifier):
        def loss(self, batch: Any) -> Tensor:
            return Once.apply(super().loss(batch))

    measure = StepGeometry(compare="adam", curvature="secant")
    watch = CurvatureMonitor([measure], every_n_steps=1)
    fit(Module(), watch)
    assert np.isfinite(watch.history["step/directional_sharpness"].values).all()
    assert np.isnan(of(watch.history, "adam")[0]).all()
    assert "no shadow step has a directional sharpness" in watch.history.notes[0].text


@pytest.mark.parametrize(
    ("compare", "message"),
    [
        ("adamw", "unknown optimizer 'adamw'; there are sgd, momentum, .*clipped_adam"),
        (["sgd", "sgd"], "the compared optimizer 'sgd' comes twice: give it another name"),
        (["adam", {"adam": adam}], "'adam' comes twice"),
        (3, r"compare=3: names \(sgd, .*\), Compared\(...\) or"),
        ([3], "compare: 3 is no optimizer: names"),
        ({"mine": 3}, "the optimizer 'mine' is 3: a name or a function"),
        ({"a/b": sgd}, "the name 'a/b' of a compared optimizer: letters, digits"),
    ],
)
def test_bad_input_is_quoted_with_what_works(compare: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StepGeometry(compare=compare)


@pytest.mark.parametrize("clip", [0, 1, -0.1, True, "10%", math.nan])
def test_a_share_to_clip_lies_between_0_and_1(clip: Any) -> None:
    with pytest.raises(ValueError, match=r"clip=.*: a share of coordinates between 0 and 1"):
        Compared("mine", "adam", clip=clip)


def test_without_compared_optimizers_nothing_is_added() -> None:
    watch = monitor(())
    fit(Classifier(), watch)
    assert watch.measures[0].metrics == StepGeometry.metrics
    assert watch.state_dict()["compared"] == {}
