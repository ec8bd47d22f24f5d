"""What `align` returned: written and read back, and drawn."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from curvwatch import CurvwatchError
from curvwatch.landscape import Aligned, Path, align, interpolate, path, weights_of
from tests.landscape.hills import cnn, images, surface_of_net
from tests.landscape.test_alignment import STREAM, Residual, state_of
from tests.support.trace import assert_same

quiet = {"progress": False}


@pytest.fixture(scope="module")
def found():
    """A CNN, and another one aligned to it."""
    torch.manual_seed(0)
    module, other = cnn(), cnn()
    return module, align(module, module, other)


def test_a_file_gives_it_back(found, tmp_path):
    module, aligned = found
    file = aligned.save(tmp_path / "folder" / "aligned")
    assert file == tmp_path / "folder" / "aligned.npz"
    again = Aligned.load(file)
    assert_same(dict(again.state), dict(aligned.state), "state")
    assert_same(dict(again.permutations), dict(aligned.permutations), "permutations")
    for name in ("distances_before", "distances", "rounds", "error", "distance", "moved"):
        assert_same(getattr(again, name), getattr(aligned, name), name)
    f = surface_of_net(module, images())
    torch.testing.assert_close(weights_of(again.state, f), weights_of(aligned.state, f), rtol=0, atol=0)
    few = {"points": 3, "refine": 0, **quiet}
    lines = [path(f, module, b, **few) for b in (aligned, again)]
    np.testing.assert_array_equal(lines[0].losses, lines[1].losses)
    assert interpolate(f, again, aligned, points=3, outputs=False, **quiet).distance == 0.0


STATE = {
    "half": torch.tensor([[1.5, -0.1], [torch.inf, 6e-8]]).half(),
    "brain": torch.tensor([1.5, -0.1, 1e38]).bfloat16(),
    "double": torch.tensor([0.1, torch.nan, -0.0], dtype=torch.float64),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "conjugate": torch.tensor([1 + 2j]).conj(),
    "count": torch.tensor(2**40 + 1),
    "mask": torch.tensor([True, False]),
    "none": torch.empty(0, 3),
    "scalar": torch.tensor(0.3).bfloat16(),
    "a/b ../c": torch.ones(1, 1, 1),
    "file": torch.ones(2, dtype=torch.float8_e4m3fn),
}


def test_tensors_of_any_dtype_and_name_come_back_bit_for_bit(found, tmp_path):
    _, aligned = found
    again = Aligned.load(replace(aligned, state=STATE).save(tmp_path / "a.npz"))
    resolved = {name: t.resolve_conj() for name, t in STATE.items()}
    assert_same(dict(again.state), resolved, "state")
    with np.load(tmp_path / "a.npz") as file:  # where numpy knows the dtype, numbers are numbers
        np.testing.assert_array_equal(file["tensor 0"], STATE["half"].numpy())


def test_files_that_hold_none(found, tmp_path):
    _, aligned = found
    file = aligned.save(tmp_path / "a.npz")
    whole = file.read_bytes()
    cut = tmp_path / "cut.npz"
    for content in (whole[: len(whole) // 2], b"", b"no zip", whole.replace(b"\x93NUMPY", b"XXXXXX")):
        cut.write_bytes(content)
        with pytest.raises(CurvwatchError, match=r"cut\.npz is no 'alignment' that curvwatch saved"):
            Aligned.load(cut)
    np.save(cut.with_suffix(".npy"), np.ones(2))
    with pytest.raises(CurvwatchError, match="no 'alignment' that curvwatch saved"):
        Aligned.load(cut.with_suffix(".npy"))
    with pytest.raises(CurvwatchError, match="of another kind, 'alignment'"):
        Path.load(file)
    with pytest.raises(CurvwatchError, match="there is no file"):
        Aligned.load(tmp_path / "nowhere.npz")


@pytest.mark.parametrize(
    "damage",
    [
        lambda values, arrays: values.pop("shapes"),
        lambda values, arrays: values["shapes"].pop(),
        lambda values, arrays: values["shapes"].__setitem__(0, [2]),
        lambda values, arrays: values["dtypes"].__setitem__(0, "no_such"),
        lambda values, arrays: values["dtypes"].__setitem__(0, "nn"),
        lambda values, arrays: values.__setitem__("state", 3),
        lambda values, arrays: arrays.pop("tensor 1"),
        lambda values, arrays: arrays.pop("permutation 0"),
        lambda values, arrays: values.pop("distances"),
    ],
)
def test_damage_is_told(found, tmp_path, damage):
    _, aligned = found
    file = aligned.save(tmp_path / "a.npz")
    with np.load(file) as opened:
        arrays = dict(opened)
    head = json.loads(str(arrays.pop("curvwatch")))
    damage(head["values"], arrays)
    with open(file, "wb") as opened:
        np.savez(opened, curvwatch=np.array(json.dumps(head)), **arrays)
    with pytest.raises(CurvwatchError, match=r"a\.npz is damaged"):
        Aligned.load(file)


def test_the_figure_has_layers_and_permutations():
    torch.manual_seed(1)
    module, other = Residual(), Residual()
    a, b = state_of(module), state_of(other)
    found = align(module, a, b, spec=STREAM, inputs=torch.randn(5, 4))
    left, right = found.plot().axes
    layers = ["first", "block.0", "block.2", "last"]
    assert [t.get_text() for t in left.get_yticklabels()] == layers
    before, after = left.containers
    for bars, state in ((before, b), (after, found.state)):
        for bar, layer in zip(bars, layers, strict=True):
            # the last one's bias stands in no spec
            names = [n for n in a if n.startswith(f"{layer}.") and n in STREAM]
            off = torch.cat([(state[n] - a[n]).reshape(-1) for n in names])
            assert bar.get_width() == pytest.approx(float(off.norm()), rel=1e-5)
    assert [t.get_text() for t in right.get_yticklabels()] == list(found.permutations)
    for bar, text, order in zip(
        right.containers[0], right.texts, found.permutations.values(), strict=True
    ):
        count = sum(i != u for i, u in enumerate(order.tolist()))
        assert bar.get_width() == pytest.approx(count / len(order))
        assert text.get_text() == f"{count} of {len(order)}"
    assert f"{found.distance_before:.4g}, then {found.distance:.4g}" in left.get_title()
    assert left.get_ylim()[0] > left.get_ylim()[1]  # the first one on top
