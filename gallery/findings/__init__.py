"""All findings, in the order of the gallery."""

from gallery.finding import Finding
from gallery.findings import (
    batch_sharpness,
    directional,
    edge,
    gauss_newton,
    minima,
    outliers,
    sparsity,
    subspace,
    warmup,
)

FINDINGS: tuple[Finding, ...] = (
    edge.FINDING,
    batch_sharpness.FINDING,
    directional.FINDING,
    outliers.FINDING,
    gauss_newton.FINDING,
    subspace.FINDING,
    sparsity.FINDING,
    warmup.FINDING,
    minima.FINDING,
)
