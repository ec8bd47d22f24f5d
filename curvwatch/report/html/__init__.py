"""The report of `curvwatch compare`: one HTML file that needs no network."""

from curvwatch.report.html.page import write_report

__all__ = ["write_report"]
