"""Permute the hidden units of a network so that it is near another and computes what it did."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from curvwatch.errors import CurvwatchError
from curvwatch.landscape.alignment.equivalence import output_difference
from curvwatch.landscape.alignment.matching import Places, match_units, permute
from curvwatch.landscape.alignment.result import Aligned
from curvwatch.landscape.alignment.units import Spec, chain_of, units_of
from curvwatch.landscape.checkpoints import (
    Checkpoint,
    check_has_values,
    check_weights,
    checkpoint_tensors,
    tensors_of,
)


def align(
    module: nn.Module,
    a: Checkpoint,
    b: Checkpoint,
    *,
    spec: Spec | None = None,
    inputs: Any = None,
    forward: Callable[[nn.Module, Any], Tensor] | None = None,
    seed: int = 0,
) -> Aligned:
    """Permute hidden units of `b` so that its weights come near those of `a`: it is the same function.

    Weight matching (Ainsworth, Hayase & Srinivasa 2023, "Git Re-Basin", algorithm 1). Two networks that
    are trained separately have their hidden units in different orders, and much of the barrier on a
    straight line between them is due to that (Entezari et al. 2022).

    Which units may change places is found in chains of layers: an nn.Sequential, or a module all of
    whose weights are in one. They may hold linear layers, convolutions, an embedding, batch, layer,
    group and instance norms, activations, dropout, pooling, and Flatten after convolutions.

    Args:
        module: of both networks; it is left as it is.
        a: checkpoint of the network that stays.
        b: checkpoint of the network that is permuted.
        spec: for other networks, such as those with residual connections: from a tensor's name in
            `module.state_dict()` to a name for the permutation of each of its axes, None for one that
            stays. Axes with the same name are permuted alike. Buffers of batch norms belong to it.
        inputs: on which both functions are compared; None: random ones, for chains.
        forward: `forward(module, inputs)` -> outputs; None: `module(inputs)`, for chains without
            inputs the chain's own.
        seed: of the order in which layers are matched, and of random inputs.

    Raises:
        CurvwatchError: which units may change places is unknown, or the permuted network does
            not compute the same.
        ImportError: scipy is missing; `pip install 'curvwatch[landscape]'` has it.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> a = {name: t.clone() for name, t in net.state_dict().items()}
        >>> b = {"0.weight": a["0.weight"].flip(0), "0.bias": a["0.bias"].flip(0)}
        >>> b |= {"2.weight": a["2.weight"].flip(1), "2.bias": a["2.bias"]}
        >>> align(net, a, b).distance
        0.0
    """
    check_has_values(module)
    own = {n: t.detach() for n, t in tensors_of(module).items()}
    one, other = ({**own, **checkpoint_tensors(c, module)} for c in (a, b))
    chain: nn.Module | None = None
    if spec is None:
        prefix, found = chain_of(module)
        spec, chain = units_of(found, prefix), found
    places = Places.of(spec, own)
    if not places.axes:
        raise CurvwatchError("the network has no hidden units, so there is nothing to permute")
    _check_shared(module, spec)
    weights = [n for n, _ in module.named_parameters(remove_duplicate=False) if n in spec]
    counted_a, counted_b = _finite_float64("a", one, weights), _finite_float64("b", other, weights)
    chosen, rounds = match_units(places, counted_a, counted_b, seed=seed)
    # not the module's own tensors, which training goes on to change
    state = {n: t.clone() for n, t in permute(places, other, chosen).items()}
    if inputs is None and (chain is None or forward is not None):
        raise CurvwatchError(
            "inputs are missing: they are needed to check that the permuted network computes the same; "
            "give a batch that the module, or forward=lambda module, inputs: ..., takes"
        )
    error, allowed = output_difference(
        module, other, state, chain=chain, inputs=inputs, forward=forward, seed=seed
    )
    if not error <= allowed:
        raise CurvwatchError(
            f"the permuted network computes something else: its outputs differ by {error:.2g} of the "
            "largest one, so not all axes that belong together are known as such; a spec can say"
        )
    return Aligned(
        state=state,
        permutations=chosen,
        distances_before=_distances(counted_a, counted_b),
        distances=_distances(counted_a, permute(places, counted_b, chosen)),
        rounds=rounds,
        error=error,
    )


def _finite_float64(label: str, state: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """What is matched, in float64 on the CPU."""
    for name in names:
        check_weights(name, state[name], label)
        if not bool(state[name].isfinite().all()):
            raise CurvwatchError(f"{name} of {label} is not finite: there is nothing to match")
    return {name: state[name].detach().double().cpu() for name in names}


def _check_shared(module: nn.Module, spec: Spec) -> None:
    """A tensor with several names has to be permuted in one way."""
    names: dict[int, str] = {}
    for name, t in tensors_of(module).items():
        first = names.setdefault(id(t), name)
        if tuple(spec.get(first, ())) != tuple(spec.get(name, ())):
            raise CurvwatchError(
                f"{first} and {name} are one tensor, and the spec says {spec.get(first)} of the one "
                f"and {spec.get(name)} of the other"
            )


def _distances(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, float]:
    return {n: float((b[n] - a[n]).norm()) for n in a}
