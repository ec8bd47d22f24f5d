"""Dense matrices through the outputs of a network: J and the Hessian of the loss, row by row."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tests.support.cases import Attention, Case


def jacobian(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs z of `model`, and their derivatives by all weights, shape (entries of z, weights)."""
    names = [n for n, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    if isinstance(model, Attention):
        model.by_hand = True

    def outputs(w: Tensor) -> Tensor:
        parts = w.split([s.numel() for s in shapes])
        weights = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        buffers = {n: b.clone() for n, b in model.named_buffers()}
        return functional_call(model, {**weights, **buffers}, (x,))

    w = torch.cat([p.detach().reshape(-1) for p in model.parameters()]).requires_grad_()
    z = outputs(w)
    J = rows_of(z.reshape(-1), w)
    if isinstance(model, Attention):
        model.by_hand = False
    return z.detach(), J


def rows_of(results: Tensor, by: Tensor) -> Tensor:
    """Derivatives of `results` (m,) by `by` (n,), shape (m, n)."""
    if not results.requires_grad:
        return torch.zeros(len(results), len(by))
    rows = [torch.autograd.grad(r, by, retain_graph=True, allow_unused=True)[0] for r in results]
    return torch.stack([torch.zeros_like(by) if row is None else row for row in rows]).detach()


def through(J: Tensor, B: Tensor) -> Tensor:
    """J' B J."""
    return J.T @ B @ J


def gauss_newton_of(model: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """J' H_L J for one batch."""
    z, J = jacobian(model, x)
    flat = z.reshape(-1).requires_grad_()
    (slope,) = torch.autograd.grad(loss(flat.view(z.shape)), flat, create_graph=True)
    return through(J, rows_of(slope, flat))


def gauss_newton_of_case(case: Case, model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Tensor:
    """That of the mean loss over `batches`, each weighted by its number of examples."""
    total = sum(len(x) for x, _ in batches)
    parts = [
        gauss_newton_of(model, x, lambda z, y=y: case.loss(z, y)) * (len(x) / total) for x, y in batches
    ]
    return torch.stack(parts).sum(dim=0)


def matrix(operator) -> Tensor:
    """All columns of an operator."""
    return torch.stack([operator.matvec(row) for row in torch.eye(operator.size)], dim=1)
