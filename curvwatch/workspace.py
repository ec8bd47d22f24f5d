"""A W&B workspace that compares runs (the workspace extra)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from curvwatch.measures import COST_METRICS
from curvwatch.sinks.charts import SECTIONS

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

_X = "trainer/global_step"


def wandb_workspace(
    entity: str, project: str, *, name: str = "curvwatch", suffix: str = ""
) -> Workspace:
    """The dashboard of all runs of `project`, in sections Stability, Steps, Cost and Spectrum.

    Nothing is sent until `.save()` is called on it.

    Args:
        entity: user or team.
        project: of W&B; a workspace can be saved once a run is there.
        name: of the saved view.
        suffix: of the metrics, where runs have several optimizers: "-Adam".

    Returns:
        A `wandb_workspaces.workspaces.Workspace`.

    Raises:
        ImportError: wandb-workspaces is missing; `pip install 'curvwatch[workspace]'` has it.

    Example:
        >>> wandb_workspace("me", "digits").save()  # doctest: +SKIP
    """
    try:
        from wandb_workspaces.reports.v2 import interface as reports
        from wandb_workspaces.workspaces import interface as ws
    except ImportError as error:
        raise ImportError(
            "wandb_workspace() is built with wandb-workspaces: pip install 'curvwatch[workspace]'"
        ) from error

    sections = [
        ws.Section(
            name=section,
            panels=[
                reports.LinePlot(
                    title=chart.title,
                    x=_X,
                    # a reading's cost is that of all optimizers
                    y=[m if m in COST_METRICS else m + suffix for m in chart.metrics],
                    log_y=chart.log or None,
                )
                for chart in charts
            ],
            is_open=True,
            panel_settings=ws.SectionPanelSettings(x_axis=_X),
        )
        for section, charts in SECTIONS.items()
    ]
    return ws.Workspace(entity=entity, project=project, name=name, sections=sections)
