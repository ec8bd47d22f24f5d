"""The Fisher matrix: its largest eigenvalue and trace, and how it is aligned with the Hessian."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, get_args

import numpy as np
import torch

from curvwatch.checks import check_choice, check_int
from curvwatch.errors import CurvwatchError
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
from curvwatch.operators import FunctionOperator, hessian, random_signs
from curvwatch.operators.gauss_newton import FisherKind, fisher

_SEEDS = 1 << 62


class Fisher(LandscapeMeasure):
    """F = sum over terms of the loss of c E[g g'], g the gradient of -log p(y), c the term's factor.

    | metric | value |
    |---|---|
    | `fisher/lambda_max` | largest eigenvalue of F |
    | `fisher/lambda_max_residual` | abs(F v - value v) / value, the largest of the `k` pairs' |
    | `fisher/trace`, `fisher/trace_stderr` | trace of F, and its standard error |
    | `fisher/cosine`, `fisher/cosine_stderr` | <H, F> / (abs(H) abs(F)), H the Hessian, Frobenius \
products, and its standard error: 1 where one is a multiple of the other |
    | `fisher/overlap` | abs(V_H V_F')^2 / k (Frobenius), V the `k` leading eigenvectors of each: 1 \
where they span the same space |

    Targets y are those that `kind` says: "type1": the mean over the distribution p that the network
    predicts, in closed form: the true Fisher matrix. "mc": drawn from p, one for each term: trace and
    cosine are estimates of those of the true Fisher matrix, with new targets for each random vector, so
    that the standard errors hold both kinds of chance; eigenvalue and overlap are those of one matrix
    with drawn targets, whose eigenvalue is the true one's or larger in the mean. "empirical": those of
    the batch, which is no Fisher matrix (Kunstner et al. 2019).

    A term is what has its own class (a token, a pixel), else an example. c is what the loss multiplies
    -log p with: the reduction, weights of classes and examples, factors. So F is of the size of H, and
    the true one is the Gauss-Newton matrix for cross_entropy, nll_loss, kl_div, the binary losses and
    mse_loss (p normal with variance 1/2). It is another matrix for l1_loss (p Laplace) and for
    gaussian_nll_loss with a variance that is trained. huber_loss and smooth_l1_loss have the empirical
    one alone. Outputs are found as in `GaussNewton`; where that fails, or the loss has other terms, the
    reading fails and says so, and `outputs_fn` with `loss_of_outputs`, which calls one of these losses,
    define them.

    Price: two gradients, `probes` products with H and F, of "mc" twice with F, and for the eigenvectors
    of both some 10 in the first reading and 5 later, more for k > 1; a product with F costs what one
    with H does. Not for weights that are spread over processes.

    Args:
        kind: which targets.
        k: dimension of the spaces of the overlap.
        outputs_fn: from a batch to the outputs; uses the module that is trained.
        loss_of_outputs: from these and the batch to the loss; without weights.
        probes: random vectors for trace and cosine; at least 2, for standard errors.
        rtol: relative residual at which the solver stops.
        max_products: the most products of each solve.
        every_n_steps: cadence of this measure alone; None: the monitor's.

    Sources: Martens 2020, "New insights and perspectives on the natural gradient method" (Fisher and
    Gauss-Newton matrix); Kunstner et al. 2019, "Limitations of the empirical Fisher approximation for
    natural gradient descent"; Soen & Sun 2021, "On the variance of the Fisher information for deep
    learning" (first type: by first derivatives); Thomas et al. 2020, "On the interplay between noise
    and curvature and its effect on optimization and generalization" (F beside H).
    """

    name: str = "fisher"
    expensive: ClassVar[bool] = True
    metrics: tuple[str, ...] = (
        "fisher/lambda_max",
        "fisher/lambda_max_residual",
        "fisher/trace",
        "fisher/trace_stderr",
        "fisher/cosine",
        "fisher/cosine_stderr",
        "fisher/overlap",
    )

    def __init__(
        self,
        kind: FisherKind = "mc",
        *,
        k: int = 1,
        outputs_fn: Callable[[Any], Any] | None = None,
        loss_of_outputs: Callable[[Any, Any], Any] | None = None,
        probes: int = 8,
        rtol: float = 0.01,
        max_products: int = 100,
        every_n_steps: int | None = None,
    ) -> None:
        super().__init__(every_n_steps=every_n_steps)
        check_choice("kind", kind, get_args(FisherKind))
        check_int("k", k, at_least=1, what="a positive number of eigenvectors")
        check_options(probes=probes, rtol=rtol, max_products=max_products)
        self.kind: FisherKind = kind
        self.k = k
        self.given = given_outputs(outputs_fn, loss_of_outputs)
        self.probes = probes
        self.rtol = rtol
        self.max_products = max_products

    def read(self, at: Landscape) -> Reading:
        """Read F; nan with a note where a value is not available.

        Raises:
            CurvwatchError: the loss is no likelihood of outputs that are clear, or `k` is more than
                there are weights; the message says what helps.
        """
        values = dict.fromkeys(self.metrics, math.nan)
        if self.k > at.objective.layout.total:
            raise CurvwatchError(
                f"Fisher(k={self.k}), but there are {at.objective.layout.total} weights"
            )
        point = at.objective.linearize()
        if (note := finite_or_note(point)) is not None:
            return Reading(values, (note,))
        H, graphs = hessian(point), OutputGraphs(at.objective, self.given, known=True)

        def matrix() -> FunctionOperator:
            seed = int(torch.randint(_SEEDS, (), generator=at.generator))
            return fisher(at.objective, graphs, self.kind, seed=seed)

        products = self._products(at, H, matrix)
        if not np.isfinite(products).all():
            return Reading(values, ("products with the Hessian or with F are not finite",))
        notes = []
        values["fisher/trace"], values["fisher/trace_stderr"] = mean_and_error(products[:, 0])
        values["fisher/cosine"], values["fisher/cosine_stderr"] = cosine(*products[:, 1:].T)
        if math.isnan(values["fisher/cosine"]):
            notes.append("the Hessian or F is zero, or too few targets were drawn to estimate its size")
        F = matrix()
        of_F, of_H = (
            leading_pairs(at, A, key, k=self.k, rtol=self.rtol, max_products=self.max_products)
            for A, key in ((F, "fisher"), (H, "hessian"))
        )
        values["fisher/lambda_max"] = float(of_F.values[0])
        values["fisher/lambda_max_residual"] = relative_residual(of_F)
        rows = [at.objective.layout.inner(of_F.vectors[: self.k], v) for v in of_H.vectors[: self.k]]
        values["fisher/overlap"] = min(1.0, float(torch.stack(rows).square().sum()) / self.k)
        doubts = {
            "fisher/lambda_max": solver_doubt("fisher/lambda_max", of_F, "Fisher"),
            "fisher/overlap": solver_doubt("fisher/overlap", of_F, "Fisher")
            or solver_doubt("the Hessian's eigenvalue, for fisher/overlap,", of_H, "Fisher"),
        }
        doubtful = {name: why for name, why in doubts.items() if why}
        return Reading(values, tuple(notes), tuple(doubtful), tuple(doubtful.values()))

    def _products(
        self, at: Landscape, H: FunctionOperator, matrix: Callable[[], FunctionOperator]
    ) -> np.ndarray:
        """Of each random vector z: z'Fz, <Hz, Fz>, |Hz|^2, and |Fz|^2 of the mean F: (probes, 4)."""
        dot = at.objective.layout.dot
        products = np.empty((self.probes, 4))
        for row in products:
            z = random_signs(H, at.generator)
            # H first: it finds out whether batches can be taken in parts
            Hz, Fz = H.matvec(z), matrix().matvec(z)
            # of targets that are drawn once the square would hold their variance, too
            again = matrix().matvec(z) if self.kind == "mc" else Fz
            mean = (Fz + again) / 2
            row[:] = dot(z, mean), dot(Hz, mean), dot(Hz, Hz), dot(Fz, again)
        return products


def cosine(between: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Mean `between` / root(mean `first` x mean `second`), each (n,), and its standard error.

    To first order in the deviations of the three; nan where `first` or `second` is zero or less.
    """
    a, b = first.mean(), second.mean()
    if a <= 0 or b <= 0:
        return math.nan, math.nan
    value = float(between.mean() / math.sqrt(a * b))
    off = between / math.sqrt(a * b) - value * (first / a + second / b) / 2
    return value, mean_and_error(off)[1]
