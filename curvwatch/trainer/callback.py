"""A Callback that is one in both of Lightning's namespaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning.pytorch import Callback as _Callback

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


__all__ = ["CallbackBase"]
