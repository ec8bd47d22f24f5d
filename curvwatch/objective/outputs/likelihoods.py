"""Losses as negative logarithms of likelihoods: what a Fisher matrix is made of over the outputs.

A loss is read as a sum of c x (-log p(y | z)) over its terms, z the outputs: of cross_entropy,
nll_loss and kl_div p is the softmax, of the binary ones a coin, of mse_loss a normal distribution of
variance 1/2, of l1_loss a Laplace distribution of scale 1, of gaussian_nll_loss a normal distribution.
c holds the weights of classes and examples, the reduction, and factors after the loss function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from curvwatch.errors import CurvwatchError
from curvwatch.objective.outputs.loss_calls import LOSSES, LossCall, edge_of, find_ends
from curvwatch.objective.outputs.output_graph import OutputGraph

_CLASSES = ("cross_entropy", "nll_loss", "kl_div")
_COINS = ("binary_cross_entropy", "binary_cross_entropy_with_logits")
_KNOWN = "none of " + ", ".join(f.__name__ for f in LOSSES)
_GIVE = "give loss_of_outputs=lambda outputs, batch: ... without that, and outputs_fn=lambda batch: ..."


@dataclass(frozen=True, eq=False)
class Likelihood:
    """What one call of a loss function says of its outputs z.

    Attributes:
        call: of the loss function.
        factor: c, of the shape of z; of classes, of size 1 along `dim`.
        dim: of the classes; None where there are none.
    """

    call: LossCall
    factor: Tensor
    dim: int | None = None

    def expected(self, over: Sequence[Tensor]) -> list[Tensor]:
        """C E[s s'] u over y ~ p(y | z), s the derivatives of -log p by z.

        Raises:
            CurvwatchError: the loss is of no distribution.
        """
        z, c = _wide(self.call.outputs[0]), self.factor
        u = [_wide(each) for each in over]
        if self.dim is not None:
            p = z.softmax(self.dim)
            made = [c * (p * u[0] - p * (p * u[0]).sum(self.dim, keepdim=True))]
        else:
            made = [d * each for d, each in zip(self._expected_squares(z), u, strict=True)]
        return [m.to(each.dtype) for m, each in zip(made, over, strict=True)]

    def drawn(self, generator: torch.Generator) -> list[Tensor]:
        """Root(c) s for one y ~ p(y | z) in each term.

        Raises:
            CurvwatchError: the loss is of no distribution.
        """
        z, root = _wide(self.call.outputs[0]), self.factor.sqrt()
        name = self.call.name
        if self.dim is not None:
            p = z.softmax(self.dim)
            up = p.cumsum(self.dim)
            heights = _random(torch.rand, self.factor, generator) * up.narrow(self.dim, -1, 1)
            drawn = (up <= heights).sum(self.dim, keepdim=True).clamp_(max=z.shape[self.dim] - 1)
            return [root * p.scatter_add(self.dim, drawn, -torch.ones_like(p))]
        if name in _COINS:
            p = z.sigmoid()
            return [root * (p - (_random(torch.rand, z, generator) < p).to(p.dtype))]
        if name == "l1_loss":
            return [root * (_random(torch.rand, z, generator) < 0.5).to(z.dtype).mul_(2).sub_(1)]
        noise = _random(torch.randn, z, generator)
        if name == "mse_loss":
            return [root * math.sqrt(2) * noise]
        if name == "gaussian_nll_loss":
            var = _variance(self.call)
            both = {"input": noise / var.sqrt(), "var": (1 - noise.square()) / (2 * var)}
            return [root * both[argument] for argument in _gaussian_outputs(self.call)]
        raise self._without()

    def observed(self, slopes: Sequence[Tensor]) -> list[Tensor]:
        """Root(c) s for the targets of the batch, from the derivatives c s of the loss by z."""
        root = self.factor.sqrt()
        return [torch.where(root > 0, _wide(g.detach()) / root, 0.0) for g in slopes]

    def outer(self, scores: Sequence[Tensor], over: Sequence[Tensor]) -> list[Tensor]:
        """Sum over examples of t t' u, t their `scores`.

        With classes an example is what is classified; else an entry of the first dimension.
        """
        parts = [t * _wide(u) for t, u in zip(scores, over, strict=True)]
        if self.dim is not None:
            along = parts[0].sum(self.dim, keepdim=True)
        else:
            along = torch.stack(parts).sum(0)
            if along.ndim > 1:
                along = along.sum(tuple(range(1, along.ndim)), keepdim=True)
        return [(t * along).to(u.dtype) for t, u in zip(scores, over, strict=True)]

    def _expected_squares(self, z: Tensor) -> list[Tensor]:
        c, name = self.factor, self.call.name
        if name in _COINS:
            p = z.sigmoid()
            return [c * p * (1 - p)]
        if name == "mse_loss":
            return [2 * c]
        if name == "l1_loss":
            return [c]
        if name == "gaussian_nll_loss":
            var = _variance(self.call)
            both = {"input": c / var, "var": c / (2 * var.square())}
            return [both[argument] for argument in _gaussian_outputs(self.call)]
        raise self._without()

    def _without(self) -> CurvwatchError:
        return CurvwatchError(
            f"{self.call.name} corresponds to no standard distribution, so no targets can be drawn: "
            "kind='empirical' takes those of the batch"
        )


def likelihoods_of(graph: OutputGraph) -> list[tuple[Likelihood, list[int]]]:
    """The likelihoods that the loss of `graph` is a sum of, and which of its outputs each has.

    Raises:
        CurvwatchError: it is no such sum; the message says why.
    """
    calls = graph.outputs.calls
    if not calls:
        raise CurvwatchError(
            f"the likelihood of the outputs cannot be inferred: loss_of_outputs calls {_KNOWN}"
        )
    places = {edge_of(z): i for i, z in enumerate(graph.outputs.tensors)}
    of_each = [[places.get(edge_of(z), -1) for z in call.outputs] for call in calls]
    flat = [i for each in of_each for i in each]
    if sorted(flat) != list(range(len(places))):
        names = ", ".join(call.name for call in calls)
        raise CurvwatchError(
            f"the loss is not a sum of likelihoods: {names} got the same outputs, or outputs that are "
            f"computed from each other; {_GIVE}"
        )
    ends = [edge_of(call.result) for call in calls]
    if not find_ends(graph.loss, [*ends, *places], {})[0] <= set(ends):
        raise CurvwatchError(
            f"the loss is not a likelihood: it depends on the outputs also outside of {calls[0].name}, "
            f"such as by a penalty on them; {_GIVE}"
        )
    slopes = _constant_slopes(graph.loss, calls)
    return [
        (_likelihood(graph, call, slope), each)
        for call, slope, each in zip(calls, slopes, of_each, strict=True)
    ]


def _constant_slopes(loss: Tensor, calls: Sequence[LossCall]) -> list[Tensor]:
    """The derivatives of `loss` by what the loss functions returned."""
    results = [call.result for call in calls]
    slopes = torch.autograd.grad(loss, results, create_graph=True)
    for slope in slopes:
        if slope.requires_grad:
            bent = torch.autograd.grad(slope.sum(), results, retain_graph=True, allow_unused=True)
            if any(d is not None and bool(d.any()) for d in bent):
                raise CurvwatchError(
                    f"the loss is not a likelihood: it is not linear in what {calls[0].name} returned "
                    f"(a focal loss, for instance); {_GIVE}"
                )
    return [slope.detach() for slope in slopes]


def _likelihood(graph: OutputGraph, call: LossCall, slope: Tensor) -> Likelihood:
    given, slope = call.arguments, _wide(slope)
    if given.get("size_average") is not None or given.get("reduce") is not None:
        raise CurvwatchError(f"{call.name} got size_average or reduce: use reduction instead")
    dim = None
    if call.name == "cross_entropy":
        dim = 1 if given["input"].ndim > 1 else 0
        mass, count = _mass_of_classes(given, dim)
        factor = _reduced(given, mass, count, slope).unsqueeze(dim)
    elif call.normalised is not None and call.name in _CLASSES:
        # linear in log p, and what it loses by each is c times the target's share
        dim = call.normalised.dim
        (mass,) = torch.autograd.grad(graph.loss, call.normalised.result, retain_graph=True)
        factor = -_wide(mass).sum(dim, keepdim=True)
    else:
        factor = _factor_of_entries(call, slope)
    if not bool((factor >= 0).all()):
        raise CurvwatchError(f"the loss is not a likelihood: {call.name} has a negative weight")
    return Likelihood(call, factor.detach(), dim)


def _mass_of_classes(given: Mapping[str, Any], dim: int) -> tuple[Tensor, Tensor]:
    """Of cross_entropy: the weight of each term, and what a mean divides their sum by."""
    z, target = given["input"].detach(), given["target"].detach()
    classes, smoothing = z.shape[dim], given["label_smoothing"]
    weight = given["weight"]
    weight = torch.ones(classes, device=z.device) if weight is None else weight.detach()
    weight = _wide(weight).to(_wide(z).dtype)
    if target.is_floating_point():
        shape = [classes if i == dim else 1 for i in range(z.ndim)]
        shares = _wide(target) * (1 - smoothing) + smoothing / classes
        return (shares * weight.view(shape)).sum(dim), weight.new_tensor(z.numel() / classes)
    kept = target != given["ignore_index"]
    own = weight[torch.where(kept, target, 0)] * kept
    spread = kept * weight.sum() * (smoothing / classes)
    return own * (1 - smoothing) + spread, own.sum()


def _factor_of_entries(call: LossCall, slope: Tensor) -> Tensor:
    """C of a loss that is a sum over the entries of z."""
    given = call.arguments
    z, y = given["input"], given["target"]
    if len(call.outputs) > 1 and call.name != "gaussian_nll_loss":
        raise CurvwatchError(f"the loss is not a likelihood: both arguments of {call.name} are trained")
    if z.shape != y.shape:
        raise CurvwatchError(
            f"{call.name} got the shapes {tuple(z.shape)} and {tuple(y.shape)}: of a likelihood they "
            "are the same"
        )
    each = torch.ones_like(_wide(z.detach()))
    if given.get("weight") is not None:
        each = each * _wide(given["weight"].detach())
    # torch's mean is one by weights in these
    by_weights = call.name in ("mse_loss", "l1_loss")
    count = each.sum() if by_weights else each.new_tensor(z.numel())
    if given.get("pos_weight") is not None:
        each = each * (_wide(given["pos_weight"].detach()) * y + 1 - y)
    factor = _reduced(given, each, count, slope)
    if call.normalised is not None and z is not call.normalised.result:  # put back what was moved
        (factor,) = torch.autograd.grad(
            z, call.normalised.result, factor.to(z.dtype), retain_graph=True
        )
    return _wide(factor)


def _reduced(given: Mapping[str, Any], each: Tensor, count: Tensor, slope: Tensor) -> Tensor:
    return each * slope / count if given["reduction"] == "mean" else each * slope


def _gaussian_outputs(call: LossCall) -> list[str]:
    """Which arguments of gaussian_nll_loss its outputs are."""
    return [name for name in ("input", "var") if any(z is call.arguments[name] for z in call.outputs)]


def _variance(call: LossCall) -> Tensor:
    """Of gaussian_nll_loss, with the shape of the mean."""
    given = call.arguments
    mean, var = given["input"].detach(), given["var"]
    if not isinstance(var, Tensor):
        return _wide(torch.full_like(mean, var))
    if var.shape != mean.shape:
        if var.requires_grad:
            raise CurvwatchError(
                f"gaussian_nll_loss got a variance of shape {tuple(var.shape)} that is trained: a "
                f"likelihood here needs that of the mean, {tuple(mean.shape)}"
            )
        var = var.unsqueeze(-1) if var.shape == mean.shape[:-1] else var
    return _wide(var.detach().expand(mean.shape)).clamp(min=given["eps"])


def _wide(t: Tensor) -> Tensor:
    """`t` in float32 at least, without its graph."""
    return t.detach().to(torch.promote_types(t.dtype, torch.float32))


def _random(draw: Callable[..., Tensor], like: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers of the shape of `like`, drawn on the CPU."""
    return draw(like.shape, generator=generator, dtype=like.dtype).to(like.device)
