"""All findings, in the order of the gallery."""

from gallery.finding import Finding
from gallery.findings import outliers, sparsity, subspace, warmup

FINDINGS: tuple[Finding, ...] = (
    outliers.FINDING,
    subspace.FINDING,
    sparsity.FINDING,
    warmup.FINDING,
)
