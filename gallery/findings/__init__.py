"""All findings, in the order of the gallery."""

from gallery.finding import Finding
from gallery.findings import (
    batch_sharpness,
    batch_size,
    critical,
    directional,
    edge,
    gauss_newton,
    layers,
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
    layers.FINDING,
    batch_size.FINDING,
    warmup.FINDING,
    critical.FINDING,
    sparsity.FINDING,
    minima.FINDING,
)
