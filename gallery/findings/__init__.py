"""All findings, in the order of the gallery."""

from gallery.finding import Finding
from gallery.findings import edge, outliers, sparsity, subspace

FINDINGS: tuple[Finding, ...] = (
    edge.FINDING,
    outliers.FINDING,
    subspace.FINDING,
    sparsity.FINDING,
)
