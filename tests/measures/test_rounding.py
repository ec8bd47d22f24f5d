"""What a small P makes of the rounding of products: flat weights are told from tiny curvature.

Rounding is drawn here, eps times the terms of a sum in each entry, anew in every product: no outcome
hangs on the order in which a processor adds.
"""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from curvwatch import stability_law
from curvwatch.measures import Landscape, Sharpness, SpectralDensity
from curvwatch.measures.rounding import amplification
from curvwatch.objective import Objective, Sample
from curvwatch.stability import StabilityLaw
from tests.measures.points import objective_of
from tests.support.cases import Case
from tests.support.studies import only

SEEDS = range(8)
EFFECTIVE = "curvature/effective_sharpness"
N, SMALL = 30, 6
EPS = torch.finfo(torch.float32).eps


class Quadratic:
    """w'Hw / 2 with a gradient; the products of the first weights are off by `noise` in each entry."""

    def __init__(self, seed: int, *, terms: float = 1.0, off: float = 0.0) -> None:
        g = torch.Generator().manual_seed(seed)
        A = torch.randn(N, N, generator=g, dtype=torch.float64)
        self.H = A @ A.T / N
        self.H[:SMALL] = self.H[:, :SMALL] = 0.0
        self.P = torch.rand(N, generator=g).add_(0.5).double()
        self.P[:SMALL] = 1e-8
        self.terms = terms
        self.skew = off
        self.by_difference = False
        self.of_digits = False
        self.generator = g
        self.bias = nn.Parameter(torch.randn(SMALL, generator=g))
        self.rest = nn.Parameter(torch.randn(N - SMALL, generator=g))
        self.module = nn.Module()
        self.module.bias, self.module.rest = self.bias, self.rest

    def loss(self, _: Any) -> Tensor:
        w = torch.cat([self.module.bias, self.module.rest])
        return w @ (self.H.float() @ w) / 2

    @property
    def true(self) -> float:
        s = self.P.rsqrt()
        return float(torch.linalg.eigvalsh(s[:, None] * self.H * s)[-1])

    @property
    def law(self) -> StabilityLaw:
        optimizer = torch.optim.SGD([self.bias, self.rest], lr=0.1)
        P = self.P.float().split([SMALL, N - SMALL])
        return replace(stability_law(optimizer), preconditioner=tuple(P), adaptive=True)

    def read(self, measure: Any = None, memory: Any = None, seed: int = 0) -> Any:
        objective = Objective(
            self.module, self.loss, [Sample(torch.zeros(1))], params=[self.bias, self.rest]
        )
        with objective.open() as f:
            point = f.linearize()
            exact = self.H.float()

            def product(v: Tensor) -> Tensor:
                f.counts.products += 1
                noise = torch.randn(N, generator=self.generator)
                # the terms of the first rows cancel: each is off by eps times their size
                if self.of_digits:
                    digits = v.double().frexp().mantissa
                    noise = (digits.sign() * (2 * (digits.abs() * 65521).frac() - 1)).float()
                noise *= EPS * self.terms * v.norm()
                noise[SMALL:] = 0.0
                Hv = exact @ v
                if self.skew:
                    Hv[-5:] += self.skew * v[-10:-5]
                return Hv + noise

            point.product = product
            point.coarser = product if self.by_difference else None
            at = Landscape(
                f,
                [0.1] * 2,
                self.law,
                {} if memory is None else memory,
                torch.Generator().manual_seed(seed),
            )
            reading = (measure or Sharpness()).read(at)
            before = f.counts.products
            self.found = amplification(at, point, "alone")
            self.looked = f.counts.products - before
        return reading


def close(value: float, true: float) -> bool:
    return abs(value / true - 1) < 0.01


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("terms", [1e-3, 2e-2])
def test_weights_that_are_rounding_alone_take_no_part(seed: int, terms: float) -> None:
    """Amplified, rounding is up to the size of the value."""
    of = Quadratic(seed, terms=terms)
    memory: dict[str, Any] = {}
    for step in range(3):
        reading = of.read(memory=memory, seed=step)
        assert close(reading.values[EFFECTIVE], of.true)
        assert close(reading.values["curvature/stability_ratio"], of.true / of.law.edge)
        assert of.found.null is not None
        assert of.found.null.tolist() == list(range(SMALL))
        assert not [doubt for doubt in reading.doubts if EFFECTIVE in doubt]


def test_rounding_that_depends_on_the_digits_of_a_vector_alone_is_told() -> None:
    """As that of a mean of equal numbers: vectors that differ in signs alone would tell the same."""
    found = 0
    for seed in range(40):
        of = Quadratic(seed, terms=1e-3)
        of.of_digits = True
        of.P[:SMALL] *= 1 + torch.rand(SMALL, generator=of.generator)
        of.read()
        found += 0 if of.found.null is None else len(of.found.null)
    assert found >= 0.98 * 40 * SMALL


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [1e-5, 1e-7, 1e-9])
def test_curvature_that_is_tiny_but_real_counts(seed: int, size: float) -> None:
    """It is far below the rounding of other rows; its own sums have small terms."""
    of = Quadratic(seed, terms=1e-3 * size)
    for i in range(SMALL):
        of.H[i, i] = size * (i + 1)
    reading = of.read()
    assert of.found.null is None
    assert close(reading.values[EFFECTIVE], of.true)
    assert not reading.doubts


@pytest.mark.parametrize("seed", SEEDS)
def test_curvature_between_a_weight_and_others_alone_counts(seed: int) -> None:
    """As that of the first factor of a low-rank update while the second is zero."""
    of = Quadratic(seed, terms=1e-5)
    of.H[0, -1] = of.H[-1, 0] = 0.1
    reading = of.read()
    assert of.found.null is not None
    assert of.found.null.tolist() == list(range(1, SMALL))
    assert close(reading.values[EFFECTIVE], of.true)
    assert of.true > 100


@pytest.mark.parametrize("seed", SEEDS)
def test_weights_that_nothing_reaches_change_no_bit(seed: int) -> None:
    """Embedding rows not seen, dead units: products are zero, not rounding."""
    of = Quadratic(seed, terms=0.0)
    memory: dict[str, Any] = {}
    value = of.read(memory=memory).values[EFFECTIVE]
    assert of.found.null is None
    other: dict[str, Any] = {}
    plain = Quadratic(seed, terms=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("curvwatch.measures.sharpness.amplification", lambda *_: type(of.found)())
        assert plain.read(memory=other).values[EFFECTIVE] == value
    assert torch.equal(other["effective"], memory["effective"])


@pytest.mark.parametrize("seed", SEEDS)
def test_where_rounding_of_differences_could_hide_the_value_the_cause_is_named(seed: int) -> None:
    of = Quadratic(seed, terms=3e2)
    of.by_difference = True
    reading = of.read()
    (doubt,) = [d for d in reading.doubts if EFFECTIVE in d]
    for words in ("second moments amplify the rounding", "bias", "64-true", "bias=False"):
        assert words in doubt
    assert "second derivative" not in doubt
    assert {EFFECTIVE, "curvature/stability_ratio"} <= set(reading.doubtful)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_wrong_second_derivative_is_still_told(seed: int) -> None:
    of = Quadratic(seed, terms=1e-3, off=5.0)
    reading = of.read()
    assert any(EFFECTIVE in doubt and "not symmetric" in doubt for doubt in reading.doubts)


def test_it_costs_two_products_once_it_is_known_and_none_where_p_is_not_small() -> None:
    of, spent = Quadratic(0, terms=2e-2), []
    memory: dict[str, Any] = {}
    for step in range(20):
        of.read(memory=memory, seed=step)
        spent.append(of.looked)
    assert spent[0] == 6
    # by chance a product of rounding may agree, one in 200 or so: then it is looked at again
    assert sorted(spent)[10] == 2
    of.P[:SMALL] = 1.0
    of.read(memory=memory)
    assert of.looked == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_the_density_leaves_them_out_too(seed: int) -> None:
    of = Quadratic(seed, terms=2e-2)
    measure = SpectralDensity(of="preconditioned", leading=8)
    reading = of.read(measure)
    values = {k.removeprefix("curvature/preconditioned/"): v for k, v in reading.values.items()}
    s = of.P.rsqrt()
    eigenvalues = torch.linalg.eigvalsh(s[:, None] * of.H * s)
    assert not reading.doubts
    assert values["trace"] == pytest.approx(float(eigenvalues.sum()), abs=4 * values["trace_error"])
    stable = float(eigenvalues.square().sum() / eigenvalues[-1] ** 2)
    assert values["stable_rank"] == pytest.approx(stable, abs=4 * values["stable_rank_error"])


class Keys(nn.Module):
    """Softmax does not see a shift that all keys have in common."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 24)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.inner(x)).view(-1, 3, 8)
        return self.head((h + self.attention(h, h, h, need_weights=False)[0]).mean(1))


class RowShift(nn.Module):
    """LayerNorm does not see what is added to all features alike."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.shift = nn.Linear(6, 8), nn.Linear(6, 1)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.norm(self.inner(x) + self.shift(x))))


def convolution(norm: Any) -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 6)),
        nn.Conv1d(1, 4, 3, padding=1),
        norm,
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(24, 4),
    )


# a network, and how many of its weights the loss does not depend on
NETS = {
    "Linear, BatchNorm": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4)),
        8,
    ),
    "Conv, BatchNorm": (lambda: convolution(nn.BatchNorm1d(4)), 4),
    "Conv, InstanceNorm": (lambda: convolution(nn.InstanceNorm1d(4)), 4),
    "Conv, GroupNorm": (lambda: convolution(nn.GroupNorm(4, 4)), 4),
    "keys": (Keys, 8),
    "row shift": (RowShift, 7),
    "none": (lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)), 0),
}
OPTIMIZERS = {
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "AdamW, fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=5e-2),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=1e-2),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=1e-2),
}


# each optimizer on one network, and the others with one of those that are not Adam and with Adam
@pytest.mark.parametrize(
    ("net", "optimizer"),
    only(
        itertools.product(NETS, OPTIMIZERS),
        take=[
            *(("Linear, BatchNorm", optimizer) for optimizer in OPTIMIZERS),
            ("Conv, BatchNorm", "RMSprop"),
            ("Conv, BatchNorm", "Adam"),
            ("Conv, InstanceNorm", "Adafactor"),
            ("Conv, InstanceNorm", "Adam"),
            ("Conv, GroupNorm", "RMSprop"),
            ("keys", "Adafactor"),
            ("keys", "Adam"),
            ("row shift", "Adagrad"),
            ("row shift", "Adam"),
            ("none", "NAdam"),
            ("none", "Adam"),
        ],
    ),
)
def test_networks_read_what_their_dense_hessian_in_float64_says(net: str, optimizer: str) -> None:
    """With the P that the optimizer has; the loss is 1e3 times as large, so that eps hides nothing."""
    torch.manual_seed(0)
    make, flat_weights = NETS[net]
    model = make()
    params = list(model.parameters())
    opt = OPTIMIZERS[optimizer](params)
    case = Case(net, make, lambda out, y: 1e3 * nn.functional.cross_entropy(out, y), lambda n: (0, 0))
    memory: dict[str, Any] = {}
    for step in range(1, 9):
        batch = (torch.randn(16, 6), torch.randint(0, 4, (16,)))
        opt.zero_grad()
        case.loss(model(batch[0]), batch[1]).backward()
        opt.step()
        if step not in (1, 4, 8):
            continue
        law = stability_law(opt)
        objective = objective_of(case, model, [batch])
        with objective.open() as f:
            at = Landscape(f, [1e-2] * len(params), law, memory, torch.Generator().manual_seed(step))
            reading = Sharpness().read(at)
        H = hessian_in_float64(case, model, batch)
        s = torch.cat([P.reshape(-1) for P in law.preconditioner]).double().rsqrt()
        true = float(torch.linalg.eigvalsh(s[:, None] * H * s)[-1])
        assert close(reading.values[EFFECTIVE], true), (step, reading.values[EFFECTIVE], true)
        assert not reading.doubts
        # none that counts is left out, whatever this processor's rounding is
        null = memory.get("null", torch.empty(0, dtype=torch.long))
        assert len(null) <= flat_weights
        assert math.isclose(float(H[null].abs().sum()), 0.0, abs_tol=1e-8 * float(H.abs().max()))


def hessian_in_float64(case: Case, model: nn.Module, batch: Any) -> Tensor:
    """At the same weights."""
    twin = copy.deepcopy(model).double()
    params = list(twin.parameters())
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        loss = case.loss(twin(batch[0].double()), batch[1])
        gradient = flat_with_graph(torch.autograd.grad(loss, params, create_graph=True))
    eye = torch.eye(len(gradient), dtype=torch.float64)
    options: dict[str, Any] = {"retain_graph": True, "materialize_grads": True}
    if any(isinstance(part, nn.GroupNorm) for part in twin.modules()):  # torch has no batched one
        rows = [torch.autograd.grad(gradient, params, row, **options) for row in eye]
        H = torch.stack([flat_with_graph(row) for row in rows])
    else:
        columns = torch.autograd.grad(gradient, params, eye, is_grads_batched=True, **options)
        H = torch.cat([c.flatten(1) for c in columns], dim=1)
    H = H.detach()
    return (H + H.T) / 2


def flat_with_graph(tensors: Any) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])
