"""Runs in the terminal: the table of `curvwatch compare`, and `curvwatch show`."""

from curvwatch.report.terminal.comparison import print_comparison
from curvwatch.report.terminal.run_view import follow, show

__all__ = ["follow", "print_comparison", "show"]
