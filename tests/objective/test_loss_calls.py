"""Which tensors count as the outputs of a network: what known loss functions got."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from curvwatch import CurvwatchError
from curvwatch.objective.outputs.loss_calls import LossCallRecorder, find_outputs

X = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
CLASSES = torch.tensor([0, 1, 2, 3, 0])
VALUES = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
SHARES = VALUES.softmax(1)
CHANCES = VALUES.sigmoid()


def found(loss_of):
    """The outputs, and those of the linear layer itself, of `loss_of(layer)`."""
    layer = nn.Linear(3, 4)
    made = []
    layer.register_forward_hook(lambda _, __, z: made.append(z))
    with LossCallRecorder() as watch:
        loss = loss_of(layer)
    names = {id(p): name for name, p in layer.named_parameters()}
    return find_outputs(loss, watch.calls, names), made


LOSSES = {
    "cross_entropy": lambda z: F.cross_entropy(z, CLASSES),
    "CrossEntropyLoss": lambda z: nn.CrossEntropyLoss(label_smoothing=0.1)(z, CLASSES),
    "by_keyword": lambda z: F.cross_entropy(target=CLASSES, input=z, reduction="sum"),
    "nll_loss": lambda z: F.nll_loss(F.log_softmax(z, 1), CLASSES),
    "NLLLoss": lambda z: nn.NLLLoss()(nn.LogSoftmax(1)(z), CLASSES),
    "nll_of_log": lambda z: F.nll_loss(z.softmax(-1).log(), CLASSES),
    "nll_moved": lambda z: F.nll_loss(z.log_softmax(1).view(1, 5, 4).transpose(1, 2), CLASSES[None]),
    "kl_div": lambda z: F.kl_div(torch.log_softmax(z, 1), SHARES, reduction="batchmean"),
    "mse_loss": lambda z: F.mse_loss(z, VALUES),
    "mse_swapped": lambda z: nn.MSELoss()(VALUES, z),
    "l1_loss": lambda z: F.l1_loss(z, VALUES),
    "smooth_l1_loss": lambda z: nn.SmoothL1Loss()(z, VALUES),
    "huber_loss": lambda z: F.huber_loss(z, VALUES),
    "bce": lambda z: F.binary_cross_entropy(torch.sigmoid(z), CHANCES),
    "BCELoss": lambda z: nn.BCELoss()(nn.Sigmoid()(z), CHANCES),
    "bce_with_logits": lambda z: nn.BCEWithLogitsLoss()(z, CHANCES),
    "gaussian_nll": lambda z: F.gaussian_nll_loss(z, VALUES, CHANCES),
    "scaled": lambda z: 3 * F.mse_loss(z, VALUES) + 1.0,
    "penalty_on_outputs": lambda z: F.cross_entropy(z, CLASSES) + z.logsumexp(1).square().mean(),
    "masked": lambda z: (F.cross_entropy(z, CLASSES, reduction="none") * CHANCES[:, 0]).mean(),
    "distillation": lambda z: (
        F.cross_entropy(z, CLASSES) + F.kl_div(F.log_softmax(z / 2, 1), SHARES, reduction="batchmean")
    ),
    "beside_a_metric": lambda z: F.cross_entropy(z, CLASSES) + 0 * F.mse_loss(z, VALUES).detach(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_outputs_are_what_a_known_loss_got(name):
    outputs, made = found(lambda layer: LOSSES[name](layer(X)))
    assert len(outputs.tensors) == 1
    assert outputs.tensors[0] is made[0]
    assert len(outputs.calls) == (2 if name == "distillation" else 1)


def test_a_loss_added_in_place_leaves_the_call_as_it_was():
    def loss_of(layer):
        z = layer(X)
        loss = F.mse_loss(z, VALUES)
        value = loss.detach().clone()
        loss += z.mean()
        return loss * value

    outputs, _ = found(loss_of)
    (call,) = outputs.calls
    torch.testing.assert_close(call.result, F.mse_loss(outputs.tensors[0], VALUES))


def test_two_heads_are_two_outputs_and_one_that_is_used_twice_is_one():
    def two(layer):
        z = layer(X)
        return F.cross_entropy(z[:, :2], CLASSES % 2) + F.mse_loss(z[:, 2:], VALUES[:, 2:])

    def twice(layer):
        z = layer(X)
        return F.cross_entropy(z, CLASSES) + F.mse_loss(z, VALUES)

    assert [t.shape for t in found(two)[0].tensors] == [(5, 2), (5, 2)]
    assert len(found(twice)[0].tensors) == 1
    assert len(found(twice)[0].calls) == 2


def test_mean_and_variance_are_two_outputs():
    outputs, _ = found(
        lambda layer: nn.GaussianNLLLoss()(layer(X)[:, :2], VALUES[:, :2], layer(X)[:, 2:].exp())
    )
    assert len(outputs.tensors) == 2


def test_a_loss_in_another_branch_does_not_count():
    def loss_of(layer):
        z = layer(X)
        F.mse_loss(z, VALUES)
        with torch.no_grad():
            F.l1_loss(z, VALUES)
        return F.cross_entropy(z, CLASSES)

    outputs, _ = found(loss_of)
    assert [call.name for call in outputs.calls] == ["cross_entropy"]


def test_a_weight_may_be_the_output():
    weight = nn.Parameter(VALUES.clone())
    with LossCallRecorder() as watch:
        loss = F.mse_loss(weight, SHARES)
    assert find_outputs(loss, watch.calls, {id(weight): "w"}).tensors == (weight,)


UNCLEAR = {
    "by hand": (lambda layer: (layer(X) - VALUES).square().mean(), "passes through none of"),
    "no log-probabilities": (
        lambda layer: F.nll_loss(layer(X), CLASSES),
        "not the result of log_softmax",
    ),
    "changed probabilities": (
        lambda layer: F.binary_cross_entropy(0.9 * layer(X).sigmoid(), CHANCES),
        "not the result of sigmoid",
    ),
    "regulariser": (
        lambda layer: F.mse_loss(layer(X), VALUES) + 1e-3 * layer.bias.square().sum(),
        "weight bias also outside of",
    ),
    "target that is trained": (
        lambda layer: F.binary_cross_entropy_with_logits(layer(X), layer(X).sigmoid()),
        "also outside of",
    ),
    "cascade": (
        lambda layer: _cascade(layer),
        "computed from another",
    ),
}


def _cascade(layer):
    first = layer(X)
    second = layer(first[:, :3])
    return F.mse_loss(first, VALUES) + F.mse_loss(second, VALUES)


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_is_not_clear_is_refused_and_says_what_helps(name):
    loss_of, why = UNCLEAR[name]
    with pytest.raises(CurvwatchError, match=why) as error:
        found(loss_of)
    assert "outputs_fn=" in str(error.value)
    assert "loss_of_outputs=" in str(error.value)
