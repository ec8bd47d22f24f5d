"""The Gauss-Newton matrix: its eigenvalues and trace, and how far the Hessian is from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from curvwatch.charts.histogram import Histogram
from curvwatch.checks import check_int
from curvwatch.measures.base import Landscape, LandscapeMeasure, Reading
from curvwatch.measures.matrices import (
    check_options,
    finite_or_note,
    given_outputs,
    leading_pairs,
    mean_and_error,
    relative_residual,
    solver_doubt,
)
from curvwatch.objective.outputs.output_graph import OutputGraphs
from curvwatch.operators import (
    FunctionOperator,
    SymmetricOperator,
    gauss_newton,
    hessian,
    random_signs,
    with_product,
)
from curvwatch.solvers import stochastic_lanczos

# relative; rounding in half precision stays under it
_SAME_LOSS = 0.01
# a distance of H from G, relative, that is rounding
_ROUNDED = 1e-6


class GaussNewton(LandscapeMeasure):
    """G = J' H_L J, J the derivative of the network's outputs, H_L the Hessian of the loss by them.

    G is what the Hessian H would be, were the network linear in its weights; the rest, H - G, is the
    curvature of the network itself.

    | metric | value |
    |---|---|
    | `gauss_newton/lambda_max` | largest eigenvalue of G |
    | `gauss_newton/lambda_max_residual` | abs(G v - value v) / value, v the unit eigenvector |
    | `gauss_newton/trace`, `gauss_newton/trace_stderr` | trace of G, and its standard error |
    | `gauss_newton/distance`, `gauss_newton/distance_stderr` | abs(H - G) / abs(H), Frobenius norms, \
and its standard error: 0 where the Hessian is Gauss-Newton |
    | `gauss_newton/rest_lambda_max` | largest (algebraic) eigenvalue of H - G |
    | `gauss_newton/rest_lambda_max_residual` | abs((H - G) v - value v) / abs(value) |

    The density of the eigenvalues of G is the histogram `gauss_newton/density`; what follows from it,
    with errors, is `SpectralDensity(of="gauss_newton")`.

    The outputs are found from the loss: they are what cross_entropy, nll_loss, kl_div, mse_loss,
    l1_loss, smooth_l1_loss, huber_loss, binary_cross_entropy, binary_cross_entropy_with_logits or
    gaussian_nll_loss got, of torch.nn.functional or by their modules; where these take probabilities,
    the logits. Weights of classes, reductions, factors and further terms of the outputs count as they
    do in the loss. G depends on what counts as output: a variance, not its logarithm. Where the outputs
    are not clear, or a term of the loss does not go through them, the reading fails and says why;
    `outputs_fn` and `loss_of_outputs` then define them. Of l1_loss G is zero, as is its second
    derivative.

    Price: two gradients, `probes` products with each of H and G, 4 to 10 with G for its eigenvalue and
    as many with both for that of H - G, and `density_probes` x `density_steps`, 32 by default, with G
    for its density; a product with G costs what one with H does. Not for weights that are spread over
    processes.

    Args:
        outputs_fn: from a batch to the outputs, a tensor or several; uses the module that is trained.
        loss_of_outputs: from these and the batch to the loss; without weights. What the loss has
            beside it, such as a regulariser, is in H and not in G.
        probes: random vectors for trace and distance; at least 2, for standard errors.
        density_probes: random vectors for the density; 0: none.
        density_steps: products for each of these vectors.
        rtol: relative residual at which the solvers stop.
        max_products: the most products of each solve.
        every_n_steps: cadence of this measure alone; None: the monitor's.

    Sources: Schraudolph 2002, "Fast curvature matrix-vector products for second-order gradient
    descent"; Papyan 2019, "Measurements of three-level hierarchical structure in the
    outliers in the spectrum of deepnet Hessians" (H = G + rest); Hutchinson 1990 (random
    signs; abs(A z)^2 has the mean of the squared Frobenius norm).
    """

    name: str = "gauss_newton"
    expensive: ClassVar[bool] = True
    metrics: tuple[str, ...] = (
        "gauss_newton/lambda_max",
        "gauss_newton/lambda_max_residual",
        "gauss_newton/trace",
        "gauss_newton/trace_stderr",
        "gauss_newton/distance",
        "gauss_newton/distance_stderr",
        "gauss_newton/rest_lambda_max",
        "gauss_newton/rest_lambda_max_residual",
    )

    def __init__(
        self,
        *,
        outputs_fn: Callable[[Any], Any] | None = None,
        loss_of_outputs: Callable[[Any, Any], Any] | None = None,
        probes: int = 8,
        density_probes: int = 2,
        density_steps: int = 16,
        rtol: float = 0.01,
        max_products: int = 50,
        every_n_steps: int | None = None,
    ) -> None:
        super().__init__(every_n_steps=every_n_steps)
        check_options(probes=probes, rtol=rtol, max_products=max_products)
        check_int("density_probes", density_probes, at_least=0, what="0 or a number of random vectors")
        check_int("density_steps", density_steps, at_least=2, what="at least 2 products")
        self.given = given_outputs(outputs_fn, loss_of_outputs)
        self.probes = probes
        self.density_probes = density_probes
        self.density_steps = density_steps
        self.rtol = rtol
        self.max_products = max_products

    def read(self, at: Landscape) -> Reading:
        """Read G; nan with a note where products are not finite.

        Raises:
            CurvwatchError: the outputs are not clear; the message says what helps.
        """
        values = dict.fromkeys(self.metrics, math.nan)
        point = at.objective.linearize()
        if (note := finite_or_note(point)) is not None:
            return Reading(values, (note,))
        H = hessian(point)
        graphs = OutputGraphs(at.objective, self.given)
        G = gauss_newton(at.objective, graphs)
        dot = at.objective.layout.dot
        seen = np.empty((self.probes, 3))  # z'Gz, |Hz - Gz|^2, |Hz|^2
        for row in seen:
            z = random_signs(H, at.generator)
            # H first: it finds out whether batches can be taken in parts
            Hz, Gz = H.matvec(z), G.matvec(z)
            rest = Hz - Gz
            row[:] = dot(z, Gz), dot(rest, rest), dot(Hz, Hz)
        if not np.isfinite(seen).all():
            return Reading(values, ("products with the Hessian or with G are not finite",))
        values["gauss_newton/trace"], values["gauss_newton/trace_stderr"] = mean_and_error(seen[:, 0])
        distance, error = root_of_quotient(seen[:, 1], seen[:, 2])
        values["gauss_newton/distance"], values["gauss_newton/distance_stderr"] = distance, error
        notes = (
            []
            if seen[:, 2].any()
            else ["the Hessian is zero, so no distance relative to it is defined"]
        )
        if self.given is not None:
            notes += other_loss(at, graphs, point.loss)
        doubts = {}
        for name, key, A in (("lambda_max", "vector", G), ("rest_lambda_max", "rest", _rest(H, G))):
            metric = f"gauss_newton/{name}"
            pairs = leading_pairs(at, A, key, rtol=self.rtol, max_products=self.max_products)
            values[metric] = float(pairs.values[0])
            values[f"{metric}_residual"] = relative_residual(pairs)
            # of a Hessian that is Gauss-Newton the rest is rounding
            exact = name == "rest_lambda_max" and distance <= _ROUNDED
            if not exact and (doubt := solver_doubt(metric, pairs, type(self).__name__)):
                doubts[metric] = doubt
        return Reading(
            values,
            tuple(notes),
            doubtful=tuple(doubts),
            doubts=tuple(doubts.values()),
            histograms=self._density(at, G),
        )

    def _density(self, at: Landscape, G: SymmetricOperator) -> dict[str, Histogram]:
        if not self.density_probes:
            return {}
        rule = stochastic_lanczos(G, self.density_probes, self.density_steps, generator=at.generator)
        if not rule.finite:
            return {}
        density = rule.density()
        return {"gauss_newton/density": Histogram(density.edges, density.weights)}


def _rest(H: SymmetricOperator, G: SymmetricOperator) -> FunctionOperator:
    """H - G."""
    return with_product(H, lambda v: H.matvec(v) - G.matvec(v))


def other_loss(at: Landscape, graphs: OutputGraphs, loss: float) -> list[str]:
    """A note where the loss of the outputs that the user gave is not the `loss` of training."""
    new = at.objective.weights.new_tensor
    of_outputs = float(graphs.total(lambda graph, _: new(float(graph.loss.detach()))))
    if abs(of_outputs - loss) <= _SAME_LOSS * abs(loss):
        return []
    return [
        f"the loss of the outputs is {of_outputs:.6g}, that of training {loss:.6g}: the difference "
        "is part of the Hessian, but not of the matrix of the outputs"
    ]


def root_of_quotient(above: np.ndarray, below: np.ndarray) -> tuple[float, float]:
    """The root of mean `above` / mean `below`, both (n,) and not negative, and its standard error.

    To first order in the deviations of the two; nan where `below` is zero.
    """
    if not below.any():
        return math.nan, math.nan
    quotient = above.mean() / below.mean()
    if quotient == 0:
        return 0.0, 0.0
    error = mean_and_error(above - quotient * below)[1] / below.mean()
    return math.sqrt(quotient), float(error / (2 * math.sqrt(quotient)))
