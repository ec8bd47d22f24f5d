"""Modules that remember, in every way that training_step can: a reading leaves each as it was."""

from __future__ import annotations

import random
from collections import Counter, OrderedDict, defaultdict, deque
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from curvwatch import CurvatureMonitor
from curvwatch.objective.isolation.isolate import isolated
from tests.support.modules import (
    CLASSES,
    FEATURES,
    Classifier,
    ListLogger,
    batches,
    fit,
    is_ours,
    mlp,
    told,
)
from tests.support.studies import without
from tests.support.trace import Witness, assert_same, state_of

CASES: dict[str, type[Classifier]] = {}


def case(cls: type[Classifier]) -> type[Classifier]:
    CASES[cls.__name__] = cls
    return cls


@case
class OwnGenerators(Classifier):
    """Noise from generators that the module keeps, one of them in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.torch_noise = torch.Generator().manual_seed(3)
        self.others = [np.random.default_rng(4), random.Random(5)]

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        numpy_noise, python_noise = self.others
        x = x + 0.1 * torch.randn(x.shape, generator=self.torch_noise)
        x = x + float(numpy_noise.normal()) * 0.1 + python_noise.gauss(0, 0.1)
        return F.cross_entropy(self.net(x), y)


@case
class Queue(Classifier):
    """A memory bank as of MoCo: buffers written to in place, and one that is replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("queue", torch.zeros(8, FEATURES))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))
        self.register_buffer("newest", torch.zeros(1), persistent=False)

    def loss(self, batch: Any) -> Tensor:
        x, _ = batch
        begin = int(self.pointer)
        logits = self.net(x) + (x @ self.queue.T).mean(dim=1, keepdim=True)
        self.queue[begin : begin + len(x)] = x
        self.pointer[0] = (begin + len(x)) % len(self.queue)
        self.newest = x.mean(dim=0)
        return F.cross_entropy(logits, batch[1])


@case
class Containers(Classifier):
    """Lists, deques, dicts of every kind and sets, nested, that grow with each step."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Tensor] = []
        self.recent: deque[float] = deque(maxlen=2)
        self.nested = {"a": [{"b": [0]}], "t": (torch.zeros(2), [1])}
        self.ordered: OrderedDict[int, float] = OrderedDict()
        self.default: defaultdict[int, list[float]] = defaultdict(list)
        self.counter: Counter[int] = Counter()
        self.labels: set[int] = set()

    def loss(self, batch: Any) -> Tensor:
        loss = super().loss(batch) * (1 + 0.1 * len(self.losses))
        self.losses.append(loss.detach())
        self.recent.append(float(loss.detach()))
        self.nested["a"][0]["b"][0] += 1
        self.nested["t"][0].add_(1)
        self.nested["t"][1].append(2)
        self.ordered[len(self.ordered)] = 1.0
        self.default[len(self.default)].append(2.0)
        self.counter.update(batch[1].tolist())
        self.labels.update(batch[1].tolist())
        return loss


@case
class Numbers(Classifier):
    """Counters, strings, a tensor attribute that is an average, a NumPy array."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.text = ""
        self.average = torch.zeros(CLASSES)
        self.array = np.zeros(CLASSES)
        self.net.calls = 0

    def loss(self, batch: Any) -> Tensor:
        self.calls += 1
        self.net.calls += 1
        self.text += "x"
        logits = self.net(batch[0])
        self.average.mul_(0.9).add_(logits.detach().mean(dim=0), alpha=0.1)
        self.array += self.average.numpy()
        self.made_late = self.calls
        return F.cross_entropy(logits - self.average - float(self.array[0]), batch[1])


class Helper:
    """An object of the user's, with tensors, a module and another object in it."""

    def __init__(self) -> None:
        self.mean = torch.zeros(CLASSES)
        self.layer = nn.BatchNorm1d(CLASSES)
        self.inner = SimpleNamespace(seen=0)
        self.parent: Any = None

    def update(self, logits: Tensor) -> None:
        self.mean += logits.detach().mean(dim=0)
        self.inner.seen += 1
        self.parent = self

    def remember(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.inner.seen += 10

    def scaled(self, args: Any) -> Any:
        self.inner.seen += 1
        return (args[0] * (1 + 0.1 * self.inner.seen),)


class Slotted:
    """An object without a `__dict__`."""

    __slots__ = ("count", "mean")

    def __init__(self) -> None:
        self.mean = torch.zeros(CLASSES)
        self.count = 0

    def update(self, logits: Tensor) -> None:
        self.mean.add_(logits.detach().mean(dim=0))
        self.count += 1


@case
class Objects(Classifier):
    """State in objects of the user's."""

    def __init__(self) -> None:
        super().__init__()
        self.helper = Helper()

    def loss(self, batch: Any) -> Tensor:
        logits = self.helper.layer(self.net(batch[0]))
        self.helper.update(logits)
        return F.cross_entropy(logits - self.helper.mean, batch[1])


@case
class SlottedObject(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.slotted = Slotted()

    def loss(self, batch: Any) -> Tensor:
        logits = self.net(batch[0])
        self.slotted.update(logits)
        return F.cross_entropy(logits - self.slotted.mean, batch[1])


@case
class ForwardHooks(Classifier):
    """Hooks that keep activations, one a method of an object that only the hook knows."""

    def __init__(self) -> None:
        super().__init__()
        self.features: list[Tensor] = []
        self.net[0].register_forward_hook(self.keep)
        self.net[3].register_forward_hook(Helper().remember)
        helper = Helper()
        self.net[3].register_forward_pre_hook(lambda module, args: helper.scaled(args))

    def keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.features.append(output.detach())


@case
class HooksOnGradients(Classifier):
    """Hooks on weights and on a module's backward pass, which a reading must not fire."""

    def __init__(self) -> None:
        super().__init__()
        self.fired = Counter()
        self.net[0].weight.register_hook(lambda g: self.count("weight", g * 1.5))
        self.net[3].register_full_backward_hook(lambda *_: self.count("backward"))
        self.net[3].register_full_backward_pre_hook(lambda *_: self.count("before"))
        self.net[3].bias.register_post_accumulate_grad_hook(lambda p: self.count("accumulated"))

    def count(self, what: str, value: Any = None) -> Any:
        FIRED[what] += 1
        return value


FIRED: Counter[str] = Counter()
# so the step is not that of the loss, and the monitor says so
CHANGES_THE_GRADIENT = ("HooksOnGradients",)


@case
class InPlaceBatch(Classifier):
    """The batch is normalised in place, and a list in it grows."""

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        x.sub_(x.mean(dim=0)).mul_(1.5)
        y.add_(1).remainder_(CLASSES)
        return super().loss((x, y))


@case
class Recurrent(Classifier):
    """An LSTM that carries its state from batch to batch."""

    def __init__(self) -> None:
        super().__init__(nn.LSTM(FEATURES, CLASSES))
        self.state: Any = None

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        out, state = self.net(x[None], self.state)
        self.state = tuple(s.detach() for s in state)
        return F.cross_entropy(out[0], y)


@case
class Attention(Classifier):
    """MultiheadAttention with dropout, and the kernel itself."""

    def __init__(self) -> None:
        super().__init__(nn.MultiheadAttention(FEATURES, 2, dropout=0.2, batch_first=True))

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        out, _ = self.net(x[None], x[None], x[None], need_weights=False)
        heads = out[None]  # four dimensions, or the flash kernel is not taken
        out = F.scaled_dot_product_attention(heads, heads, heads)[0]
        return F.cross_entropy(out[0, :, :CLASSES], y)


@case
class Parametrized(Classifier):
    """weight_norm, and spectral_norm, whose power iteration goes on in each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        parametrizations.weight_norm(self.net[0])
        parametrizations.spectral_norm(self.net[3])


@case
class Checkpointed(Classifier):
    """Activation checkpointing runs the block, with dropout and a buffer, again."""

    def __init__(self) -> None:
        super().__init__(mlp(dropout=0.3))
        self.calls = 0

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(checkpoint(self.block, x, use_reentrant=False), y)

    def block(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.net(x)


@case
class Hidden(Classifier):
    """A frozen teacher in a list, out of sight of `modules()`, and weights that nobody trains."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = [nn.Sequential(nn.Linear(FEATURES, CLASSES), nn.BatchNorm1d(CLASSES))]
        self.untrained = nn.Parameter(torch.ones(CLASSES))
        self.net[0].bias.requires_grad_(False)
        self.prototypes = torch.ones(CLASSES, requires_grad=True)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        logits = self.net(x) * self.untrained + self.prototypes
        return F.cross_entropy(logits, y) + F.mse_loss(logits, self.teacher[0](x).detach())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), lr=0.1)


@case
class Averaged(Classifier):
    """A moving average of the weights, updated inside training_step as of BYOL's target."""

    def __init__(self) -> None:
        super().__init__()
        self.target = mlp().requires_grad_(False)

    def loss(self, batch: Any) -> Tensor:
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.net.parameters(), strict=True):
                slow.mul_(0.9).add_(fast, alpha=0.1)
        x, y = batch
        return F.cross_entropy(self.net(x) + self.target(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), lr=0.1)


@case
class AveragedInOptimizer(Averaged):
    """The optimizer was given all parameters, those of the average too."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@case
class Shrunk(Classifier):
    """training_step writes to a weight that is trained."""

    def loss(self, batch: Any) -> Tensor:
        with torch.no_grad():
            self.net[0].weight.mul_(0.9)
        return super().loss(batch)


@case
class TrainerTouched(Classifier):
    """training_step reaches for the Trainer, its optimizer and its metrics."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        for group in self.optimizers().param_groups:
            group["lr"] *= 0.9
        self.trainer.callback_metrics["mine"] = self.trainer.callback_metrics.get("mine", 0) + 1
        self.log("lr", group["lr"], prog_bar=True)
        return self.loss(batch)


def run(module: Classifier, monitor: CurvatureMonitor | None, **options: Any) -> dict[str, Any]:
    FIRED.clear()
    witness, rows = Witness(), ListLogger()
    callbacks = [witness] if monitor is None else [monitor, witness]
    trainer = fit(module, *callbacks, data=batches(16), logger=rows, **options)
    return {
        "end": state_of(trainer, module),
        "logged": [[s, m] for s, m in rows.rows if not any(map(is_ours, m))],
        "pictures": witness.pictures,
        "fired": dict(FIRED),
    }


def compare(make: Any, *, make_plain: Any = None, **options: Any) -> CurvatureMonitor:
    """Run with and without a monitor; it must have read at each step."""
    monitor = CurvatureMonitor(every_n_steps=1)
    torch.manual_seed(2)
    plain = run((make_plain or make)(), None, **options)
    torch.manual_seed(2)
    module = make()
    held = dict(vars(module))
    buffers = list(module.buffers())
    watched = run(module, monitor, **options)

    assert len(plain["pictures"]) == 2 * 4
    for part in plain:
        assert_same(plain[part], watched[part], part)
    return monitor, module, held, buffers


@pytest.mark.parametrize("name", without(CASES, leave=["AveragedInOptimizer"]))
def test_a_module_that_remembers_is_left_as_it_was(name: str) -> None:
    with told() as warnings:
        monitor, *_ = compare(CASES[name])
    for metric in ("curvature/sharpness", "step/loss_change"):
        steps, values = monitor.history[metric]
        assert steps.tolist() == [0, 1, 2, 3]
        assert np.isfinite(values).all()
    if name in CHANGES_THE_GRADIENT:
        (warning,) = warnings
        assert "training_step is not repeatable" in warning
    else:
        assert not warnings
        assert not monitor.history.notes


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
def test_weight_norm_of_either_kind_is_read_as_it_is_written_out() -> None:
    """torch's fused kernel takes the norm for a constant when it is differentiated twice."""

    class WrittenOut(nn.Linear):
        def __init__(self, layer: nn.Linear) -> None:
            super().__init__(layer.in_features, layer.out_features)
            self.bias, self.weight = layer.bias, layer.weight
            self.size = nn.Parameter(layer.weight.detach().norm(dim=1, keepdim=True))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(
                x, self.weight / self.weight.norm(dim=1, keepdim=True) * self.size, self.bias
            )

    readings = []
    for normed in (WrittenOut, parametrizations.weight_norm, nn.utils.weight_norm):
        torch.manual_seed(2)
        module = Classifier()
        module.net[0] = normed(module.net[0])
        monitor = CurvatureMonitor(["sharpness"], every_n_steps=1)
        fit(module, monitor, max_steps=2, precision="64-true")
        readings.append(monitor.history["curvature/sharpness"].values)
    np.testing.assert_allclose(readings[1], readings[0], rtol=1e-3)
    np.testing.assert_allclose(readings[2], readings[0], rtol=1e-3)


class Losses(pl.Callback):
    """The losses that were trained."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))


# other kernels are taken, which round in another way
ROUNDED = {"Attention": 1e-6, "Parametrized": 1e-6}
# a hook changes the gradient; training_step makes a part of the step
NOT_ALONG_THE_GRADIENT = ("HooksOnGradients", "Shrunk")


def has_fused_lstm_in_bf16() -> bool:
    """Whether oneDNN has an LSTM in bfloat16 for this CPU, that is with AVX-512.

    Under autocast torch 2.13 calls it in any case, and fails where there is none.
    """
    try:
        with torch.autocast("cpu", torch.bfloat16):
            nn.LSTM(FEATURES, CLASSES)(torch.zeros(1, 1, FEATURES))
    except RuntimeError as error:
        if "could not create a primitive descriptor" not in str(error):
            raise
        return False
    return True


# what these remember is put back as it is for another one, before a reading as after it
LIKE_ANOTHER = (
    "Attention",
    "Averaged",
    "AveragedInOptimizer",
    "ForwardHooks",
    "Hidden",
    "Objects",
    "Shrunk",
    "SlottedObject",
    "TrainerTouched",
)


@pytest.mark.parametrize(
    ("name", "precision"),
    without(
        [*((name, "32-true") for name in CASES), ("Recurrent", "bf16-mixed"), ("Recurrent", "64-true")],
        leave=[(name, "32-true") for name in LIKE_ANOTHER],
    ),
)
def test_the_loss_that_is_read_is_the_one_that_was_trained(
    name: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, on the batch of each step; and its gradient is the one that made the step."""
    if precision == "bf16-mixed" and not has_fused_lstm_in_bf16():
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    torch.manual_seed(2)
    monitor, seen = CurvatureMonitor(every_n_steps=1, probe="current"), Losses()
    with told() as warnings:
        fit(CASES[name](), monitor, seen, data=batches(16), precision=precision)
    assert len(warnings) == (name in CHANGES_THE_GRADIENT)
    losses = monitor.history["curvature/loss"].values
    np.testing.assert_allclose(losses, seen.losses, rtol=ROUNDED.get(name, 0))
    if name not in NOT_ALONG_THE_GRADIENT:
        cosines = monitor.history["step/gradient_cosine"].values
        np.testing.assert_allclose(cosines, -1, rtol=1e-3 if "bf16" in precision else 1e-6)


AGAIN = ("InPlaceBatch", "Shrunk", "Averaged", "AveragedInOptimizer", "Queue")


@pytest.mark.parametrize("name", AGAIN)
def test_each_evaluation_of_a_reading_starts_from_the_same_state(name: str) -> None:
    """So that the loss changes in a step as its derivatives say."""
    torch.manual_seed(2)
    monitor = CurvatureMonitor(["step_geometry"], every_n_steps=1)
    fit(CASES[name](), monitor, data=batches(16), precision="64-true")
    change, predicted = (
        monitor.history[f"step/{metric}"].values for metric in ("loss_change", "predicted_loss_change")
    )
    np.testing.assert_allclose(change, predicted, rtol=0.1)


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true", "bf16-true"])
def test_every_precision(precision: str) -> None:
    monitor, *_ = compare(lambda: Classifier(mlp(dropout=0.2)), precision=precision)
    assert np.isfinite(monitor.history["curvature/sharpness"].values).all()


def test_a_weight_that_is_written_to_on_loan_comes_back() -> None:
    """Also without a Trainer, which keeps copies of its own."""
    module = mlp().requires_grad_(False)
    before = [p.clone() for p in module.parameters()]
    with isolated(module) as loan:
        loan.load({})
        for p in module.parameters():
            p.add_(1.0)
    assert_same(before, [p.clone() for p in module.parameters()])


def test_objects_are_the_same_ones_after_a_reading() -> None:
    """A user may hold a buffer, a list or the module's dict."""
    _, module, held, buffers = compare(Queue)
    assert all(a is b for a, b in zip(module.buffers(), buffers, strict=True) if a is not module.newest)
    assert module.net is held["_modules"]["net"]
    for name in ("_buffers", "_parameters", "_modules", "_forward_hooks"):
        assert vars(module)[name] is held[name]


class FailsInAReading(Classifier):
    """Raises in the calls FAIL_AT of training_step, after it changed all it could."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(mlp(dropout=0.2), nn.BatchNorm1d(CLASSES)))
        self.seen: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        CALLS.append(batch_idx)
        self.seen.append(batch_idx)
        self.log("seen", float(len(self.seen)), on_step=True, on_epoch=True)
        loss = self.loss(batch)
        self.eval()
        if len(CALLS) - 1 in FAIL_AT:
            raise OSError(f"call {len(CALLS) - 1} found the disk full")
        self.train()
        return loss


CALLS: list[int] = []
FAIL_AT: set[int] = set()


def test_an_exception_in_a_reading_leaves_no_trace_and_is_told_once() -> None:
    def failing() -> Classifier:
        CALLS.clear()
        # 0 is the step itself, then come the readings of the landscape and of the step
        FAIL_AT.update((1, 2))
        return FailsInAReading()

    try:
        with told() as warnings:
            monitor, *_ = compare(failing, make_plain=FailsInAReading)
    finally:
        FAIL_AT.clear()
    assert warnings == [
        "curvwatch: the reading of sharpness failed: OSError: call 1 found the disk full. "
        "Training goes on",
        "curvwatch: the reading of step_geometry failed: OSError: call 2 found the disk full. "
        "Training goes on",
    ]
    for metric in ("curvature/sharpness", "step/loss_change"):
        missing = np.isnan(monitor.history[metric].values)
        assert missing.tolist() == [True, False, False, False]


class TakesFromAnIterator(Classifier):
    """A second stream of data, kept on the module."""

    def __init__(self) -> None:
        super().__init__()
        self.others = iter(batches())

    def loss(self, batch: Any) -> Tensor:
        return super().loss(batch) + super().loss(next(self.others))


def test_an_iterator_of_the_module_is_not_advanced() -> None:
    with told() as warnings:
        compare(TakesFromAnIterator)
    assert len(warnings) == 1
    assert (
        "training_step calls next() on a _SingleProcessDataLoaderIter that the module keeps"
        in warnings[0]
    )
    assert "CurvatureMonitor(loss_fn=" in warnings[0]
