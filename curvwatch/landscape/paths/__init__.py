"""Paths between minima, and the loss along them."""

from curvwatch.landscape.paths.figures import plot_interpolations, plot_paths
from curvwatch.landscape.paths.interpolation import Interpolation, interpolate
from curvwatch.landscape.paths.paths import path
from curvwatch.landscape.paths.results import Path

__all__ = ["Interpolation", "Path", "interpolate", "path", "plot_interpolations", "plot_paths"]
