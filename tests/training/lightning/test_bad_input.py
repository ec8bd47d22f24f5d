"""Bad input: each its own clear words, and nothing lost."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn

from curvwatch import CurvatureMonitor, CurvwatchError, Sharpness, StepGeometry
from tests.support.modules import Classifier, ListLogger, batches, examples, fit, told
from tests.support.trace import assert_same

# arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_steps": 0}, "every_n_steps=0: a positive number of optimizer steps"),
        ({"every_n_steps": -3}, "every_n_steps=-3: a positive number"),
        ({"every_n_steps": 2.0}, "every_n_steps=2.0: a positive .* such as 10, is needed"),
        ({"every_n_steps": True}, "every_n_steps=True: a positive number of"),
        ({"every_n_steps": "3"}, "every_n_steps='3': a positive number of"),
        ({"budget": 0}, "budget=0: a share of time between 0 and 1 is needed"),
        ({"budget": 1.0}, "budget=1.0: a share"),
        ({"budget": -0.1}, "budget=-0.1: a share"),
        ({"budget": math.nan}, "budget=nan: a share"),
        ({"budget": "5%"}, "budget='5%': a share"),
        ({"chunk_size": 0}, "chunk_size=0: a positive number of examples"),
        ({"mode": "test"}, "mode='test': one of 'train', 'eval' is needed"),
        ({"mode": ["train"]}, "mode=.'train'.: one of 'train', 'eval' is needed"),
        ({"on_error": "ignore"}, "on_error='ignore': one of 'warn', 'raise' is needed"),
        ({"measures": ["sharpnes"]}, "unknown measure 'sharpnes'; there are sharpness, step_geometry"),
        ({"measures": [3]}, r"unknown measure 3: a name \(sharpness, step_geometry.*\), a Measure or"),
        ({"measures": [int]}, "unknown measure <class 'int'>: a name"),
        ({"measures": 3}, "unknown measure 3: a name"),
        ({"measures": ["sharpness", Sharpness()]}, "measure 'sharpness' comes twice: give it once"),
        ({"probe": "nonsense"}, "probe='nonsense': one of 'first', 'current', or an iterable"),
        ({"probe": []}, "probe is empty: give at least one batch, or probe='first'"),
        ({"probe": 3}, "probe=int: 'first', 'current', or an iterable of batches is needed"),
        ({"probe": torch.ones(3)}, "probe=Tensor: .* put a single batch into a list"),
        ({"probe": {"x": torch.ones(3)}}, "probe=dict: .* put a single batch into a list"),
        ({"probe_batches": 0}, "probe_batches=0: at least 1 batch is needed"),
        ({"probe_batches": True}, "probe_batches=True: at least 1"),
        ({"loss_fn": 3}, "loss_fn=3: a function of the module and a batch, or a list of them"),
        ({"loss_fn": []}, r"loss_fn=\[\]: a function of the module and a batch"),
        ({"loss_fn": [len, None]}, r"loss_fn=\[<built-in function len>, None\]: a function"),
    ],
)
def test_an_argument_out_of_range_is_quoted_with_what_works(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        CurvatureMonitor(**options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sharpness(rtol=0), "rtol=0: a relative error between 0 and 1"),
        (lambda: Sharpness(rtol=1.5), "rtol=1.5: a relative error"),
        (lambda: Sharpness(max_products=0), "max_products=0: at least one product"),
        (lambda: Sharpness(every_n_steps=0), "every_n_steps=0: a positive number of"),
        (lambda: StepGeometry(curvature="both"), "curvature='both': one of 'exact', 'secant' is"),
        (lambda: StepGeometry(every_n_steps=-1), "every_n_steps=-1: a positive number of"),
    ],
)
def test_so_is_one_of_a_measure(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("measures", ["sharpness", Sharpness, Sharpness(), ["sharpness"], [Sharpness]])
def test_a_measure_may_be_given_in_each_of_these_ways(measures: Any) -> None:
    (measure,) = CurvatureMonitor(measures).measures
    assert isinstance(measure, Sharpness)


# what training_step returns


class Returns(Classifier):
    """A training_step that trains by itself what it should and returns `what(loss)`."""

    def __init__(self, what: Any) -> None:
        super().__init__()
        self.what = what

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("seen", float(batch_idx))
        return self.what(self.loss(batch), batch_idx)


def watched(
    module: Classifier, logger: Any = True, **options: Any
) -> tuple[Any, list[str], ListLogger]:
    """A run with a monitor, what it warned of, and what was logged."""
    monitor, logger = CurvatureMonitor(every_n_steps=1, **options), ListLogger()
    with told() as warnings:
        fit(module, monitor, logger=logger)
    return monitor, warnings, logger


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")  # Lightning's own
def test_a_training_step_that_always_returns_none() -> None:
    monitor, warnings, logger = watched(Returns(lambda loss, i: None))
    assert warnings == [
        "curvwatch: the reading of sharpness failed: the step returned None, so there is no loss to "
        "measure. Training goes on"
    ]
    assert logger.steps("seen") == list(range(6))
    # the optimizer was called all the same, and moved nothing
    assert set(monitor.history["step/update_norm"].values) == {0.0}
    assert "the step did not move the weights" in [n.text for n in monitor.history.notes]
    assert np.isnan(monitor.history["curvature/sharpness"].values).all()


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_training_step_that_skips_a_batch() -> None:
    """The other steps are read; the values of the skipped one are missing, with the reason."""
    monitor, warnings, _ = watched(Returns(lambda loss, i: None if i == 3 else loss))
    assert warnings == []
    assert monitor.history["curvature/sharpness"].steps.tolist() == list(range(6))
    assert np.isfinite(monitor.history["curvature/sharpness"].values).all()
    missing = np.isnan(monitor.history["step/loss_change"].values)
    assert missing.tolist() == [i == 3 for i in range(6)]
    assert [(n.step, n.text) for n in monitor.history.notes] == [
        (3, "the step did not move the weights")
    ]


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_probe_on_which_training_step_returns_none() -> None:
    monitor, warnings, _ = watched(Returns(lambda loss, i: None if i == 0 else loss))
    assert len(warnings) == 1
    assert "sharpness failed: the step returned None" in warnings[0]
    assert np.isfinite(monitor.history["step/loss_change"].values[1:]).all()
    # the next batch becomes the probe
    assert np.isnan(monitor.history["curvature/sharpness"].values[0])
    assert np.isfinite(monitor.history["curvature/sharpness"].values[1:]).all()


@pytest.mark.parametrize("key", ["loss", "other"])
def test_a_loss_in_a_dict(key: str) -> None:
    """Lightning itself refuses a dict without one, so only a loss_fn can bring it."""
    monitor, warnings, _ = watched(
        Classifier(), loss_fn=lambda module, batch: {key: module.loss(batch), "more": 1}
    )
    if key == "loss":
        assert warnings == []
        assert np.isfinite(monitor.history["curvature/sharpness"].values).all()
    else:
        (warning,) = warnings
        assert "the step returned a dict with the keys ['more', 'other'] and no 'loss'" in warning


@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (
            lambda m, b: torch.stack([m.loss(b)] * 2),
            r"the loss has the shape \(2,\); a scalar is needed",
        ),
        (lambda m, b: float(m.loss(b).detach()), "the step returned float; a scalar tensor"),
        (lambda m, b: None, "the step returned None"),
        (lambda m, b: m.loss(b).detach(), "the loss does not depend on any parameter that is trained"),
        (lambda m, b: m.no_such_thing, "AttributeError: .*no_such_thing"),
        (lambda m: 0, "TypeError: .*positional argument"),
    ],
)
def test_a_loss_fn_that_gives_no_loss(loss_fn: Any, message: str) -> None:
    monitor, warnings, logger = watched(Classifier(), loss_fn=loss_fn)
    assert len(warnings) == 1
    assert re.search(f"the reading of sharpness failed: .*{message}", warnings[0])
    assert warnings[0].endswith(". Training goes on")
    assert logger.steps("train_loss") == list(range(6))
    for name in ("curvature/sharpness", "step/loss_change"):
        assert np.isnan(monitor.history[name].values).all()
    assert "the reading of sharpness failed: " in monitor.history.notes[0].text


def test_on_error_raise_raises_the_original() -> None:
    def broken(module: Any, batch: Any) -> Tensor:
        raise ZeroDivisionError("mine")

    monitor = CurvatureMonitor(every_n_steps=1, loss_fn=broken, on_error="raise")
    with pytest.raises(ZeroDivisionError, match=r"^mine$"):
        fit(Classifier(), monitor)


def test_a_measure_that_fails_does_not_take_the_others_along() -> None:
    class Broken(StepGeometry):
        name = "broken"
        metrics = ("step/broken",)

        def read(self, step: Any) -> Any:
            raise ZeroDivisionError("mine")

    monitor, warnings, _ = watched(Classifier(), measures=[Broken, StepGeometry])
    assert warnings == [
        "curvwatch: the reading of broken failed: ZeroDivisionError: mine. Training goes on"
    ]
    assert len(monitor.history["step/loss_change"].steps) == 6


# what is optimized


class ByHand(Classifier):
    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = self.loss(batch)
        self.manual_backward(loss)
        optimizer.step()
        self.log("train_loss", loss)


@pytest.mark.parametrize("loss_fn", [None, lambda m, b: m.loss(b)])
def test_manual_optimization_reads_as_automatic_does(loss_fn: Any) -> None:
    histories, weights = [], []
    for module, given in ((Classifier(), None), (ByHand(), loss_fn)):
        module.load_state_dict(Classifier.state_dict(seeded()))
        monitor, warnings, _ = watched(module, loss_fn=given)
        assert warnings == []
        histories.append({k: v for k, v in monitor.history.to_dict().items() if "cost" not in k})
        weights.append(module.state_dict())
    assert_same(weights[0], weights[1])
    assert_same(histories[0], histories[1])


def seeded() -> Classifier:
    torch.manual_seed(3)
    return Classifier()


class Adversaries(Classifier):
    """Two players on w and v: one minimizes a w^2 / 2 + w v, the other b v^2 / 2 - w v."""

    automatic_optimization = False

    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.w, self.v = nn.Parameter(torch.tensor([2.0])), nn.Parameter(torch.tensor([3.0]))

    def losses(self) -> tuple[Tensor, Tensor]:
        w, v = self.w.sum(), self.v.sum()
        return 5 * w * w / 2 + w * v, 7 * v * v / 2 - w * v

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for i, optimizer in enumerate(self.optimizers()):
            optimizer.zero_grad()
            self.manual_backward(self.losses()[i])
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([self.w], lr=0.1), torch.optim.SGD([self.v], lr=0.01, momentum=0.5)


def test_two_optimizers_with_a_loss_each() -> None:
    loss_fns = [lambda m, b: m.losses()[0], lambda m, b: m.losses()[1]]
    monitor, warnings, logger = watched(Adversaries(), loss_fn=loss_fns)
    assert warnings == []

    def first(name: str) -> float:
        return monitor.history[name].values[0]

    assert monitor.history["curvature/sharpness-SGD"].values == pytest.approx([5.0] * 6)
    assert monitor.history["curvature/sharpness-SGD-1"].values == pytest.approx([7.0] * 6)
    assert first("curvature/stability_ratio-SGD") == pytest.approx(5 * 0.1 / 2)
    assert first("curvature/stability_ratio-SGD-1") == pytest.approx(7 * 0.01 / 3)
    # w: gradient 5 * 2 + 3 = 13, step -1.3 to .7; then v: gradient 7 * 3 - .7 = 20.3, step -.203
    assert first("curvature/loss-SGD") == pytest.approx(16.0)
    assert first("curvature/loss-SGD-1") == pytest.approx(29.4)  # where its own step begins
    assert first("step/update_norm-SGD") == pytest.approx(1.3)
    assert first("step/update_norm-SGD-1") == pytest.approx(0.203)
    assert first("step/gradient_correlation-SGD") == pytest.approx(-13.0)
    assert first("step/gradient_correlation-SGD-1") == pytest.approx(-20.3)
    assert first("step/directional_sharpness-SGD") == pytest.approx(5.0)
    assert first("step/loss_change-SGD") == pytest.approx(2.5 * 0.49 + 2.1 - 16.0)
    assert logger.steps("curvature/loss-SGD") == list(range(6))


class Twice(Adversaries):
    """w steps twice in a batch, v never."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer, _ = self.optimizers()
        for _ in range(2):
            optimizer.zero_grad()
            self.manual_backward(self.losses()[0])
            optimizer.step()


def test_the_first_of_several_steps_in_a_batch_is_read() -> None:
    loss_fns = [lambda m, b: m.losses()[0], lambda m, b: m.losses()[1]]
    monitor, warnings, _ = watched(Twice(), loss_fn=loss_fns)
    assert warnings == []
    assert monitor.history["step/update_norm-SGD"].values[0] == pytest.approx(1.3)
    assert monitor.history["curvature/loss-SGD"].values[0] == pytest.approx(16.0)
    assert "step/update_norm-SGD-1" not in monitor.history


def test_a_list_of_losses_must_fit_the_optimizers() -> None:
    _, warnings, _ = watched(Adversaries(), loss_fn=[lambda m, b: m.losses()[0]])
    (warning,) = warnings
    assert "loss_fn has 1 functions and the run 2 optimizers: give one for each" in warning


def test_no_trainable_parameters() -> None:
    class Frozen(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.net.requires_grad_(False)

        def loss(self, batch: Any) -> Tensor:
            return super().loss(batch).requires_grad_()

    monitor, warnings, logger = watched(Frozen())
    (warning,) = warnings
    assert "the optimizers hold no parameter with requires_grad=True: there is nothing" in warning
    assert logger.steps("train_loss") == list(range(6))
    assert len(monitor.history) == 0


@pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`")
def test_no_optimizer() -> None:
    _, warnings, _ = watched(Classifier(optimizer=lambda params: None))
    (warning,) = warnings
    assert "there is nothing to measure" in warning


def test_a_loss_that_does_not_reach_the_optimizer_s_weights() -> None:
    class Elsewhere(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.spare = nn.Parameter(torch.ones(2))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD([self.spare], lr=0.1)

    _, warnings, _ = watched(Elsewhere())
    (warning,) = warnings
    assert "the loss does not depend on any parameter that is trained: it was detached" in warning
    assert "or uses other parameters than the optimizer's" in warning


# values that are not finite


def test_a_loss_that_is_not_finite_at_some_readings() -> None:
    """Missing there, and there alone; training goes on as it would."""
    scale = [1.0, math.nan, 1.0, math.inf, 1.0, 1.0]

    class Sometimes(Classifier):
        def loss(self, batch: Any) -> Tensor:
            return super().loss(batch) * scale[self.trainer.global_step]

        def on_after_backward(self) -> None:
            for p in self.parameters():
                p.grad.nan_to_num_(0, 0, 0)

    monitor, warnings, logger = watched(Sometimes())
    assert warnings == []
    finite = np.isfinite(scale)
    assert monitor.history["curvature/sharpness"].steps.tolist() == list(range(6))
    for name in ("curvature/sharpness", "curvature/stability_ratio", "step/loss_change"):
        np.testing.assert_array_equal(np.isfinite(monitor.history[name].values), finite, err_msg=name)
    np.testing.assert_array_equal(np.isfinite(logger.values("train_loss")), finite)
    assert [a.step for a in monitor.alerts] == [1, 3]
    notes = [n.text for n in monitor.history.notes if n.step == 1]
    assert "on the probe the loss is nan or its gradient is not finite" in notes


def test_weights_that_are_lost() -> None:
    class Lost(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if batch_idx == 2:
                with torch.no_grad():
                    self.net[0].weight.fill_(math.nan)

    monitor, warnings, _ = watched(Lost())
    assert warnings == []
    assert np.isnan(monitor.history["curvature/sharpness"].values[3:]).all()
    assert np.isnan(monitor.history["step/loss_change"].values[2:]).all()
    assert [(a.rule, a.step) for a in monitor.alerts] == [("not_finite", 2)]


# the probe, batches and loggers


class Stream:
    """A loader without a length."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __iter__(self) -> Any:
        return iter(self.items)


def test_a_probe_that_turns_out_empty() -> None:
    monitor, warnings, logger = watched(Classifier(), probe=iter([]))
    assert warnings == [
        "curvwatch: setting up for this run failed: the probe is empty: give at least one batch, or "
        "probe='first'. Training goes on"
    ]
    assert logger.steps("train_loss") == list(range(6))
    assert len(monitor.history) == 0
    with pytest.raises(CurvwatchError, match="the probe is empty"):
        fit(Classifier(), CurvatureMonitor(probe=iter([]), on_error="raise"))


def test_a_run_that_ends_before_the_probe_is_full_says_so() -> None:
    monitor, warnings, _ = watched(Classifier(), probe_batches=99)
    assert "curvature/sharpness" not in monitor.history
    assert len(monitor.history["step/loss_change"].steps) == 6
    (warning,) = warnings
    assert "6 of 99 probe batches" in warning
    assert "Training goes on" not in warning


def test_a_batch_that_cannot_be_copied_costs_the_readings_of_its_step_alone() -> None:
    class Stubborn:
        """A batch as of a graph library's, that clones itself."""

        def __init__(self, i: int) -> None:
            self.i, self.pair = i, examples(4, seed=i)[:]

        def clone(self) -> Stubborn:
            if self.i == 2:
                raise MemoryError("no room")
            return Stubborn(self.i)

    class OfObjects(Classifier):
        def loss(self, batch: Any) -> Tensor:
            return super().loss(batch.pair)

    monitor = CurvatureMonitor(every_n_steps=1)
    with told() as warnings:
        fit(OfObjects(), monitor, data=Stream([Stubborn(i) for i in range(5)]))
    assert warnings == [
        "curvwatch: getting ready for a reading failed: MemoryError: no room. Training goes on"
    ]
    assert monitor.history["curvature/sharpness"].steps.tolist() == [0, 1, 3, 4]
    assert monitor.history["step/loss_change"].steps.tolist() == [0, 1, 3, 4]


def test_without_a_logger_the_history_is_kept_and_a_warning_says_so() -> None:
    monitor = CurvatureMonitor(every_n_steps=2)
    with told() as warnings:
        trainer = fit(Classifier(), monitor, logger=False)
    assert warnings == [
        "curvwatch: the Trainer has no logger, so readings are in monitor.history and in "
        "trainer.callback_metrics only. "
        "Training goes on"
    ]
    assert monitor.history["curvature/sharpness"].steps.tolist() == [0, 2, 4]
    assert "curvature/sharpness" in trainer.callback_metrics


def test_each_run_is_told_of_its_own_faults() -> None:
    monitor = CurvatureMonitor(every_n_steps=2)
    for _ in range(2):
        with told() as warnings:
            fit(Classifier(), monitor, logger=False)
        assert len(warnings) == 1


@pytest.mark.parametrize("name", ["FSDPStrategy", "DeepSpeedStrategy", "SingleDeviceXLAStrategy"])
def test_a_strategy_that_hides_the_weights_is_refused_with_what_works(name: str) -> None:
    strategy = type(name, (SingleDeviceStrategy,), {})(torch.device("cpu"))
    monitor = CurvatureMonitor()
    with told() as warnings:
        fit(Classifier(), monitor, strategy=strategy, accelerator="auto")
    (warning,) = warnings
    assert f"{name} " in warning
    assert "ModelParallelStrategy with" in warning
    assert monitor.history.to_dict() == {}


def test_a_loader_without_a_length_and_a_batch_that_is_a_dict() -> None:
    x, y = examples(4)[:]

    class OfDicts(Classifier):
        def loss(self, batch: Any) -> Tensor:
            return super().loss((batch["x"], batch["y"]))

    monitor = CurvatureMonitor(every_n_steps=2)
    fit(OfDicts(), monitor, data=Stream([{"x": x, "y": y, "names": ["a", "b"]}] * 5))
    assert monitor.history["curvature/sharpness"].steps.tolist() == [0, 2, 4]
    assert np.isfinite(monitor.history["curvature/sharpness"].values).all()


def test_default_arguments_read_the_first_steps_of_a_short_run() -> None:
    monitor = CurvatureMonitor()
    fit(Classifier(), monitor, data=batches(48), max_steps=12)
    steps = monitor.history["step/loss_change"].steps
    assert steps[0] == 1  # what a step takes is known then, and adaptive optimizers have an edge
    assert len(monitor.history["curvature/sharpness"])
