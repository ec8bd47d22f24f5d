"""Findings that networks must show, run anew: minutes each, `make test-studies`."""

from __future__ import annotations

import pytest
from rich.progress import Progress

from curvwatch.cli.demo.train import quiet
from gallery.finding import Finding
from gallery.findings import FINDINGS
from gallery.page import read_results

# the others, edge, batch_sharpness, layers, batch_size and warmup, take minutes each
AGAIN = (
    *("outliers", "subspace", "sparsity", "gauss_newton", "directional"),
    *("minima", "critical"),
)


@pytest.mark.study
@pytest.mark.timeout(600)
@pytest.mark.parametrize("finding", [f for f in FINDINGS if f.name in AGAIN], ids=lambda f: f.name)
def test_a_finding_is_found_again(finding: Finding) -> None:
    """And what does not show does not show again: the words of the page stay true."""
    with quiet(), Progress(disable=True) as progress:
        results = finding.run(progress)
    assert [check for check in finding.checks(results) if check.holds != check.expected] == []
    assert set(results) == set(read_results(finding)[0])
