"""The W&B workspace, as the model that would be sent: no server is asked."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import curvwatch
from curvwatch.charts import SECTIONS, Chart, is_shown
from curvwatch.measures import COST_METRICS, Sharpness, StepGeometry

pytest.importorskip("wandb_workspaces")
# the package is of two versions of pydantic
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1:DeprecationWarning")


HAD = [*Sharpness.metrics, *Sharpness.sampling_metrics, *StepGeometry.metrics, *COST_METRICS]


def charts_of(section: str) -> list[Chart]:
    """The charts of a section that the measures by default have metrics for."""
    return [chart for chart in SECTIONS[section] if is_shown(chart, HAD)]


def sections(**options: Any) -> dict[str, list[dict[str, Any]]]:
    """The panels of each section, as W&B's front end reads them."""
    workspace = curvwatch.wandb_workspace("me", "digits", **options)
    model = workspace._to_model().model_dump(by_alias=True, exclude_none=True, mode="json")
    bank = model["spec"]["section"]["panelBankConfig"]["sections"]
    assert all(section["isOpen"] for section in bank)
    return {section["name"]: section["panels"] for section in bank}


def test_sections_and_panels_are_those_of_the_dashboards() -> None:
    built = sections()
    assert list(built) == ["Stability", "Steps", "Cost", "Spectrum"]
    for name, panels in built.items():
        assert [p["config"]["chartTitle"] for p in panels] == [c.title for c in charts_of(name)]
        assert [p["config"]["metrics"] for p in panels] == [list(c.metrics) for c in charts_of(name)]
        assert {p["viewType"] for p in panels} == {"Run History Line Plot"}
        assert {p["config"]["xAxis"] for p in panels} == {"trainer/global_step"}


def test_axes_are_logarithmic_where_runs_lie_powers_of_ten_apart() -> None:
    panels = [panel["config"] for panels in sections().values() for panel in panels]
    logarithmic = {p["chartTitle"] for p in panels if p.get("yLogScale")}
    assert logarithmic == {c.title for name in SECTIONS for c in charts_of(name) if c.log}
    assert "directional sharpness of the step" in logarithmic
    assert not any(p.get("xLogScale") for p in panels)


def test_metrics_of_one_of_several_optimizers() -> None:
    panels = [p["config"] for panels in sections(suffix="-Adam").values() for p in panels]
    metrics = {metric for panel in panels for metric in panel["metrics"]}
    assert "curvature/sharpness-Adam" in metrics
    # what a reading costs is of all optimizers together
    assert {metric for metric in metrics if not metric.endswith("-Adam")} == set(COST_METRICS)


def test_metrics_of_a_run_say_which_charts_there_are() -> None:
    layers = [f"curvature/layer/net.{i}/sharpness" for i in (0, 2)]
    built = sections(metrics=["curvature/loss", *layers, "fisher/trace-Adam"])
    titles = {name: [p["config"]["chartTitle"] for p in panels] for name, panels in built.items()}
    assert titles == {
        "Stability": ["loss on the probe"],
        "Cost": [chart.title for chart in SECTIONS["Cost"][:3]],
        "Gauss-Newton and Fisher": [
            "traces of Hessian, Gauss-Newton and Fisher",
            "trace of the Fisher matrix with its error",
        ],
        "Layers": ["sharpness of each layer"],
    }
    assert built["Layers"][0]["config"]["metrics"] == layers


def test_the_workspace_is_of_the_project_and_named() -> None:
    workspace = curvwatch.wandb_workspace("me", "digits", name="edges")
    assert (workspace.entity, workspace.project, workspace.name) == ("me", "digits", "edges")
    assert curvwatch.wandb_workspace("me", "digits").name == "curvwatch"


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(ImportError, match=r"pip install 'curvwatch\[workspace\]'"):
        curvwatch.wandb_workspace("me", "digits")


def test_importing_curvwatch_imports_none_of_it() -> None:
    program = "import sys, curvwatch; sys.exit(any(m.startswith('wandb') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
