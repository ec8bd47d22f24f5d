"""`curvwatch demo`: three optimizers on handwritten digits, each at its edge of stability."""

from curvwatch.cli.demo.run import run_demo

__all__ = ["run_demo"]
