"""Products with the Gauss-Newton matrix against the dense J' H_L J."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from curvwatch import CurvwatchError, Objective
from curvwatch.objective.outputs.output_graph import GivenOutputs, OutputGraphs
from curvwatch.objective.samples import RecordedBatch
from curvwatch.operators import gauss_newton
from tests.measures.output_twins import gauss_newton_of, gauss_newton_of_case, matrix
from tests.measures.points import objective_of
from tests.support.cases import CASES
from tests.support.studies import only

pytestmark = pytest.mark.usefixtures("double_precision")


def products_of(objective: Objective, given: GivenOutputs | None = None) -> torch.Tensor:
    with objective.open() as opened:
        return matrix(gauss_newton(opened, OutputGraphs(opened, given)))


# two batches of the larger networks are many products more, and no other sum
@pytest.mark.parametrize(
    ("name", "sizes"),
    only(
        itertools.product(CASES, [(6,), (6, 3)]),
        take=[
            ("mlp_cross_entropy", (6,)),
            ("mlp_cross_entropy", (6, 3)),
            ("mlp_mse", (6, 3)),
            ("cnn_batchnorm", (6,)),
        ],
    ),
)
def test_products_equal_the_dense_matrix(name, sizes):
    case = CASES[name]
    model = case.model()
    batches = [case.batch(n) for n in sizes]
    twin = gauss_newton_of_case(case, model, batches)
    G = products_of(objective_of(case, model, batches))
    torch.testing.assert_close(G, twin, rtol=1e-9, atol=1e-12)
    assert torch.linalg.eigvalsh(twin)[0] > -1e-12


Y = torch.tensor([0, 1, 2, -100, 3, 1])
INSIDE = Y.clamp(min=0)


def _focal(z, t):
    nll = F.cross_entropy(z, INSIDE, reduction="none")
    return ((1 - (-nll).exp()).square() * nll).mean()


# of outputs (6, 4) and targets (6, 4)
LOSSES = {
    "ignored": lambda z, t: F.cross_entropy(z, Y),
    "summed": lambda z, t: F.cross_entropy(z, Y, reduction="sum"),
    "smoothed": lambda z, t: F.cross_entropy(z, Y, label_smoothing=0.2),
    "class_weights": lambda z, t: F.cross_entropy(z, Y, weight=t[0].exp(), label_smoothing=0.1),
    "shares": lambda z, t: F.cross_entropy(z, t.softmax(1)),
    "scaled": lambda z, t: F.cross_entropy(z, Y) * 7 + 2,
    "focal": _focal,
    "nll": lambda z, t: F.nll_loss(z.log_softmax(1), Y),
    "kl": lambda z, t: F.kl_div(z.log_softmax(1), t.softmax(1), reduction="batchmean"),
    "bce": lambda z, t: F.binary_cross_entropy(z.sigmoid(), t.sigmoid()),
    "bce_with_logits": lambda z, t: F.binary_cross_entropy_with_logits(
        z, (t > 0).double(), pos_weight=t[0].exp()
    ),
    "mse_sum": lambda z, t: F.mse_loss(z, t, reduction="sum"),
    "l1": F.l1_loss,
    "huber": lambda z, t: F.huber_loss(z, t, delta=0.3),
    "smooth_l1": lambda z, t: F.smooth_l1_loss(z, t, beta=0.2),
    "two_heads": lambda z, t: (
        F.cross_entropy(z[:, :2], INSIDE % 2) + 3 * F.mse_loss(z[:, 2:], t[:, :2])
    ),
    "gaussian": lambda z, t: F.gaussian_nll_loss(z[:, :2], t[:, 2:], z[:, 2:] + 3),
    "distilled": lambda z, t: (
        F.cross_entropy(z, Y) + F.kl_div(F.log_softmax(z / 2, 1), t.softmax(1), reduction="batchmean")
    ),
    "penalised": lambda z, t: F.cross_entropy(z, Y) + z.logsumexp(1).square().mean(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_their_options(name):
    model = CASES["mlp_mse"].model()
    x, t = torch.randn(6, 6), torch.randn(6, 4)
    twin = gauss_newton_of(model, x, lambda z: LOSSES[name](z, t))
    G = products_of(
        Objective(model, lambda x: LOSSES[name](model(x), t), [RecordedBatch(x, weight=0.5)])
    )
    torch.testing.assert_close(G, twin / 2, rtol=1e-9, atol=1e-12)
    assert bool(G.any()) == (name != "l1")


def test_batches_are_taken_in_parts_once_a_product_showed_that_these_add_up():
    case = CASES["mlp_cross_entropy"]
    model = case.model()
    batches = [case.batch(8)]
    twin = gauss_newton_of_case(case, model, batches)
    with objective_of(case, model, batches, chunking=3).open() as opened:
        point = opened.linearize()
        assert len(opened.chunks) == 1
        point.product(torch.ones_like(point.gradient))
        assert len(opened.chunks) == 3
        graphs = OutputGraphs(opened)
        torch.testing.assert_close(matrix(gauss_newton(opened, graphs)), twin, rtol=1e-9, atol=1e-12)
        assert graphs.total(lambda graph, i: opened.weights.new_tensor([1.0])) == 3


def test_a_block_that_is_checkpointed_gives_the_same():
    case = CASES["mlp_cross_entropy"]
    model = case.model()
    batch = case.batch(6)

    def loss(batch):
        hidden = checkpoint(model[:2], batch[0], use_reentrant=False)
        return F.cross_entropy(model[2:](hidden), batch[1])

    twin = gauss_newton_of_case(case, model, [batch])
    torch.testing.assert_close(
        products_of(Objective(model, loss, [RecordedBatch(batch)])), twin, rtol=1e-9, atol=1e-12
    )


def test_a_regulariser_is_refused_and_left_out_where_the_user_says_what_the_outputs_are():
    case = CASES["mlp_cross_entropy"]
    model = case.model()
    batch = case.batch(6)

    def loss(batch):
        return F.cross_entropy(model(batch[0]), batch[1]) + model[0].weight.square().sum()

    objective = Objective(model, loss, [RecordedBatch(batch)])
    with pytest.raises(CurvwatchError, match=r"weight 0\.weight also outside of.*outputs_fn="):
        products_of(objective)
    given = GivenOutputs(lambda b: {"z": model(b[0])}, lambda z, b: F.cross_entropy(z["z"], b[1]))
    twin = gauss_newton_of_case(case, model, [batch])
    torch.testing.assert_close(products_of(objective, given), twin, rtol=1e-9, atol=1e-12)
    through = GivenOutputs(lambda b: model(b[0]), lambda z, b: loss(b) + z.sum())
    with pytest.raises(CurvwatchError, match="loss_of_outputs got"):
        products_of(objective, through)
    unused = GivenOutputs(lambda b: model(b[0]), lambda z, b: model[0].weight.sum() * 0 + b[0].sum())
    with pytest.raises(CurvwatchError, match="also outside of"):
        products_of(objective, unused)


def test_weights_without_part_in_the_outputs_have_zeros():
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "not": nn.Linear(3, 2)})
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    objective = Objective(model, lambda x: F.cross_entropy(model["used"](x), y), [RecordedBatch(x)])
    G = products_of(objective)
    assert bool(G[:8, :8].any())
    assert not bool(G[8:].any())
    assert not bool(G[:, 8:].any())
