"""The outputs of a network: what a known loss function got, seen while the loss is evaluated."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from curvwatch.errors import CurvwatchError

# a node of the autograd graph and which of its results; the same for equal places in one graph
Edge = tuple[Any, int]

# which arguments of a loss function are outputs, where they depend on a weight
LOSSES: dict[Callable[..., Any], tuple[str, ...]] = {
    F.cross_entropy: ("input",),
    F.nll_loss: ("input",),
    F.kl_div: ("input",),
    F.binary_cross_entropy: ("input",),
    F.binary_cross_entropy_with_logits: ("input",),
    F.mse_loss: ("input", "target"),
    F.l1_loss: ("input", "target"),
    F.smooth_l1_loss: ("input", "target"),
    F.huber_loss: ("input", "target"),
    F.gaussian_nll_loss: ("input", "var"),
}
# these get probabilities: the outputs are what was normalised to them, in which the loss is convex
_OF_PROBABILITIES = {
    "nll_loss": "log_softmax",
    "kl_div": "log_softmax",
    "binary_cross_entropy": "sigmoid",
}
_NORMALISED: dict[Callable[..., Any], str] = {
    F.log_softmax: "log_softmax",
    torch.log_softmax: "log_softmax",
    Tensor.log_softmax: "log_softmax",
    torch.special.log_softmax: "log_softmax",
    F.softmax: "softmax",
    torch.softmax: "softmax",
    Tensor.softmax: "softmax",
    torch.special.softmax: "softmax",
    torch.sigmoid: "sigmoid",
    F.sigmoid: "sigmoid",
    Tensor.sigmoid: "sigmoid",
    torch.special.expit: "sigmoid",
}
_LOGARITHMS: tuple[Callable[..., Any], ...] = (torch.log, Tensor.log)
# what may lie between a normalisation and the loss: entries are moved or left out, not changed
_MOVES = {
    "View",
    "UnsafeView",
    "ReshapeAlias",
    "Transpose",
    "Permute",
    "T",
    "Slice",
    "Select",
    "Split",
    "Squeeze",
    "Unsqueeze",
    "Clone",
    "Alias",
    "ToCopy",
    "Index",
}
ADVICE = (
    "give outputs_fn=lambda batch: ..., and loss_of_outputs=lambda outputs, batch: ..., which must use "
    "no weights"
)


@dataclass(frozen=True, eq=False)
class Normalised:
    """A call of softmax, log_softmax or sigmoid.

    Attributes:
        kind: which.
        logits: its input.
        result: of the same shape.
        dim: along which the probabilities sum to 1; of sigmoid it means nothing.
    """

    kind: str
    logits: Tensor
    result: Tensor
    dim: int


@dataclass(frozen=True, eq=False)
class LossCall:
    """A call of a known loss function.

    Attributes:
        name: of the function in torch.nn.functional.
        arguments: by name, defaults filled in.
        result: what it returned.
        outputs: what of its arguments depends on weights; logits, where it got probabilities.
        normalised: how these became its argument, where it got probabilities.
        unclear: why the outputs cannot be identified, None where they can.
    """

    name: str
    arguments: Mapping[str, Any]
    result: Tensor
    outputs: tuple[Tensor, ...]
    normalised: Normalised | None = None
    unclear: str | None = None


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a loss is a function of.

    Attributes:
        tensors: the outputs, in the graph of the loss; none depends on another.
        calls: of the loss functions that got them; none where the user said what the outputs are.
    """

    tensors: tuple[Tensor, ...]
    calls: tuple[LossCall, ...] = field(default=())


class LossCallRecorder(TorchFunctionMode):
    """Notes each call of a known loss function while it is entered.

    Attributes:
        calls: in their order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[LossCall] = []
        self._normalised: dict[Any, Normalised] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func`."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not isinstance(result, Tensor) or not result.requires_grad:
            return result
        if func in LOSSES:
            self.calls.append(self._loss_call(func, args, kwargs, result))
            return result.clone()  # `loss += penalty` then leaves what is noted as it is
        if func in _NORMALISED:
            logits = args[0] if args else kwargs["input"]
            dim = _dim_of(logits, args[1] if len(args) > 1 else kwargs.get("dim"))
            self._note(Normalised(_NORMALISED[func], logits, result, dim))
        elif func in _LOGARITHMS:
            inner = self._normalised.get(edge_of(args[0] if args else kwargs["input"])[0])
            if inner is not None and inner.kind == "softmax":
                self._note(Normalised("log_softmax", inner.logits, result, inner.dim))
        return result

    def clear(self) -> None:
        """Forget all calls, and their graphs."""
        self.calls.clear()
        self._normalised.clear()

    def _note(self, call: Normalised) -> None:
        self._normalised[edge_of(call.result)[0]] = call

    def _loss_call(self, func: Callable[..., Any], args: Any, kwargs: Any, result: Tensor) -> LossCall:
        bound = inspect.signature(func).bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        outputs = [given[name] for name in LOSSES[func]]
        outputs = [t for t in outputs if isinstance(t, Tensor) and t.requires_grad]
        kind = _OF_PROBABILITIES.get(func.__name__)
        if kind is None or not outputs:
            return LossCall(func.__name__, given, result, tuple(outputs))
        normalised = self._origin(outputs[0])
        if normalised is None or normalised.kind != kind:
            why = f"{func.__name__} got probabilities that are not the result of {kind}"
            return LossCall(func.__name__, given, result, tuple(outputs), unclear=why)
        return LossCall(func.__name__, given, result, (normalised.logits,), normalised)

    def _origin(self, t: Tensor) -> Normalised | None:
        """The normalisation that `t` is the result of, moved perhaps."""
        node = edge_of(t)[0]
        while node not in self._normalised:
            if node.name().rstrip("0123456789").removesuffix("Backward") not in _MOVES:
                return None
            node = node.next_functions[0][0]
        return self._normalised[node]


def edge_of(t: Tensor) -> Edge:
    """Where `t`, which requires a gradient, stands in its graph."""
    with torch.enable_grad():
        # a leaf has no node of its own yet: that of a view leads to it
        return t.view_as(t).grad_fn.next_functions[0]  # type: ignore[union-attr]


def find_outputs(loss: Tensor, calls: Sequence[LossCall], weights: Mapping[int, str]) -> Outputs:
    """The outputs that `loss`, a scalar, is a function of, where nothing else leads to a weight.

    Args:
        loss: with its graph.
        calls: of loss functions while it was evaluated; those that are no part of it are left out.
        weights: the names of the leaves of its graph, by `id`.

    Raises:
        CurvwatchError: it is not clear what the outputs are; the message says why and what helps.
    """
    met = find_ends(loss, [edge_of(call.result) for call in calls], weights)[0]
    calls = [call for call in calls if edge_of(call.result) in met]
    if not calls:
        raise CurvwatchError(
            "the outputs of the network cannot be identified: its loss passes through none of "
            f"{', '.join(f.__name__ for f in LOSSES)} (nor their modules): {ADVICE}"
        )
    for call in calls:
        if call.unclear is not None:
            raise CurvwatchError(
                f"the outputs of the network cannot be identified: {call.unclear}; {ADVICE}"
            )
    names = " and ".join(dict.fromkeys(call.name for call in calls))
    return Outputs(
        checked_outputs(loss, [t for c in calls for t in c.outputs], weights, names), tuple(calls)
    )


def checked_outputs(
    loss: Tensor, tensors: Sequence[Tensor], weights: Mapping[int, str], whose: str
) -> tuple[Tensor, ...]:
    """Those of `tensors` that `loss` is a function of, each once, and none of another.

    Raises:
        CurvwatchError: a weight leads to the loss by another way, or one output makes another.
    """
    by_edge = {edge_of(t): t for t in tensors if t.requires_grad}
    met, past = find_ends(loss, list(by_edge), weights)
    if past is not None:
        raise CurvwatchError(
            f"the loss depends on the weight {past} also outside of the outputs that {whose} got, such "
            f"as by a regulariser, so it is not a function of the outputs alone: {ADVICE}; the "
            "regulariser is then left out"
        )
    by_edge = {edge: t for edge, t in by_edge.items() if edge in met}
    for edge, t in list(by_edge.items()):
        others = [e for e in by_edge if e != edge]
        met, past = find_ends(t, others, weights, inside=True)
        if met and past is None:  # a scaled copy, say
            del by_edge[edge]
        elif met:
            raise CurvwatchError(
                f"one of the outputs that {whose} got is computed from another and from the weight "
                f"{past}, so the loss is not a function of separate outputs: {ADVICE}"
            )
    if not by_edge:
        raise CurvwatchError(f"the loss does not depend on the outputs: {ADVICE}")
    return tuple(by_edge.values())


def find_loss_inputs(
    loss: Tensor, calls: Sequence[LossCall], results: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The outputs that `loss` is computed from, each once, whatever else it depends on; () if unknown.

    Args:
        loss: with its graph.
        calls: of loss functions while it was evaluated: what those that are part of it got.
        results: without any such call those of these that `loss` reaches past no other.
    """
    ends = {edge_of(call.result): call.outputs for call in calls}
    ends = ends or {edge_of(t): (t,) for t in results if t.requires_grad}
    met = find_ends(loss, list(ends), {})[0]
    if not met and calls:
        return find_loss_inputs(loss, (), results)
    return tuple({edge_of(t): t for edge in ends if edge in met for t in ends[edge]}.values())


def find_ends(
    t: Tensor, ends: Sequence[Edge], weights: Mapping[int, str], *, inside: bool = False
) -> tuple[set[Edge], str | None]:
    """Which of `ends` lie behind `t`, and a weight that is reached past them; `inside`: not at `t`."""
    node, place = edge_of(t)
    stack = list(node.next_functions) if inside else [(node, place)]
    stops, met, seen, past = set(ends), set(), set(), None
    while stack:
        edge = stack.pop()
        if edge in stops:
            met.add(edge)
            continue
        node = edge[0]
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) in weights:
            past = weights[id(variable)]
        stack.extend(node.next_functions)
    return met, past


def _dim_of(t: Tensor, dim: Any) -> int:
    if isinstance(dim, int):
        return dim
    return 0 if t.ndim in (0, 1, 3) else 1  # torch's own choice where none is given
