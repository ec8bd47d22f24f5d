"""A loss as a function of its weights, and its derivatives."""

from curvwatch.objective.evaluation import Counts
from curvwatch.objective.objective import Objective, OpenObjective, Products, check_products
from curvwatch.objective.samples import RecordedBatch

Sample = RecordedBatch  # its name until 0.1

__all__ = [
    "Counts",
    "Objective",
    "OpenObjective",
    "Products",
    "RecordedBatch",
    "Sample",
    "check_products",
]
