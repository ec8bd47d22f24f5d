"""Weights on two processes, sharded (FSDP2) or replicated (DDP): each measure reads as on one process.

Or it says that it cannot.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from curvwatch.measures import MEASURES
from tests.measures.sharded_runs import STEPS, half, net, run
from tests.support.paths import ROOT
from tests.support.studies import without
from tests.support.trace import assert_same

pytestmark = pytest.mark.processes
# how exact a value is, not a value
ERRORS = ("residual", "_stderr", "_error", "_gain")
# values that may be zero; their residuals are in their own units
ABSOLUTE = ("curvature/bulk_edge", "curvature/lambda_min")


# of many products, which sharded weights make by differences, as the other measures do of fewer
OF_MANY_PRODUCTS = ("spectral_density", "stationary_point", "gradient_subspace")
# these need whole weights
REFUSED = {"gauss_newton", "fisher", "batch_sharpness", "gradient_noise"}


def seen_by_both(directory: Path, sharded: Iterable[str], replicated: Iterable[str]) -> list[Any]:
    """What both processes saw of each measure; one start for all of them."""
    program = [sys.executable, "-m", "tests.measures.sharded_runs"]
    command = [*program, str(directory), *sharded, "--", *replicated]
    done = subprocess.run(command, cwd=ROOT, timeout=500, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [torch.load(directory / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    sharded = [name for name in MEASURES if name not in OF_MANY_PRODUCTS]
    return seen_by_both(tmp_path_factory.mktemp("sharded"), sharded, MEASURES)


@pytest.fixture(scope="module")
def seen_of_many_products(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return seen_by_both(tmp_path_factory.mktemp("sharded"), OF_MANY_PRODUCTS, ())


def values_of(history: dict[str, Any], metric: str) -> list[float]:
    return history.get(metric, {"values": [math.nan] * STEPS})["values"]


def close(
    name: str, history: dict[str, Any], twin: dict[str, Any], *, rtol: float, same_draws: bool
) -> None:
    """Within 4 standard errors of both where values are of other random vectors."""
    for metric in twin:
        if metric.endswith(ERRORS) or "/cost_" in metric:
            continue
        error = next((metric + e for e in ("_stderr", "_error") if metric + e in twin), None)
        pairs = zip(values_of(history, metric), twin[metric]["values"], strict=True)
        for i, (ours, theirs) in enumerate(pairs):
            allowed = rtol * abs(theirs) + 1e-9
            if metric in ABSOLUTE:
                allowed += values_of(history, f"{metric}_residual")[i]
            if error is not None and not same_draws:
                allowed += 4 * math.hypot(values_of(history, error)[i], values_of(twin, error)[i])
            both = math.isnan(ours) and math.isnan(theirs)
            assert both or abs(ours - theirs) <= allowed, (name, metric, ours, theirs, allowed)


def same_on_both(seen: Any, kind: str, name: str) -> None:
    first, second = (s[kind][name]["history"] for s in seen)
    for metric in set(first) - {"curvature/cost_seconds", "curvature/cost_share"}:
        assert_same(first[metric], second[metric], metric)


@pytest.mark.parametrize("name", MEASURES)
def test_of_replicated_weights_it_reads_as_on_the_batches_of_both(seen: Any, name: str) -> None:
    """The batch of each process is one of two of the probe."""
    twin = run(name, net(), part=slice(None), probe=[half(0), half(1)])
    for process in (s["replicated"] for s in seen):
        assert not process[name]["told"]
        close(name, process[name]["history"], twin["history"], rtol=1e-6, same_draws=True)
    same_on_both(seen, "replicated", name)


@pytest.mark.parametrize("name", without(MEASURES, leave=OF_MANY_PRODUCTS))
def test_of_sharded_weights_it_reads_as_on_one_process_or_says_that_it_cannot(
    request: pytest.FixtureRequest, name: str
) -> None:
    many = "_of_many_products" * (name in OF_MANY_PRODUCTS)
    seen = request.getfixturevalue(f"seen{many}")
    twin = run(name, net(), part=slice(None))
    assert not [text for text in twin["told"] if "failed" in text]
    for process in (s["sharded"] for s in seen):
        ours, plain = process[name], process["plain"]
        assert_same(ours["weights"], plain["weights"], "weights")
        failed = [text for text in ours["told"] if "failed" in text]
        assert bool(failed) == (name in REFUSED)
        if failed:
            assert len(failed) == 1
            assert f"the reading of {name} failed" in failed[0]
            assert "spread over processes" in failed[0]
            metrics = MEASURES[name]().metrics
            assert all(math.isnan(v) for m in metrics for v in values_of(ours["history"], m))
        else:
            assert any(math.isfinite(v) for m in ours["history"] for v in values_of(ours["history"], m))
            close(name, ours["history"], twin["history"], rtol=1e-5, same_draws=False)
    same_on_both(seen, "sharded", name)


def test_those_that_cannot_are_the_ones_that_need_whole_weights(seen: Any) -> None:
    sharded = seen[0]["sharded"]
    assert {
        name for name in MEASURES if any("failed" in t for t in sharded.get(name, {"told": ()})["told"])
    } == REFUSED
