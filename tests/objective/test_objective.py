"""Loss, gradient and Hessian-vector products against dense twins in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from curvwatch import CurvwatchError, Objective
from curvwatch.objective.samples import RecordedBatch
from tests.support.cases import CASES, dense, flat

pytestmark = pytest.mark.usefixtures("double_precision")


def objective_of(case, model, batches, **options):
    return Objective.of_batches(model, lambda b: case.loss(model(b[0]), b[1]), batches, **options)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("sizes", [[6], [6, 3]], ids=["one_batch", "uneven_batches"])
def test_loss_gradient_and_products_equal_the_dense_twin(name, sizes):
    case = CASES[name]
    model = case.model()
    batches = [case.batch(n) for n in sizes]
    twin = dense(case, model, batches, flat(list(model.parameters())))
    objective = objective_of(case, model, batches)
    v = torch.randn(objective.layout.size)
    with objective.open() as f:
        point = f.linearize()
        assert point.loss == pytest.approx(twin.loss, rel=1e-12)
        torch.testing.assert_close(point.gradient, twin.gradient, rtol=1e-9, atol=1e-12)
        for _ in range(2):  # the kept graph serves again
            torch.testing.assert_close(point.product(v), twin.hessian @ v, rtol=1e-8, atol=1e-11)
        loss, gradient = f.gradient()
        assert loss == point.loss
        torch.testing.assert_close(gradient, twin.gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_displaced_loss_and_gradient_equal_the_dense_twin_there(name):
    case = CASES[name]
    model = case.model()
    batch = case.batch(5)
    w = flat(list(model.parameters()))
    d = 0.1 * torch.randn_like(w)
    twin = dense(case, model, [batch], w + d)
    with objective_of(case, model, [batch]).open() as f:
        assert f.loss(d) == pytest.approx(twin.loss, rel=1e-12)
        loss, gradient = f.gradient(d)
        assert loss == pytest.approx(twin.loss, rel=1e-12)
        torch.testing.assert_close(gradient, twin.gradient, rtol=1e-9, atol=1e-12)
        # and the base point is not moved by a look elsewhere
        torch.testing.assert_close(
            f.linearize().product(d), dense(case, model, [batch], w).hessian @ d, rtol=1e-8, atol=1e-11
        )
    assert torch.equal(flat(list(model.parameters())), w)


def test_weights_of_another_moment_are_used_for_the_reading():
    case = CASES["mlp_cross_entropy"]
    model = case.model()
    batch = case.batch(5)
    now = flat(list(model.parameters()))
    earlier = {id(p): p.detach() + 0.3 for p in model.parameters()}
    twin = dense(case, model, [batch], now + 0.3)
    with objective_of(case, model, [batch]).open(earlier) as f:
        torch.testing.assert_close(f.linearize().gradient, twin.gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_block_is_differentiated_at_the_substituted_weights(reentrant):
    from torch.utils.checkpoint import checkpoint

    case = CASES["mlp_mse"]
    model = case.model()
    batch = case.batch(5)
    w = flat(list(model.parameters()))
    d = 0.2 * torch.randn_like(w)

    def loss(b):
        hidden = checkpoint(model[:3], b[0], use_reentrant=reentrant)
        return case.loss(model[3:](hidden), b[1])

    twin_there = dense(case, model, [batch], w + d)
    twin_here = dense(case, model, [batch], w)
    with Objective.of_batches(model, loss, [batch]).open() as f:
        point = f.linearize()
        torch.testing.assert_close(f.gradient(d)[1], twin_there.gradient, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(point.product(d), twin_here.hessian @ d, rtol=1e-8, atol=1e-11)


def test_dropout_is_one_function_for_the_whole_reading():
    model = nn.Sequential(nn.Linear(5, 50), nn.Tanh(), nn.Dropout(0.5), nn.Linear(50, 1))
    x = torch.randn(7, 5)
    objective = Objective.of_batches(model, lambda x: model(x).square().mean(), [x])
    v = torch.randn(objective.layout.size)
    with objective.open() as f:
        assert f.loss() == f.linearize().loss == f.gradient()[0]
        h = 1e-5
        difference = (f.gradient(h * v)[1] - f.gradient(-h * v)[1]) / (2 * h)
        torch.testing.assert_close(f.linearize().product(v), difference, rtol=1e-5, atol=1e-7)


def test_counts_are_passes_over_all_batches():
    case = CASES["mlp_mse"]
    model = case.model()
    one = objective_of(case, model, [case.batch(4)])
    with one.open() as f:
        point = f.linearize()
        f.linearize()
        point.product(point.gradient)
        f.loss()
    assert (one.counts.gradients, one.counts.products, one.counts.forwards) == (1, 1, 1)
    two = objective_of(case, model, [case.batch(4), case.batch(4)])
    with two.open() as f:
        f.linearize().product(torch.ones(two.layout.size))
    # with several batches a product builds each graph again
    assert (two.counts.gradients, two.counts.products) == (2, 1)


def test_parameters_that_the_loss_does_not_use_have_zero_curvature():
    model = nn.ModuleDict({"used": nn.Linear(3, 1), "unused": nn.Linear(2, 2)})
    x = torch.randn(4, 3)
    objective = Objective.of_batches(model, lambda x: model["used"](x).square().sum(), [x])
    with objective.open() as f:
        hv = f.linearize().product(torch.ones(objective.layout.size))
    assert hv[-6:].abs().max() == 0
    assert hv[:4].abs().min() > 0


def test_tied_weights_count_once():
    embedding = nn.Embedding(5, 4)
    head = nn.Linear(4, 5, bias=False)
    head.weight = embedding.weight
    model = nn.Sequential(embedding, head)
    tokens, targets = torch.randint(0, 5, (6,)), torch.randint(0, 5, (6,))

    def f(w):
        return nn.functional.cross_entropy(nn.functional.embedding(tokens, w) @ w.T, targets)

    weight = embedding.weight.detach()
    twin = torch.autograd.functional.hessian(f, weight).reshape(20, 20)
    objective = Objective.of_batches(
        model, lambda b: nn.functional.cross_entropy(model(b[0]), b[1]), [(tokens, targets)]
    )
    assert objective.layout.size == 20
    v = torch.randn(20)
    with objective.open() as opened:
        torch.testing.assert_close(opened.linearize().product(v), twin @ v)


class _OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda m, x: None, "returned None"),
        (lambda m, x: m(x), r"shape \(4, 2\)"),
        (lambda m, x: 1.5, "returned float"),
        (lambda m, x: {"acc": m(x).sum()}, r"keys \['acc'\] and no 'loss'"),
        (lambda m, x: m(x).sum().detach(), "does not depend on any parameter"),
        (lambda m, x: x.sum().requires_grad_(), "does not depend on any of the optimizer's 2"),
        (lambda m, x: _OnceDifferentiable.apply(m(x)).sum(), "once_differentiable"),
    ],
)
def test_a_loss_that_cannot_be_measured_is_refused_in_words(loss, message):
    model = nn.Linear(3, 2)
    objective = Objective(model, lambda x: loss(model, x), [RecordedBatch(torch.randn(4, 3))])
    with pytest.raises(CurvwatchError, match=message), objective.open() as f:
        f.linearize()
    assert all(p.grad is None for p in model.parameters())


def test_no_batches_and_no_parameters_are_refused():
    model = nn.Linear(2, 1)
    with pytest.raises(CurvwatchError, match="no batch"):
        Objective(model, model, [])
    model.requires_grad_(False)
    with pytest.raises(CurvwatchError, match="no trainable parameter"):
        Objective(model, model, [RecordedBatch(torch.ones(1, 2))])


def test_a_failure_gives_the_module_back():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    weight = model[0].weight

    def loss(x):
        model(x + torch.randn(3))
        raise RuntimeError("in the user's code")

    objective = Objective(model, loss, [RecordedBatch(torch.randn(4, 3))])
    random = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="in the user's code"), objective.open() as f:
        f.linearize()
    assert model[0].weight is weight
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def _central_differences(objective):
    """H column by column from gradients at shifted weights."""
    h = 1e-5
    with objective.open() as f:
        columns = [
            (f.gradient(h * e)[1] - f.gradient(-h * e)[1]) / (2 * h)
            for e in torch.eye(objective.layout.size)
        ]
    return torch.stack(columns, dim=1)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm_whose_fused_kernel_is_wrong_twice_differentiated(norm, dim):
    model = nn.Sequential(norm(nn.Linear(4, 5), dim=dim), nn.Tanh(), nn.Linear(5, 3))
    batch = (torch.randn(6, 4), torch.randint(0, 3, (6,)))
    objective = Objective.of_batches(
        model, lambda b: nn.functional.cross_entropy(model(b[0]), b[1]), [batch]
    )
    with objective.open() as f:
        point = f.linearize()
        H = torch.stack([point.product(e) for e in torch.eye(objective.layout.size)])
    torch.testing.assert_close(H, H.T, rtol=0, atol=1e-10)
    torch.testing.assert_close(H, _central_differences(objective), rtol=0, atol=1e-7)


def test_a_step_that_takes_gradients_itself_has_a_loss_elsewhere_too():
    """A penalty on the gradient by the inputs, as PINNs and WGAN-GP have."""
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1))
    x = torch.randn(5, 3)

    def loss(x):
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return (slope.norm(dim=1) - 1).square().mean()

    objective = Objective.of_batches(model, loss, [x])
    d = 0.1 * torch.randn(objective.layout.size)
    with objective.open() as f:
        assert f.loss(d) == f.gradient(d)[0]


def test_the_standard_error_of_a_quotient_is_that_of_its_spread_over_batches():
    case = CASES["mlp_cross_entropy"]
    model = case.model()
    batches = [case.batch(n) for n in (7, 2, 4)]
    w = flat(list(model.parameters()))
    v = nn.functional.normalize(torch.randn_like(w), dim=0)
    quotients = torch.stack([v @ dense(case, model, [b], w).hessian @ v for b in batches])
    share = torch.tensor([7, 2, 4]) / 13
    mean = (share * quotients).sum()
    twin = (3 / 2 * (share * (quotients - mean)).square().sum()).sqrt()
    with objective_of(case, model, batches).open() as f:
        assert f.linearize().quotient_stderr(v) == pytest.approx(float(twin), rel=1e-11)
