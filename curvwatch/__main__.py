"""`python -m curvwatch` is the command `curvwatch`."""

import sys

from curvwatch.cli import main

sys.exit(main())
