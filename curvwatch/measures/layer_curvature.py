"""The curvature of each layer alone: sharpness, trace and spectral density of the diagonal blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from curvwatch.charts.histogram import Histogram
from curvwatch.checks import check_int
from curvwatch.measures.base import Landscape, LandscapeMeasure, Reading
from curvwatch.measures.layer_density import densities, heterogeneity, jackknife_stderr
from curvwatch.measures.matrices import (
    PRODUCTS_NOT_FINITE,
    Tracking,
    check_options,
    difference_doubt,
    finite_or_note,
    leading_pairs,
    relative,
    solver_doubt,
)
from curvwatch.objective.layers import By, check_by, layers_of, parameter_names
from curvwatch.objective.linearization import Linearization
from curvwatch.operators import Block, FunctionOperator, hessian, random_signs
from curvwatch.solvers import Eigenpairs, stochastic_lanczos

_OF_LAYER = ("sharpness", "trace", "trace_stderr", "share", "share_stderr")
# the last vectors are the unit vectors of all layers in one
_TRACKING = Tracking(normalized=False, products=3, cold_products=6)
# times the rounding of a product: what is left of a block that is zero
_ROUNDED = 64.0
# a trace that is nearer to zero, in standard errors, is nothing to have a share in
_CLEAR = 4.0


class LayerCurvature(LandscapeMeasure):
    """The diagonal blocks of the Hessian H of the loss, one for each layer.

    H_l is H with the rows and columns of the weights of layer l alone: what the loss does while the
    other layers stay where they are.

    | metric | value |
    |---|---|
    | `curvature/layer/<name>/sharpness` | largest (algebraic) eigenvalue of H_l |
    | `curvature/layer/<name>/trace`, `.../trace_stderr` | trace of H_l, and its standard error |
    | `curvature/layer/<name>/share`, `.../share_stderr` | trace of H_l / trace of all layers; below 0 \
or over 1 where some traces are negative; missing where that of all may be zero |
    | `curvature/layer_heterogeneity`, `..._stderr` | mean over all pairs of layers of the \
Jensen-Shannon distance of their normalised spectral densities, and its standard error; 0: of one \
shape, 1: apart |
    | `curvature/layer_residual` | abs(H_l v - value v) / abs(value), the largest of the layers' |

    Price: one gradient; `probes` Hessian-vector products for the traces of all layers together; for
    each layer some 4 products, in the first reading 6 to 10, for its sharpness, and `density_probes` x
    `density_steps`, 32 by default, for its density. `density_probes=0` leaves densities out.

    The distance is the square root of the Jensen-Shannon divergence in base 2. It is one of shapes:
    the eigenvalues of each layer are divided by the largest of their sizes, so that a layer with the
    same spectrum times ten is alike; how layers differ in scale is shown by their sharpness. Densities
    have mass 1 each, on 256 bins that all layers share, and each eigenvalue is spread by a Gaussian
    whose standard deviation is 1 % of the range of all. Layers that the loss does not depend on are
    left out. With few random vectors the distance comes out too large: noise sets layers apart, and
    the standard error does not see that. The densities themselves are of eigenvalues as they are.

    Args:
        by: "module": the weights of one submodule are a layer; "parameter": each is its own; or a
            function from a parameter's name to the name of its layer, None to leave it out.
        probes: random vectors for the traces; at least 2, for the standard error.
        density_probes: random vectors for the density of each layer; 0: no densities; otherwise at
            least 2, for a standard error.
        density_steps: products for each of these vectors.
        rtol: relative residual at which the solver of each sharpness stops.
        max_products: the most products of one solve.
        every_n_steps: cadence of this measure alone; None: the monitor's.

    Sources: Hutchinson 1990, with random signs; one product serves all layers, as z_l'(H z)_l has
    the mean tr H_l. Sankar et al. 2021, "A deeper look at the Hessian eigenspectrum of deep neural
    networks and its applications to regularization" (layers have spectra of their own). Zhang et al.
    2024, "Why transformers need Adam: a Hessian perspective" (the distance; there with eigenvalues
    spread by a fixed width).
    """

    name: str = "layer_curvature"
    expensive: ClassVar[bool] = True
    metrics: tuple[str, ...] = (
        "curvature/layer_residual",
        "curvature/layer_heterogeneity",
        "curvature/layer_heterogeneity_stderr",
    )

    def __init__(
        self,
        *,
        by: By = "module",
        probes: int = 8,
        density_probes: int = 2,
        density_steps: int = 16,
        rtol: float = 0.01,
        max_products: int = 50,
        every_n_steps: int | None = None,
    ) -> None:
        super().__init__(every_n_steps=every_n_steps)
        check_by(by)
        check_options(probes=probes, rtol=rtol, max_products=max_products)
        if density_probes != 0 or isinstance(density_probes, bool):
            needed = "0, or at least 2 random vectors for a standard error,"
            check_int("density_probes", density_probes, at_least=2, what=needed)
        check_int("density_steps", density_steps, at_least=2, what="at least 2 products")
        self.by = by
        self.probes = probes
        self.density_probes = density_probes
        self.density_steps = density_steps
        self.rtol = rtol
        if not density_probes:
            self.metrics = type(self).metrics[:1]
        self.max_products = max_products

    def metrics_of(self, module: nn.Module, params: Sequence[Tensor]) -> tuple[str, ...]:
        """Those of each layer, and those of all."""
        return self._metrics(layers_of(parameter_names(module, params), self.by))

    def read(self, at: Landscape) -> Reading:
        """Read each layer; nan with a note where products are not finite."""
        layers = layers_of(at.objective.names, self.by)
        values = dict.fromkeys(self._metrics(layers), math.nan)
        point = at.objective.linearize()
        if (note := finite_or_note(point)) is not None:
            return Reading(values, (note,))
        if not layers:
            return Reading(values, ("`by` leaves every parameter out",))
        H = hessian(point)
        blocks = {name: Block(H, at.objective.layout, indices) for name, indices in layers.items()}
        rounding = _ROUNDED * torch.finfo(H.dtype).eps * self._traces(at, H, blocks, values)
        doubtful, doubts, worst = [], [], 0.0
        last = at.memory.get("vectors")
        if last is not None:
            last = last.to(H.device, H.dtype) if last.shape == (H.length,) else None
        vectors = torch.zeros(H.length, dtype=H.dtype, device=H.device)
        for name, block in blocks.items():
            own = {} if last is None else {"vector": block.cut(last)}
            pairs = leading_pairs(
                replace(at, memory=own),
                block,
                "vector",
                rtol=self.rtol,
                max_products=self.max_products,
                tracking=_TRACKING,
            )
            value, residual = float(pairs.values[0]), float(pairs.residuals[0])
            values[f"curvature/layer/{name}/sharpness"] = value
            if not math.isfinite(value):
                continue
            block.put(pairs.vectors[0], vectors)
            if abs(value) + residual <= rounding:
                continue  # a layer that the loss does not depend on, such as a bias before BatchNorm
            worst = max(worst, residual / abs(value) if value else math.inf)
            metric = f"curvature/layer/{name}/sharpness"
            doubt = solver_doubt(metric, pairs, "LayerCurvature")
            doubt = doubt or difference_doubt(metric, _error_of_differences(point, block, pairs))
            if doubt:
                doubtful.append(metric)
                doubts.append(doubt)
        if not all(math.isfinite(values[f"curvature/layer/{name}/sharpness"]) for name in blocks):
            return Reading(values, (PRODUCTS_NOT_FINITE,))
        at.memory["vectors"] = vectors
        values["curvature/layer_residual"] = worst
        histograms = self._densities(at, blocks, values, rounding)
        notes = []
        if any(math.isnan(values[f"curvature/layer/{name}/share"]) for name in blocks):
            notes.append(
                f"the trace of all layers is within {_CLEAR:g} standard errors of zero, so no layer "
                "has a share in it; more of LayerCurvature(probes=...) may separate them"
            )
        if self.density_probes and not histograms:
            notes.append("products with a random vector are not finite, so no layer has a density")
        elif self.density_probes and math.isnan(values["curvature/layer_heterogeneity"]):
            notes.append("fewer than two layers have curvature, so there are none to compare")
        return Reading(
            values,
            tuple(notes),
            doubtful=tuple(doubtful),
            doubts=tuple(doubts),
            histograms=histograms,
        )

    def _metrics(self, layers: dict[str, list[int]]) -> tuple[str, ...]:
        of_each = tuple(f"curvature/layer/{name}/{what}" for name in layers for what in _OF_LAYER)
        return of_each + self.metrics

    def _traces(
        self, at: Landscape, H: FunctionOperator, blocks: dict[str, Block], values: dict[str, float]
    ) -> float:
        """Fill in traces and shares of all layers from the same products; the size of H."""
        products, norm = np.empty((self.probes, len(blocks))), 0.0
        for row in products:
            z = random_signs(H, at.generator)
            Hz = H.matvec(z)
            norm = max(norm, math.sqrt(at.objective.layout.dot(Hz, Hz)))
            row[:] = [b.layout.dot(b.cut(z), b.cut(Hz)) for b in blocks.values()]
        root = math.sqrt(self.probes)
        traces, total = products.mean(axis=0), products.sum(axis=1)
        errors = products.std(axis=0, ddof=1) / root
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = traces / total.mean()
            # of a quotient of two means over the same vectors, to first order
            off = (products - shares * total[:, None]).std(axis=0, ddof=1) / root
            of_shares = off / abs(total.mean())
        if abs(total.mean()) < _CLEAR * total.std(ddof=1) / root:  # a quotient by noise
            shares, of_shares = np.full_like(shares, np.nan), np.full_like(shares, np.nan)
        for name, *each in zip(blocks, traces, errors, shares, of_shares, strict=True):
            pairs = zip(_OF_LAYER[1:], map(float, each), strict=True)
            values.update({f"curvature/layer/{name}/{what}": value for what, value in pairs})
        return norm

    def _densities(
        self, at: Landscape, blocks: dict[str, Block], values: dict[str, float], rounding: float
    ) -> dict[str, Histogram]:
        """Fill in how unlike the layers' densities are; the densities by metric name."""
        if not self.density_probes:
            return {}

        of_each = {
            f"curvature/layer/{name}/density": stochastic_lanczos(
                block, self.density_probes, self.density_steps, generator=at.generator
            )
            for name, block in blocks.items()
        }
        if not all(rule.finite for rule in of_each.values()):
            return {}
        values["curvature/layer_heterogeneity"] = heterogeneity(of_each, floor=rounding)
        values["curvature/layer_heterogeneity_stderr"] = jackknife_stderr(of_each, floor=rounding)
        return densities(of_each)


def _error_of_differences(point: Linearization, block: Block, pairs: Eigenpairs) -> float:
    """By how much the leading value differs at twice the distance; 0 where products are exact."""
    if point.coarser is None:
        return 0.0
    v, value = pairs.vectors[0], float(pairs.values[0])
    coarser = float(block.inner(v[None], block.cut(point.coarser(block.padded(v))))[0])
    return relative(abs(coarser - value), value)
