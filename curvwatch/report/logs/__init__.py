"""Runs, read back from the logs of TensorBoard, W&B, CSV files and saved histories."""

from curvwatch.report.logs.find import FoundRun, find_runs, short_names
from curvwatch.report.logs.logged_run import LoggedAlert, LoggedCurve, LoggedDensity, LoggedRun
from curvwatch.report.logs.read import read_run, read_runs

__all__ = [
    "FoundRun",
    "LoggedAlert",
    "LoggedCurve",
    "LoggedDensity",
    "LoggedRun",
    "find_runs",
    "read_run",
    "read_runs",
    "short_names",
]
