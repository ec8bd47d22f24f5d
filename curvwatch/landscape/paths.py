"""Paths between two minima: straight, trained, or relaxed, and the barrier on each."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from curvwatch.arguments import check_word
from curvwatch.errors import CurvwatchError
from curvwatch.landscape import archive
from curvwatch.landscape.band import relaxed
from curvwatch.landscape.bars import bar
from curvwatch.landscape.curves import Curve, between, distance
from curvwatch.landscape.fitting import DEFAULT_RATES, Optimizer, fitted
from curvwatch.landscape.profile import profile
from curvwatch.landscape.terrain import Counted, Terrain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["line", "bezier", "chain", "band"]
_WHAT = "path"
