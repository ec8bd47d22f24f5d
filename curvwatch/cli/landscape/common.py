"""What the commands on checkpoints share: checks of their arguments, and the surface."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from curvwatch.cli.landscape import loading
from curvwatch.errors import CurvwatchError
from curvwatch.landscape.checkpoints import load
from curvwatch.landscape.module_surface import surface_of
from curvwatch.landscape.surface import Surface
from curvwatch.report.text import printable


def check_subject(chosen: argparse.Namespace) -> None:
    """Raise a CurvwatchError where no module is named."""
    if chosen.module is None and chosen.config is None:
        raise CurvwatchError("--module PACKAGE:CLASS, or --config YAML, is needed")


def check_files(chosen: argparse.Namespace) -> None:
    """Raise a CurvwatchError where the figure or the numbers could not be written."""
    for file in (chosen.output, chosen.save):
        if file is not None and not file.parent.is_dir():
            raise CurvwatchError(f"{printable(file)}: there is no folder {printable(file.parent)}")
    if chosen.output is None:
        return
    from matplotlib.figure import Figure

    endings = sorted(Figure().canvas.get_supported_filetypes())
    if chosen.output.suffix.removeprefix(".").lower() not in endings:
        raise CurvwatchError(
            f"-o {printable(chosen.output)}: one of {', '.join(endings)} is needed at its end"
        )


def surface_from(chosen: argparse.Namespace) -> Surface:
    """The surface that the arguments of a command name."""
    last = chosen.ckpt[-1]
    data: Any = None
    if chosen.config is not None:
        module, data = loading.from_config(chosen.config, module=chosen.module, data=chosen.data)
        module = loading.load_weights(module, last, load(last))
    else:
        module = loading.module_of(chosen.module, last)
    if data is not None:
        batches = loading.batches_from(data, str(chosen.config))
    else:
        batches = loading.batches_of(chosen.data, module, last)
    device = chosen.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        module.to(device)
    except (RuntimeError, AssertionError) as error:
        raise CurvwatchError(f"--device {device}: {error}") from error
    loss_fn = None if chosen.loss is None else loading.import_object(chosen.loss)
    return surface_of(
        module,
        batches,
        loss_fn=loss_fn,
        mode=chosen.mode,
        max_batches=chosen.max_batches,
        seed=chosen.seed,
    )
