"""`python -m curvwatch` is the command `curvwatch`."""

from curvwatch.cli import main

main()
