"""Runs that are read back from their logs, in the terminal, as an HTML page, and in a W&B workspace.

Each room below exports its own names, since each needs another extra: logs (PyYAML), terminal (rich,
plotext), html (Jinja2).
"""
