"""Findings that networks must show, run anew: minutes each, `make test-studies`."""

from __future__ import annotations

import pytest
from rich.progress import Progress

from curvwatch.demo.train import quiet
from gallery.finding import Finding
from gallery.findings import FINDINGS
from gallery.page import read_results

# the others' claims are about comparisons that a page may find to fail
MUST = ("outliers", "subspace", "sparsity")


@pytest.mark.study
@pytest.mark.timeout(600)
@pytest.mark.parametrize("finding", [f for f in FINDINGS if f.name in MUST], ids=lambda f: f.name)
def test_a_finding_is_found_again(finding: Finding) -> None:
    with quiet(), Progress(disable=True) as progress:
        results = finding.run(progress)
    assert [check for check in finding.checks(results) if not check.holds] == []
    assert set(results) == set(read_results(finding))
