"""Kinds of steps, batches, loaders and runs: bits with and without the monitor, and values."""

from __future__ import annotations

import pytest

from tests.compat.check import check_run, check_values
from tests.compat.rows import Row, with_twin
from tests.compat.steps import STEPS
from tests.support.studies import without

# Lightning's own
pytestmark = pytest.mark.filterwarnings("ignore:`training_step` returned `None`")


# rows that change what surrounds a step, or how a batch is wrapped, and no value; that they leave no
# trace is checked of most
LIKE_ANOTHER = (
    "StochasticWeightAveraging",
    "sanity check",
    "validation within the epoch",
    "limit_train_batches",
    "max_time",
    "KeyboardInterrupt",
    "an exception in training_step",
    "CombinedLoader: min_size",
    "IterableDataset without a length",
    "batch: dataclass",
    "batch: BatchEncoding (a UserDict with .to)",
    "training_step returns a dict",
)


# the loops of Lightning and the copies of batches that these take are those of other rows
LEFT_AS_ANOTHER = (
    "StochasticWeightAveraging",
    "limit_train_batches",
    "max_time",
    "CombinedLoader: min_size",
    "batch: dataclass",
)


@pytest.mark.parametrize("row", without(STEPS, leave=LEFT_AS_ANOTHER, key=str), ids=str)
def test_run(row: Row) -> None:
    check_run(row)


@pytest.mark.parametrize("row", without(with_twin(STEPS), leave=LIKE_ANOTHER, key=str), ids=str)
def test_values(row: Row) -> None:
    check_values(row)
