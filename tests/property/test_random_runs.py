"""Runs drawn at random: the same bits with and without the monitor, and no value without a reason."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from curvwatch import CurvatureMonitor
from tests.compat.rows import Row, train
from tests.property.grammar import Data, Model, loaders, models, monitors, trainers
from tests.support.modules import batches, told
from tests.support.trace import assert_same

# the default is a matter of seconds; `make test-property` asks for more
DRAWS = int(os.environ.get("CURVWATCH_DRAWS", "10"))


# torch's own of a reentrant checkpoint in validation, and Lightning's of overfit_batches
@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled train dataloader shuffling")
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
@settings(
    max_examples=DRAWS,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # a run is too slow to be made smaller
)
@given(model=models, data=loaders, trainer=trainers, monitor=monitors)
def test_a_random_run(model: Model, data: Data, trainer: dict[str, Any], monitor: Any) -> None:
    row = Row("drawn", model.made, data=data.made, options={"val": batches(4), **trainer})
    plain = train(row)
    watching = CurvatureMonitor(**monitor)
    with told() as warnings:
        watched = train(row, watching)
    assert_same(plain.seen, watched.seen)
    assert not any(" failed: " in text for text in warnings), warnings
    assert len(warnings) == len(set(warnings)), warnings
    # a probe of two batches may be complete only after the last reading that was due
    assert len(watching.history) > 0 or warnings or monitor.get("probe_batches") == 2
    check_history(watching)


def check_history(monitor: CurvatureMonitor) -> None:
    """Where a value is missing there is a note of the same step."""
    explained = {note.step for note in monitor.history.notes}
    for name in monitor.history:
        steps, values = monitor.history[name]
        assert (np.diff(steps) > 0).all(), name
        missing = set(steps[~np.isfinite(values)].tolist())
        assert missing <= explained, f"{name} is missing at {missing}: {monitor.history.notes}"
