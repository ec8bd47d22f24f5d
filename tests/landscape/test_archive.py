"""Files of results that were damaged on their way."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from curvwatch import CurvwatchError
from curvwatch.landscape import (
    Aligned,
    Interpolation,
    Path,
    align,
    interpolate,
    load_slice,
    path,
    slice_1d,
    slice_2d,
)
from tests.landscape.hills import surface
from tests.landscape.test_alignment import mlp

quiet: dict[str, Any] = {"progress": False}


def bowl() -> Any:
    return surface(lambda w: w.square().sum())


A, B = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
RESULTS: dict[str, tuple[Any, Any]] = {
    "line": (lambda: slice_1d(bowl(), B, points=3, **quiet), load_slice),
    "plane": (lambda: slice_2d(bowl(), [A, B], points=3, **quiet), load_slice),
    "path": (lambda: path(bowl(), A, B, points=3, **quiet), Path.load),
    "interpolation": (
        lambda: interpolate(bowl(), A, B, points=3, outputs=False, **quiet),
        Interpolation.load,
    ),
    "alignment": (lambda: align(mlp(), mlp(), mlp()), Aligned.load),
}


@pytest.mark.parametrize("name", RESULTS)
def test_damaged_bytes_are_told_in_words_or_do_not_matter(tmp_path, name):
    make, load = RESULTS[name]
    file = tmp_path / "result.npz"
    make().save(file)
    whole, rng, told = file.read_bytes(), random.Random(0), 0
    for cut in [False, False, False, True] * 40:
        content = bytearray(whole)
        for _ in range(rng.choice([1, 1, 20])):
            content[rng.randrange(len(content))] = rng.randrange(256)
        file.write_bytes(content[: rng.randrange(len(content))] if cut else content)
        try:
            load(file)
        except CurvwatchError as error:
            told += "result.npz" in str(error)
    # the rest hit padding and the times of zip files
    assert told > 120
