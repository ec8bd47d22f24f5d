"""Weights of checkpoints of all kinds, and what is said of those that do not fit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from curvwatch import CurvwatchError, CurvwatchWarning
from curvwatch.landscape import align, surface_of, weights_of
from tests.landscape.surfaces import Bowl
from tests.support.modules import Classifier, batches, fit, mlp


def _surface(module=None):
    return surface_of(Classifier() if module is None else module, batches())


def test_every_kind_of_checkpoint_gives_the_same_weights(tmp_path):
    module = Classifier()
    trainer = fit(module)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    torch.save(module.state_dict(), tmp_path / "plain.pt")
    torch.manual_seed(5)
    surface = _surface(Classifier())
    expected = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    assert not torch.equal(surface.start, expected)
    for checkpoint in (
        tmp_path / "last.ckpt",
        str(tmp_path / "last.ckpt"),
        tmp_path / "plain.pt",
        module.state_dict(),
        {"state_dict": module.state_dict()},
        module,
        expected.double(),
    ):
        w = weights_of(checkpoint, surface)
        assert w.dtype == torch.float32
        assert torch.equal(w, expected)
        assert not w.requires_grad


def test_a_function_has_names_too():
    surface = Bowl.drawn().surface()
    parts = {"first": torch.ones(2, 3), "bias": torch.zeros(3), "second": torch.full((2, 2, 1), 2.0)}
    expected = torch.tensor([1.0] * 6 + [0.0] * 3 + [2.0] * 4, dtype=torch.float64)
    assert torch.equal(weights_of(parts, surface), expected)


def test_weights_that_two_modules_share_are_taken_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    surface = surface_of(Tied(), [torch.ones(1, 2)], loss_fn=lambda m, x: m(x).sum())
    assert surface.size == 4
    assert torch.equal(
        weights_of(Tied(), surface).shape and weights_of(surface.module, surface), surface.start
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("net.0.weight"), "it lacks net.0.weight"),
        (lambda s: s.update(extra=torch.ones(1)), "the module has no extra"),
        (
            lambda s: s.update({"net.0.weight": torch.ones(2, 2)}),
            r"another network: net.0.weight has the shape \(2, 2\) there and \(8, 6\) here",
        ),
    ],
)
def test_names_and_shapes_that_differ_are_named(change, says):
    state = Classifier().state_dict()
    change(state)
    with pytest.raises(CurvwatchError, match=says):
        weights_of(state, _surface())


def test_a_prefix_that_fits_is_proposed_and_taken():
    net = mlp()
    surface = surface_of(net, batches(), loss_fn=lambda m, b: m(b[0]).sum())
    state = Classifier(net).state_dict()
    with pytest.raises(CurvwatchError, match=r"The names fit with prefix='net\.'"):
        weights_of(state, surface)
    assert torch.equal(weights_of(state, surface, prefix="net."), surface.start)


def test_what_the_surface_does_not_move_has_to_be_the_same():
    module = Classifier()
    module.net[0].bias.requires_grad_(False)
    surface = _surface(module)
    assert "net.0.bias" not in [g.name for g in surface.groups]
    assert torch.equal(weights_of(copy.deepcopy(module), surface), surface.start)
    with pytest.raises(CurvwatchError, match=r"does not move.*net\.0\.bias"):
        weights_of(Classifier(), surface)


def test_statistics_of_batch_norms_may_differ_and_other_buffers_are_told():
    module = Classifier(nn.Sequential(mlp(), nn.BatchNorm1d(3)))
    module.register_buffer("table", torch.ones(2))
    surface = _surface(module)
    state = copy.deepcopy(module.state_dict())
    state["net.1.running_mean"] += 1
    weights_of(state, surface)
    state["table"] += 1
    with pytest.warns(CurvwatchWarning, match="other values of buffers: table"):
        weights_of(state, surface)


class Unsafe:
    pass


def test_files_that_cannot_be_read_are_told(tmp_path):
    surface = _surface()
    with pytest.raises(CurvwatchError, match="there is no checkpoint"):
        weights_of(tmp_path / "none.ckpt", surface)
    with pytest.raises(CurvwatchError, match="is a folder"):
        weights_of(tmp_path, surface)
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(CurvwatchError, match=r"text\.ckpt"):
        weights_of(tmp_path / "text.ckpt", surface)
    (tmp_path / "empty.ckpt").write_bytes(b"")
    with pytest.raises(CurvwatchError, match=r"empty\.ckpt"):
        weights_of(tmp_path / "empty.ckpt", surface)
    torch.save({"state_dict": Classifier().state_dict(), "x": Unsafe()}, tmp_path / "unsafe.ckpt")
    with pytest.raises(CurvwatchError, match="weights_only=True"):
        weights_of(tmp_path / "unsafe.ckpt", surface)
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(CurvwatchError, match="holds a list"):
        weights_of(tmp_path / "list.ckpt", surface)
    with pytest.raises(CurvwatchError, match="int: a path"):
        weights_of(3, surface)
    with pytest.raises(CurvwatchError, match="a flat vector of shape"):
        weights_of(torch.zeros(3), surface)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda t: t.to("meta"), "is on the meta device, which keeps no values"),
        (lambda t: t.to(torch.complex64), r"is torch\.complex64"),
        (lambda t: (100 * t).to(torch.int8), r"is torch\.int8, torch\.strided: dense, real floating"),
        (lambda t: t.to_sparse(), r"is torch\.float32, torch\.sparse_coo: dense, real floating-point"),
        (lambda t: nn.UninitializedParameter(), "has no values yet: it is of a lazy layer"),
    ],
)
def test_tensors_that_hold_no_weights_are_refused_in_words(changed, message):
    state = mlp().state_dict()
    surface = surface_of(mlp(), [torch.ones(2, 6)], loss_fn=lambda m, x: m(x).sum())
    other = {**state, "3.weight": changed(state["3.weight"])}
    with pytest.raises(CurvwatchError, match=r"3\.weight of the checkpoint " + message):
        weights_of(other, surface)
    with pytest.raises(CurvwatchError, match=r"3\.weight of .* " + message):
        align(mlp(), state, other)
