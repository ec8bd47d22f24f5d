"""A loss as a function of its weights, and its derivatives."""

from curvwatch.objective.objective import Counts, Objective, Opened, Products, check_products
from curvwatch.objective.samples import Sample

__all__ = ["Counts", "Objective", "Opened", "Products", "Sample", "check_products"]
