"""A W&B workspace that compares runs (the workspace extra)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from curvwatch.charts import SECTIONS, is_shown, names_of
from curvwatch.measures import COST_METRICS, DEFAULT_MEASURES

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

_X = "trainer/global_step"


def wandb_workspace(
    entity: str,
    project: str,
    *,
    name: str = "curvwatch",
    suffix: str = "",
    metrics: Iterable[str] | None = None,
) -> Workspace:
    """The dashboard of all runs of `project`, in the sections of TensorBoard's: Stability, Steps, ...

    Nothing is sent until `.save()` is called on it.

    Args:
        entity: user or team.
        project: of W&B; a workspace can be saved once a run is there.
        name: of the saved view.
        suffix: of the metrics, where runs have several optimizers: "-Adam".
        metrics: the names that runs have, such as `monitor.history`: they say which charts there are,
            and which layers; None: those of the measures by default.

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

    if metrics is None:
        logged = [m + suffix for c in DEFAULT_MEASURES for m in (*c.metrics, *c.sampling_metrics)]
    else:
        logged = [m for m in metrics if m.endswith(suffix)]
    # a reading's cost is that of all optimizers
    logged += [m for m in COST_METRICS if m not in logged]
    sections = [
        ws.Section(
            name=section,
            panels=[
                reports.LinePlot(
                    title=chart.title,
                    x=_X,
                    # a reading's cost is that of all optimizers
                    y=[n for m in chart.metrics for n in names_of(m, logged)],
                    log_y=chart.log or None,
                )
                for chart in charts
                if is_shown(chart, logged)
            ],
            is_open=True,
            panel_settings=ws.SectionPanelSettings(x_axis=_X),
        )
        for section, charts in SECTIONS.items()
        if any(is_shown(chart, logged) for chart in charts)
    ]
    return ws.Workspace(entity=entity, project=project, name=name, sections=sections)
