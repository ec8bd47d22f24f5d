"""All findings, in the order of the gallery."""

from gallery.finding import Finding
from gallery.findings import minima, outliers, sparsity, subspace

FINDINGS: tuple[Finding, ...] = (
    outliers.FINDING,
    subspace.FINDING,
    sparsity.FINDING,
    minima.FINDING,
)
