"""Readings of a loop against a dense Hessian in float64, with the dropout masks of the steps."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from curvwatch import Sharpness, StepGeometry, Watch
from tests.support.modules import batches
from tests.training.loop.loops import loss_fn, normalised


def test_landscape_and_step_are_those_of_the_dense_hessian() -> None:
    net = normalised().double()
    twin = copy.deepcopy(net)  # for it is called, too
    names = [name for name, _ in net.named_parameters()]
    shapes = [p.shape for p in net.parameters()]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.5)

    def at(w: Tensor, batch: Any, random: Tensor) -> Tensor:
        """The loss at `w` with the dropout mask of `random`."""
        parts = [p.view(s) for p, s in zip(w.split([s.numel() for s in shapes]), shapes, strict=True)]
        buffers = {name: b.clone() for name, b in net.named_buffers()}
        with torch.random.fork_rng():
            torch.set_rng_state(random)
            state = {**dict(zip(names, parts, strict=True)), **buffers}
            return F.cross_entropy(functional_call(twin, state, (batch[0],)), batch[1])

    def weights() -> Tensor:
        return parameters_to_vector(net.parameters()).detach().clone()

    measures = [Sharpness(rtol=1e-8), StepGeometry()]
    probe = None
    with Watch(net, optimizer, loss_fn, measures, every_n_steps=1, on_error="raise") as watch:
        for x, y in batches(16):
            batch = (x.double(), y)
            random, before = torch.get_rng_state(), weights()
            probe = probe or (batch, random)
            loss_fn(net, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            read = watch.step(batch)

            d = weights() - before
            g = torch.autograd.functional.jacobian(lambda w, b=batch, r=random: at(w, b, r), before)
            H = torch.autograd.functional.hessian(lambda w, b=batch, r=random: at(w, b, r), before)
            change = at(before + d, batch, random) - at(before, batch, random)
            landscape = torch.autograd.functional.hessian(lambda w, p=probe: at(w, *p), before)
            top = torch.linalg.eigvalsh(landscape)[-1]
            assert {name: read[name] for name in read if not name.startswith("curvature/cost")} == {
                "curvature/loss": pytest.approx(at(before, *probe).item(), rel=1e-12),
                "curvature/sharpness": pytest.approx(top.item(), rel=1e-7),
                "curvature/sharpness_x_lr": pytest.approx(0.2 * top.item(), rel=1e-7),
                "curvature/edge": pytest.approx(10.0),
                "curvature/effective_sharpness": pytest.approx(top.item(), rel=1e-7),
                "curvature/effective_edge": pytest.approx(15.0),
                "curvature/stability_ratio": pytest.approx(top.item() / 15.0, rel=1e-7),
                "curvature/residual": pytest.approx(0.0, abs=1e-8),
                "step/gradient_correlation": pytest.approx((g @ d / d.norm()).item(), rel=1e-9),
                "step/gradient_cosine": pytest.approx((g @ d / d.norm() / g.norm()).item(), rel=1e-9),
                "step/directional_sharpness": pytest.approx((d @ H @ d / (d @ d)).item(), rel=1e-9),
                "step/predicted_loss_change": pytest.approx((g @ d + d @ H @ d / 2).item(), rel=1e-9),
                "step/loss_change": pytest.approx(change.item(), rel=1e-9),
                "step/relative_loss_change": pytest.approx(
                    (change / at(before, batch, random).abs()).item(), rel=1e-9
                ),
                "step/stability_ratio": pytest.approx((d @ H @ d / (-2 * g @ d)).item(), rel=1e-9),
                "step/update_norm": pytest.approx(d.norm().item(), rel=1e-9),
                "step/relative_update": pytest.approx((d.norm() / before.norm()).item(), rel=1e-9),
            }
    assert not watch.history.notes
