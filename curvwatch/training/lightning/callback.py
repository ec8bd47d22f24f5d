"""A Callback that is one in both of Lightning's namespaces."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from lightning_utilities.core import rank_zero

# the import of either namespace makes its logger the one of rank-zero messages; the user's choice of
# namespace, and so the name of that logger, shall not depend on curvwatch
_chosen = rank_zero.log if {"lightning.pytorch", "pytorch_lightning"} & sys.modules.keys() else None

from lightning.pytorch import Callback as _Callback  # noqa: E402  (after the look at the logger)

_chosen = _chosen or rank_zero.log

if TYPE_CHECKING:
    CallbackBase = _Callback
else:
    # `lightning.pytorch` and `pytorch_lightning` hold unrelated copies of every class; a callback
    # that inherits from both is accepted by the Trainer of either
    try:
        from pytorch_lightning import Callback as _OtherCallback
    except ImportError:
        CallbackBase = _Callback
    else:

        class CallbackBase(_Callback, _OtherCallback):
            """A Callback of both namespaces."""


rank_zero.log = _chosen

__all__ = ["CallbackBase"]
