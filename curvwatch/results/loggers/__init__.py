"""Where readings go: every logger gets the scalars, TensorBoard and W&B get more."""

from curvwatch.results.loggers.destination import LoggerDestination
from curvwatch.results.loggers.hyperparameters import hyperparameters
from curvwatch.results.loggers.loggers import RUN_COST_SHARE, Loggers
from curvwatch.results.loggers.loop_loggers import as_loggers

__all__ = ["RUN_COST_SHARE", "LoggerDestination", "Loggers", "as_loggers", "hyperparameters"]
