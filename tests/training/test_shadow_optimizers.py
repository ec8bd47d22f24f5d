"""Shadow steps against real optimizers fed with the same gradients, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from curvwatch import CurvwatchError
from curvwatch.measures.compared import COMPARED, Compared, clipped
from curvwatch.training.shadow_optimizers import ShadowOptimizer

SHAPES = [(3, 4), (4,), (2, 3)]
STEPS = 6


def weights(*, seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in SHAPES]


def gradients(step: int) -> list[Tensor | None]:
    """The second weight has none now and then, as if no example used it."""
    drawn: list[Tensor | None] = [w.detach() * 10.0**-i for i, w in enumerate(weights(seed=9 + step))]
    if step in (0, 3):
        drawn[1] = None
    return drawn


def fed(shadow: ShadowOptimizer, of: list[nn.Parameter], step: int) -> list[Tensor]:
    """The shadow step of the gradients of `step`."""
    before = {id(w): w.detach().clone() for w in of}
    pairs = zip(of, gradients(step), strict=True)
    shadow.save_weights(of)
    shadow.feed({id(w): g for w, g in pairs if g is not None})
    steps = shadow.steps(before)
    return [steps[id(w)] for w in of]


def real_steps(make: Any, *, clip: float | None = None) -> list[list[Tensor]]:
    """The steps of a real optimizer, and the weights go with it."""
    of = weights()
    optimizer = make(of)
    taken = []
    for step in range(STEPS):
        given = {i: g for i, g in enumerate(gradients(step)) if g is not None}
        if clip is not None:
            given = cut(given, clip)
        for i, w in enumerate(of):
            w.grad = given.get(i)
        before = [w.detach().clone() for w in of]
        optimizer.step()
        taken.append([w.detach() - b for w, b in zip(of, before, strict=True)])
    return taken


def cut(given: dict[int, Tensor], share: float) -> dict[int, Tensor]:
    """Coordinate-wise clipping by sorting."""
    sizes = torch.cat([g.flatten() for g in given.values()]).abs().sort().values
    threshold = float(sizes[len(sizes) - round(share * len(sizes)) - 1])
    return {key: g.clamp(-threshold, threshold) for key, g in given.items()}


REAL = {
    "sgd": (lambda p: torch.optim.SGD(p, lr=1.0), None),
    "momentum": (lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9), None),
    "adam": (lambda p: torch.optim.Adam(p, lr=1.0), None),
    "clipped_sgd": (lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9), 0.1),
    "clipped_adam": (lambda p: torch.optim.Adam(p, lr=1.0), 0.5),
}


@pytest.mark.parametrize("name", REAL)
def test_a_rule_makes_the_steps_of_the_real_optimizer(name: str) -> None:
    make, clip = REAL[name]
    of = weights()
    shadow = ShadowOptimizer(COMPARED[name], of)
    for step, expected in enumerate(real_steps(make, clip=clip)):
        for ours, theirs in zip(fed(shadow, of, step), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(of, weights(), strict=True))  # they stay


@pytest.mark.parametrize("name", ["sign", "lion", "normalized_sgd"])
def test_rules_by_their_formulas(name: str) -> None:
    of = weights()
    shadow = ShadowOptimizer(COMPARED[name], of)
    state = [torch.zeros_like(w) for w in of]
    for step in range(STEPS):
        for i, (ours, g) in enumerate(zip(fed(shadow, of, step), gradients(step), strict=True)):
            if g is None:
                assert not ours.any()
                continue
            if name == "sign":
                expected = -torch.sign(g)
            elif name == "lion":
                expected = -torch.sign(0.9 * state[i] + 0.1 * g)
                state[i] = 0.99 * state[i] + 0.01 * g
            else:
                state[i] = 0.9 * state[i] + g / torch.linalg.vector_norm(g)
                expected = -state[i]
            torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


def test_a_factory_decays_the_weights_of_the_run() -> None:
    """AdamW's step on weights that another optimizer moves."""
    of = weights()
    make = lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.3)  # noqa: E731
    shadow = ShadowOptimizer(Compared("mine", make), of)
    plain = ShadowOptimizer(Compared("plain", lambda p: torch.optim.Adam(p, lr=0.01)), of)
    for step in range(STEPS):
        for ours, bare, w, g in zip(
            fed(shadow, of, step), fed(plain, of, step), of, gradients(step), strict=True
        ):
            decay = 0.0 if g is None else -0.01 * 0.3 * w.detach()
            torch.testing.assert_close(ours, bare + decay, rtol=1e-8, atol=1e-12)
            with torch.no_grad():
                w -= 0.1 * w


def test_clipping_leaves_the_share_and_does_not_count_zeros() -> None:
    g = {0: torch.tensor([1.0, -5.0, 3.0, 0.0]), 1: torch.tensor([[-2.0], [0.0], [4.0]])}
    cut_down = clipped(g, 0.4)  # 2 of 5
    assert cut_down[0].tolist() == [1.0, -3.0, 3.0, 0.0]
    assert cut_down[1].tolist() == [[-2.0], [0.0], [3.0]]
    assert torch.equal(clipped({0: g[0]}, 0.1)[0], g[0])  # a third of a coordinate is none
    assert not clipped({0: torch.zeros(3)}, 0.5)[0].any()
    assert clipped({}, 0.5) == {}


@pytest.mark.parametrize("name", [*COMPARED, "factory"])
def test_a_state_goes_on_bit_for_bit(name: str) -> None:
    compared = COMPARED.get(name) or Compared(name, lambda p: torch.optim.RMSprop(p, lr=0.01))
    of = weights()
    one = ShadowOptimizer(compared, of)
    for step in range(3):
        fed(one, of, step)
    two = ShadowOptimizer.resumed(compared, of, one.state_dict())
    for step in range(3, STEPS):
        for a, b in zip(fed(one, of, step), fed(two, of, step), strict=True):
            assert torch.equal(a, b)
    other = weights()[:2]
    fresh = ShadowOptimizer.resumed(compared, other, one.state_dict())  # other weights: from nothing
    fresh.save_weights(other)


def test_weights_that_come_later_are_followed_and_resumed() -> None:
    of = weights()
    one = ShadowOptimizer(COMPARED["adam"], of[:2])
    one.save_weights(of[:2])
    one.feed({id(w): g for w, g in zip(of[:2], gradients(1), strict=False)})
    fed(one, of, 1)
    two = ShadowOptimizer.resumed(COMPARED["adam"], of, one.state_dict())
    for a, b in zip(fed(one, of, 2), fed(two, of, 2), strict=True):
        assert a.any()
        assert torch.equal(a, b)


def test_half_precision_is_followed_in_single() -> None:
    w = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    shadow = ShadowOptimizer(COMPARED["momentum"], [w])
    shadow.feed({id(w): torch.full((3,), 0.5, dtype=torch.bfloat16)})
    assert shadow.steps({})[id(w)].dtype == torch.float32


def test_nobody_hears_of_a_shadow_step() -> None:
    """Neither hooks on all optimizers nor the random numbers of training."""

    class Noisy(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            torch.rand(3)
            super().step(closure)

    heard: list[Any] = []
    handle = register_optimizer_step_post_hook(lambda *_: heard.append(1))
    try:
        of = weights()
        random = torch.get_rng_state()
        for compared in (COMPARED["adam"], Compared("noisy", lambda p: Noisy(p, lr=0.1))):
            fed(ShadowOptimizer(compared, of), of, 1)
        assert not heard
        assert torch.equal(random, torch.get_rng_state())
        real_steps(lambda p: torch.optim.SGD(p, lr=0.1))
        assert heard
    finally:
        handle.remove()


@pytest.mark.parametrize("make", [lambda p: torch.optim.LBFGS(p), lambda p: None])
def test_a_factory_of_something_else_is_refused(make: Any) -> None:
    with pytest.raises(CurvwatchError, match=r"not a torch\.optim\.Optimizer that makes"):
        ShadowOptimizer(Compared("other", make), weights())
