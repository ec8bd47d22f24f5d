"""Files that `History.save` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from pathlib import Path

from curvwatch.report.logs.log import Log, make_alerts, make_curve, make_density
from curvwatch.report.logs.logged_run import LoggedAlert
from curvwatch.results.history import History


def read_history(files: Sequence[Path]) -> Log:
    """One run; the file has no times.

    Raises:
        CurvwatchError: it is none, is damaged, or a newer curvwatch wrote it.
    """
    (file,) = files
    history = History.load(file)
    curves = {name: make_curve(*history[name]) for name in history}
    alerts = [LoggedAlert(alert.step, alert.rule, alert.text) for alert in history.alerts]
    densities = {
        name: make_density([(int(step), nan, histogram) for step, histogram in zip(*of, strict=True)])
        for name, of in history.densities.items()
    }
    return Log(curves, make_alerts(alerts), densities=densities, doubtful=history.doubtful)
