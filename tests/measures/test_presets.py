"""Presets: their measures, their prices, and short runs with each of them."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from curvwatch import CurvatureMonitor, Watch
from curvwatch.cli import main
from curvwatch.measures import DEFAULT_MEASURES, MEASURES, Measure, make_measures
from curvwatch.measures.presets import PRESETS
from tests.measures.points import landscape, objective_of
from tests.support.cases import CASES
from tests.support.modules import Classifier, fit, told
from tests.support.studies import without

STEPS = 3


class OfCase(Classifier):
    """Trains the model of a case."""

    def __init__(self, name: str) -> None:
        self.case = CASES[name]
        super().__init__(self.case.model())

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return self.case.loss(self.net(x), y)


def run(name: str, *monitors: CurvatureMonitor, steps: int = STEPS) -> dict[str, Tensor]:
    """The weights, and torch's random numbers, after a run."""
    torch.manual_seed(0)
    module = OfCase(name)
    x, y = module.case.batch(8 * STEPS)
    batches = list(zip(x.split(8), y.split(8), strict=True))
    fit(module, *monitors, data=DataLoader(batches, batch_size=None), max_steps=steps)
    return {**copy.deepcopy(module.state_dict()), "random": torch.get_rng_state()}


def test_names() -> None:
    assert list(PRESETS) == ["watch", "study", "everything"]
    assert PRESETS["everything"].measures.keys() == MEASURES.keys()
    default = CurvatureMonitor()
    for which, preset in PRESETS.items():
        monitor = CurvatureMonitor.preset(which)
        assert [m.name for m in monitor.measures] == list(preset.measures)
        assert monitor.budget == preset.budget
        # none has a cadence that no budget keeps
        assert {m.every_n_steps for m in monitor.measures} == {None}
    watch = CurvatureMonitor.preset("watch")
    assert [vars(m) for m in watch.measures] == [vars(m) for m in make_measures(DEFAULT_MEASURES)]
    assert watch.budget == default.budget
    assert watch._session.probe.batches == default._session.probe.batches
    assert default.measures is not watch.measures


@pytest.mark.parametrize("which", ["studies", "", None])
def test_an_unknown_name_is_told_those_there_are(which: Any) -> None:
    with pytest.raises(ValueError, match="one of 'watch', 'study', 'everything' is needed"):
        CurvatureMonitor.preset(which)


def test_options_override_and_are_checked() -> None:
    monitor = CurvatureMonitor.preset("study", budget=0.01, every_n_steps=7, name="mine")
    assert (monitor.budget, monitor.every_n_steps, monitor.name) == (0.01, 7, "mine")
    assert len(CurvatureMonitor.preset("study", measures=["sharpness"]).measures) == 1
    with pytest.raises(ValueError, match="budget=7"):
        CurvatureMonitor.preset("watch", budget=7)
    assert type(type("Mine", (CurvatureMonitor,), {}).preset("watch")).__name__ == "Mine"


def spent(measure: Measure, *, batches: int) -> float:
    """Gradients of one batch that a first reading on `batches` takes, from its counts on one."""
    case = CASES["mlp_cross_entropy"]
    objective = objective_of(case, case.model(), [case.batch(6)])
    with landscape(objective, update=lambda: -0.01 * at.objective.weights) as at:
        at.objective.gradient()
        objective.counts.gradients = 0
        measure.read(at)
    counts = objective.counts
    # docs/performance.md: a product through a kept graph, or one for which the graph is made
    product = 2.0 if batches == 1 else 3.5
    return batches * (counts.products * product + counts.gradients + counts.forwards / 3)


@pytest.mark.parametrize("which", PRESETS)
def test_prices_are_near_those_stated(which: str) -> None:
    preset = PRESETS[which]
    costs = {True: 0.0, False: 0.0}
    for measure in preset.make():
        if measure.stage == "landscape":
            costs[measure.expensive] += spent(measure, batches=preset.probe_batches)
    # of so small a network the sharpness is read more finely, and a first reading costs more
    assert preset.landscape <= costs[False] <= 3 * preset.landscape
    assert preset.expensive <= costs[True] <= 3 * preset.expensive
    assert f"{preset.budget:.0%} of the time" in preset.price


@pytest.mark.parametrize(
    ("which", "name"),
    without(
        itertools.product(PRESETS, CASES),
        leave=[
            ("everything", "mlp_mse"),
            ("everything", "cnn_batchnorm"),
            ("everything", "transformer_sdpa"),
            ("study", "mlp_mse"),
            ("study", "transformer_sdpa"),
        ],
    ),
)
def test_a_run_in_which_no_reading_fails_and_which_is_left_as_it_was(which: str, name: str) -> None:
    # a probe of three batches takes a minute for all of these
    monitor = CurvatureMonitor.preset(which, on_error="raise", probe_batches=1)
    with told() as warnings:
        watched = run(name, monitor)
    plain = run(name)
    assert plain.keys() == watched.keys()
    assert all(torch.equal(plain[key], watched[key]) for key in plain)
    # what may be said is that a value is not to be trusted
    assert not [text for text in warnings if "failed" in text]
    assert not [note for note in monitor.history.notes if "failed" in note.text]
    for measure in monitor.measures:
        values = [monitor.history[m].values[0] for m in measure.metrics if m in monitor.history]
        # no ReLU is in these networks, and no second batch
        silent = measure.name in ("activation_sparsity", "gradient_noise")
        assert silent or any(map(math.isfinite, values)), measure.name


def test_what_a_run_does_not_have_fails_once_and_the_others_go_on() -> None:
    class Odd(OfCase):
        """A loss through which no outputs are found."""

        def loss(self, batch: Any) -> Tensor:
            return (self.net(batch[0]).logsumexp(1) - 1.0).square().mean()

    torch.manual_seed(0)
    module = Odd("mlp_mse")
    x, y = module.case.batch(8 * 6)
    batches = DataLoader(list(zip(x.split(8), y.split(8), strict=True)), batch_size=None)
    monitor = CurvatureMonitor.preset("everything", every_n_steps=2, probe_batches=1)
    with told() as warnings:
        fit(module, monitor, data=batches, max_steps=6)
    failed = [text for text in warnings if "failed" in text]
    assert len(failed) == 1  # that of gauss_newton and fisher is one cause
    assert "outputs of the network cannot be identified" in failed[0]
    for metric in ("gauss_newton/trace", "fisher/trace"):
        assert all(map(math.isnan, monitor.history[metric].values))
    for metric in ("curvature/sharpness", "curvature/layer_signal", "curvature/trace"):
        assert all(map(math.isfinite, monitor.history[metric].values))
        assert monitor.history[metric].steps.tolist() == [0, 2, 4]


def test_in_a_loop() -> None:
    case = CASES["mlp_mse"]
    model = case.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss_fn = lambda model, batch: case.loss(model(batch[0]), batch[1])  # noqa: E731
    options: Any = {"on_error": "raise", "every_n_steps": 1}
    with Watch.preset("study", model, optimizer, loss_fn, **options) as watch:
        batch = case.batch(8)
        loss_fn(model, batch).backward()
        optimizer.step()
        watch.step(batch)
    assert [m.name for m in watch.measures] == list(PRESETS["study"].measures)
    assert watch.history["curvature/eigenvalue/0"].values[0] > 0
    with pytest.raises(ValueError, match="preset='all'"):
        Watch.preset("all", model, optimizer, loss_fn)


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measures"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for which in PRESETS:
        assert which in out
    assert "20% of the time" in out
    assert "all of" in out
