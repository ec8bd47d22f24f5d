"""What each row has to pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from curvwatch import CurvatureMonitor, Sharpness, StepGeometry
from tests.compat.rows import SEED, Outcome, Recorder, Row, train
from tests.compat.twin import Twin, Use, in_float64, values_of_step
from tests.support.modules import LANDSCAPE, STEP, told
from tests.support.trace import assert_same


def check_run(row: Row) -> tuple[Outcome, CurvatureMonitor]:
    """Bits with and without the monitor; a value at each step, or a note; the warnings of the row."""
    plain = train(row)
    monitor = CurvatureMonitor(every_n_steps=1, **row.monitor)
    with told() as warnings:
        watched = train(row, monitor)
    for part in plain.seen:
        assert_same(plain.seen[part], watched.seen[part], part)
    assert len(warnings) == len(row.says), warnings
    for text, part in zip(warnings, row.says, strict=True):
        assert part in text
    check_history(row, monitor)
    return watched, monitor


def check_history(row: Row, monitor: CurvatureMonitor) -> None:
    """At each of the row's steps every metric has a value, or there is a note."""
    explained = {note.step for note in monitor.history.notes}
    for name in monitor.history:
        steps, values = monitor.history[name]
        missing = steps[~np.isfinite(values)].tolist()
        assert set(missing) <= explained, f"{name} at {missing}: {monitor.history.notes}"
        if name.startswith("step/"):
            steps, values = (a[~np.isin(steps, row.skipped)] for a in (steps, values))
            assert steps.tolist() == [s for s in row.steps if s not in row.skipped], name
        else:
            assert steps.tolist() == list(row.steps), name
        if name.startswith(("curvature/sharpness", "step/directional_sharpness")):
            assert (np.isnan if row.values == "words" else np.isfinite)(values).all(), name
    assert {name.partition("-")[0] for name in monitor.history} >= LANDSCAPE | STEP


def check_values(row: Row) -> None:
    """What is logged against the row's twin, at the second step.

    There the batch of the step is not the probe, and weights and buffers have moved.
    """
    recorder = Recorder()
    measures = [Sharpness(rtol=min(row.rtol, 1e-3)), StepGeometry()]
    monitor = CurvatureMonitor(measures, every_n_steps=1, on_error="raise", **row.monitor)
    asked = {"precision", "plugins"} & row.options.keys()
    options = row.options if asked else {**row.options, "precision": "64-true"}
    trainer = train(row, recorder, monitor, options=options).trainer
    held = {id(p) for o in trainer.optimizers for g in o.param_groups for p in g["params"]}
    module = trainer.lightning_module
    names = [n for n, p in module.named_parameters() if id(p) in held and p.requires_grad]

    group = row.options.get("accumulate_grad_batches", 1)
    step = [s for s in row.steps if s not in row.skipped][1]
    first, last = group * step, group * (step + 1) - 1
    uses = [Use(_double(b), r) for b, r in zip(recorder.batches, recorder.random, strict=True)]
    before, after = recorder.states[first], recorder.after[last]
    d = torch.cat([(after[n].double() - before[n].double()).reshape(-1) for n in names])
    with in_float64():
        torch.manual_seed(SEED)
        again = getattr(row.module(), "_orig_mod", row.module()).double()
        again.load_state_dict(before)
        expected = values_of_step(
            Twin(again, names),
            d,
            probe=uses[:1],
            own=uses[first : last + 1],
            masked=row.masked,
            hold=row.hold,
        )
    for name, value in expected.items():
        logged = monitor.history[name].values[monitor.history[name].steps == step].item()
        assert logged == pytest.approx(value, rel=row.rtol), name


def _double(batch: Any) -> Any:
    return apply_to_collection(batch, Tensor, lambda t: t.double() if t.is_floating_point() else t)
