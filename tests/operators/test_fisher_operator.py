"""Fisher matrices against sums over targets and over the gradients of single terms."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from curvwatch import CurvwatchError, Objective
from curvwatch.objective.outputs.output_graph import GivenOutputs, OutputGraphs
from curvwatch.objective.samples import RecordedBatch
from curvwatch.operators import fisher, gauss_newton
from tests.measures.output_twins import gauss_newton_of_case, matrix
from tests.measures.points import objective_of
from tests.support.cases import CASES
from tests.support.studies import only

pytestmark = pytest.mark.usefixtures("double_precision")

ROWS, COLUMNS = 3, 4


def empirical_of(case, model, batches):
    """The mean of g g' over terms, each gradient by a pass of its own."""
    total, size = 0.0, sum(len(x) for x, _ in batches)
    params = list(model.parameters())
    for x, y in batches:
        if case.name == "mlp_mse":  # an example is one of the mean over them and their entries
            terms = F.mse_loss(model(x), y, reduction="none").sum(1)
            count = y.numel()
        else:
            z = model(x).flatten(0, -2)
            terms = F.cross_entropy(z, y.flatten(), reduction="none")
            count = y.numel()
        for term in terms:
            g = torch.cat([p.reshape(-1) for p in torch.autograd.grad(term, params, retain_graph=True)])
            total = total + torch.outer(g, g) / count * len(x) / size
    return total


@pytest.mark.parametrize("name", only(CASES, take=["mlp_cross_entropy", "mlp_mse"]))
def test_the_true_matrix_is_gauss_newton_and_the_empirical_one_that_of_gradients(name):
    case = CASES[name]
    model = case.model()
    batches = [case.batch(2), case.batch(1)]
    twins = {
        "type1": gauss_newton_of_case(case, model, batches),
        "empirical": empirical_of(case, model, batches),
    }
    for kind, twin in twins.items():
        with objective_of(case, model, batches).open() as opened:
            made = matrix(fisher(opened, OutputGraphs(opened), kind))
        torch.testing.assert_close(made, twin, rtol=1e-9, atol=1e-12)


Y = torch.tensor([0, 3, 1])
IGNORED = torch.tensor([0, -100, 1])
T = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
W = T[0].exp()
ONES = (T > 0).double()

# of outputs (3, 4) that are the weights themselves: J is the identity
LOSSES = {
    "cross_entropy": lambda z: F.cross_entropy(z, Y),
    "ignored": lambda z: F.cross_entropy(z, IGNORED),
    "class_weights": lambda z: F.cross_entropy(z, IGNORED, weight=W, label_smoothing=0.2),
    "shares": lambda z: F.cross_entropy(z, T.softmax(1), weight=W, label_smoothing=0.1),
    "masked": lambda z: (F.cross_entropy(z, Y, weight=W, reduction="none") * W[:ROWS]).sum() / 5,
    "pixels": lambda z: F.cross_entropy(z.T[None], Y[None], reduction="sum"),
    "one": lambda z: F.cross_entropy(z[0], Y[0]) + 0 * z.sum().detach(),
    "nll": lambda z: F.nll_loss(z.log_softmax(1).T[None], Y[None], weight=W),
    "kl": lambda z: 2 * F.kl_div(z.log_softmax(1), T.softmax(1), reduction="batchmean"),
    "logits": lambda z: F.binary_cross_entropy_with_logits(z, ONES, weight=W, pos_weight=W.flip(0)),
    "coins": lambda z: F.binary_cross_entropy(z.sigmoid()[:2].reshape(-1), ONES[:2].reshape(-1)),
    "mse": lambda z: F.mse_loss(T, z),
    "mse_sum": lambda z: 3 * F.mse_loss(z, T, reduction="sum"),
    "mse_of_one": lambda z: F.mse_loss(z[:, 0], T[:, 0]),
    "gaussian_fixed": lambda z: F.gaussian_nll_loss(z, T, T[:, :1].exp()),
    "two_heads": lambda z: F.cross_entropy(z[:, :2], Y % 2) + F.mse_loss(z[:, 2:], T[:, 2:]),
    "l1": lambda z: F.l1_loss(z, T),
    "gaussian": lambda z: F.gaussian_nll_loss(z[:, :2], T[:, :2], z[:, 2:].square() + 1),
}
# of these the second derivative of the loss is not the mean square of the first
NOT_GAUSS_NEWTON = ("l1", "gaussian")


def outputs_alone(loss):
    module = nn.ParameterDict({"z": nn.Parameter(T.flip(0) + 0.3)})
    return Objective(module, lambda _: loss(module["z"]), [RecordedBatch(torch.ones(1), weight=0.5)])


@pytest.mark.parametrize("name", LOSSES)
def test_the_matrix_in_closed_form_is_gauss_newton_but_for_some_losses(name):
    with outputs_alone(LOSSES[name]).open() as opened:
        graphs = OutputGraphs(opened)
        exact = matrix(fisher(opened, graphs, "type1"))
        same = torch.allclose(exact, matrix(gauss_newton(opened, graphs)), rtol=1e-9, atol=1e-12)
    assert same == (name not in NOT_GAUSS_NEWTON)


# one loss for each distribution that targets are drawn from
DRAWN = ("cross_entropy", "logits", "mse", "l1", "gaussian")


@pytest.mark.parametrize("name", only(LOSSES, take=DRAWN))
def test_the_mean_over_drawn_targets_is_the_matrix_in_closed_form(name):
    with outputs_alone(LOSSES[name]).open() as opened:
        graphs = OutputGraphs(opened)
        exact = matrix(fisher(opened, graphs, "type1"))
        drawn = torch.stack([matrix(fisher(opened, graphs, "mc", seed=1000 * i)) for i in range(150)])
    error = drawn.std(dim=0) / 150**0.5
    off = (drawn.mean(dim=0) - exact) / (error + 1e-3 * exact.abs().max())
    assert float(off.abs().max()) < 5
    assert float(torch.linalg.eigvalsh(drawn[0])[0]) > -1e-12
    assert bool((drawn.std(dim=0) > 0).any()) or name == "l1"


def _same(c):
    return torch.full((ROWS, 1), c, dtype=torch.float64)


# what each loss multiplies -log p with, by rows or entries
FACTORS = {
    "cross_entropy": _same(1 / 3),
    "ignored": torch.tensor([[1 / 2], [0.0], [1 / 2]], dtype=torch.float64),
    "shares": ((0.9 * T.softmax(1) + 0.1 / 4) @ W)[:, None] / 3,
    "masked": (W[Y] * W[:ROWS])[:, None] / 5,
    "nll": W[Y][:, None] / W[Y].sum(),
    "kl": _same(2 / 3),
    "logits": W * (W.flip(0) * ONES + 1 - ONES) / 12,
    "coins": torch.tensor([[1 / 8], [1 / 8], [0.0]], dtype=torch.float64),
    "mse": _same(1 / 12),
    "mse_sum": _same(3.0),
    "l1": _same(1 / 12),
}


@pytest.mark.parametrize("name", FACTORS)
def test_the_empirical_matrix_has_the_slopes_of_the_batch(name):
    with outputs_alone(LOSSES[name]).open() as opened:
        made = matrix(fisher(opened, OutputGraphs(opened), "empirical"))
        slopes = opened.gradient()[1].view(ROWS, COLUMNS)
    c = 0.5 * FACTORS[name]
    scores = torch.where(c > 0, slopes / c.sqrt(), 0.0)  # slopes are c s
    twin = torch.block_diag(*[torch.outer(row, row) for row in scores])
    torch.testing.assert_close(made, twin, rtol=1e-9, atol=1e-12)


def test_the_same_seed_draws_the_same_targets_in_every_product():
    with outputs_alone(LOSSES["cross_entropy"]).open() as opened:
        graphs = OutputGraphs(opened)
        first, again, other = (matrix(fisher(opened, graphs, "mc", seed=s)) for s in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


REFUSED = {
    "huber": (lambda z: F.huber_loss(z, T), "type1", "empirical"),
    "smooth": (lambda z: F.smooth_l1_loss(z, T), "mc", "empirical"),
    "focal": (
        lambda z: (1 - (-F.cross_entropy(z, Y)).exp()) * F.cross_entropy(z, Y),
        "mc",
        "same outputs",
    ),
    "bent": (lambda z: F.mse_loss(z, T).sqrt(), "type1", "not linear"),
    "penalty": (lambda z: F.cross_entropy(z, Y) + z.square().sum(), "mc", "also outside of"),
    "twice": (lambda z: F.mse_loss(z, T) + F.cross_entropy(z, Y), "type1", "same outputs"),
    "negative": (lambda z: -F.mse_loss(z, T), "type1", "negative"),
    "spread": (
        lambda z: F.gaussian_nll_loss(z[:, :2], T[:, :2], z[:, 2:3].square() + 1),
        "type1",
        "that of the mean",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_loss_that_is_no_likelihood_is_refused_in_words(name):
    loss, kind, words = REFUSED[name]
    with outputs_alone(loss).open() as opened, pytest.raises(CurvwatchError, match=words):
        fisher(opened, OutputGraphs(opened), kind).matvec(torch.ones(ROWS * COLUMNS))


def test_the_empirical_matrix_of_a_loss_without_distribution():
    with outputs_alone(REFUSED["huber"][0]).open() as opened:
        made = matrix(fisher(opened, OutputGraphs(opened), "empirical"))
        slopes = opened.gradient()[1].view(ROWS, COLUMNS)
    c = 0.5 / T.numel()
    for i in range(ROWS):
        twin = torch.outer(slopes[i], slopes[i]) / c
        torch.testing.assert_close(made.view(ROWS, COLUMNS, ROWS, COLUMNS)[i, :, i], twin)


def test_what_the_user_gives_is_searched_for_the_likelihood():
    model = nn.Linear(3, 2)
    x, y = torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])

    def loss(x):
        return F.cross_entropy(model(x), y) + model.weight.square().sum()

    given = GivenOutputs(model, lambda z, _: F.cross_entropy(z, y))
    with Objective(model, loss, [RecordedBatch(x)]).open() as opened:
        F1 = matrix(fisher(opened, OutputGraphs(opened, given, known=True), "type1"))
        G = matrix(gauss_newton(opened, OutputGraphs(opened, given)))
    torch.testing.assert_close(F1, G)
