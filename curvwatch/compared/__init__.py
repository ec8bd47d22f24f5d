"""Other optimizers' would-be steps, from the gradients of a run that they do not touch."""

from curvwatch.compared.following import Following
from curvwatch.compared.named import COMPARED, METRICS, Compared, Compares, make_compared

__all__ = ["COMPARED", "METRICS", "Compared", "Compares", "Following", "make_compared"]
