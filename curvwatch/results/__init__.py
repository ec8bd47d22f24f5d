"""What becomes of a reading: history, loggers, alerts and advice."""

from curvwatch.results.densities import Densities, DensitySeries
from curvwatch.results.history import HISTORY_SUFFIX, History, Note, Series

__all__ = ["HISTORY_SUFFIX", "Densities", "DensitySeries", "History", "Note", "Series"]
