"""All readings of a run, in memory."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from curvwatch.charts.histogram import Histogram
from curvwatch.errors import CurvwatchError
from curvwatch.results.alerts import Alert
from curvwatch.results.densities import Densities

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HISTORY_SUFFIX = ".curvwatch.json"
# version 1 had no distributions
_VERSION, _READ = 2, (1, 2)


class Series(NamedTuple):
    """One metric over a run."""

    steps: np.ndarray  # (n,) int64, the optimizer step of each value
    values: np.ndarray  # (n,) float64, nan where a value is missing


class Note(NamedTuple):
    """Why values are missing or doubtful."""

    step: int
    text: str


class History:
    """The values of every metric, by name.

    Attributes:
        notes: why values are missing or doubtful, in order.
        alerts: of the run, in order.
        densities: distributions by name, `history.densities["curvature/density"].steps` and
            `.histograms`; of long runs every second one, or fewer.
        doubtful: by metric the steps whose values are doubtful.

    Example:
        >>> history = History()
        >>> history.record(0, {"curvature/sharpness": 2.5})
        >>> history["curvature/sharpness"].values
        array([2.5])
    """

    def __init__(self) -> None:
        self._steps: dict[str, list[int]] = {}
        self._values: dict[str, list[float]] = {}
        self.notes: list[Note] = []
        self.alerts: list[Alert] = []
        self.densities = Densities()
        self.doubtful: dict[str, list[int]] = {}

    def record(
        self, step: int, values: Mapping[str, float], histograms: Mapping[str, Histogram] | None = None
    ) -> None:
        """Append `values` and distributions read at optimizer step `step`."""
        self.densities.record(step, histograms or {})
        for name, value in values.items():
            self._steps.setdefault(name, []).append(step)
            self._values.setdefault(name, []).append(float(value))

    def note(self, step: int, text: str) -> None:
        """Keep a remark about the reading at `step`."""
        self.notes.append(Note(step, text))

    def doubt(self, step: int, names: Iterable[str]) -> None:
        """Mark the values of `names` at `step` as doubtful."""
        for name in names:
            self.doubtful.setdefault(name, []).append(step)

    def __getitem__(self, name: str) -> Series:
        """Steps and values of the metric `name`.

        Raises:
            KeyError: it was never read; the message names those that were.
        """
        if name not in self._steps:
            known = ", ".join(sorted(self._steps)) or "nothing yet"
            raise KeyError(f"no reading of {name!r}; there are readings of {known}")
        return Series(
            np.asarray(self._steps[name], dtype=np.int64),
            np.asarray(self._values[name], dtype=np.float64),
        )

    def __contains__(self, name: object) -> bool:
        return name in self._steps

    def __iter__(self) -> Iterator[str]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)

    def __repr__(self) -> str:
        readings = max((len(s) for s in self._steps.values()), default=0)
        return f"History({len(self)} metrics, {readings} readings)"

    def latest(self, name: str) -> float:
        """The last value of `name`, nan where there is none."""
        return self._values[name][-1] if self._values.get(name) else math.nan

    def to_dict(self) -> dict[str, dict[str, list[Any]]]:
        """`{name: {"steps": [...], "values": [...]}}`, plain Python."""
        return {
            name: {"steps": list(self._steps[name]), "values": list(self._values[name])}
            for name in self
        }

    def plot(self) -> Figure:
        """Sharpness against its edges, stability ratios and step geometry over the run.

        Raises:
            ImportError: matplotlib is missing; `pip install 'curvwatch[report]'` has it.
        """
        from curvwatch.charts.run_figures import plot_history

        return plot_history(self)

    def plot_density(self, name: str = "curvature/density") -> Figure:
        """A heat map of a distribution over the run: steps to the right, eigenvalues upwards.

        Args:
            name: of `densities`.

        Raises:
            KeyError: it was never read; the message names those that were, or how to read one.
            ImportError: matplotlib is missing; `pip install 'curvwatch[report]'` has it.
        """
        from curvwatch.charts.heat_figures import plot_density

        return plot_density(self, name)

    def plot_layers(self, metric: str = "sharpness") -> Figure:
        """A heat map of a metric of each layer: steps to the right, layers downwards.

        Args:
            metric: what of each layer: "sharpness", "share", "trace", "gradient_norm" and others.

        Raises:
            KeyError: no layer has it; the message names what they have, or how to read layers.
            ImportError: matplotlib is missing; `pip install 'curvwatch[report]'` has it.
        """
        from curvwatch.charts.heat_figures import plot_layers

        return plot_layers(self, metric)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write values, distributions, notes and alerts as a file that `curvwatch compare` finds.

        Numbers are kept bit for bit. The file is replaced as a whole, so it can be read at any time.

        Args:
            path: of the file; ".curvwatch.json" is added where it is missing.

        Returns:
            The path of the file.
        """
        path = Path(path)
        if not path.name.endswith(HISTORY_SUFFIX):
            path = path.with_name(path.name.removesuffix(".json") + HISTORY_SUFFIX)
        series = {
            name: {"steps": s["steps"], "values": [_to_json(v) for v in s["values"]]}
            for name, s in self.to_dict().items()
        }
        alerts = [{**vars(alert), "value": _to_json(alert.value)} for alert in self.alerts]
        content = {
            "curvwatch_history": _VERSION,
            "series": series,
            "notes": [list(note) for note in self.notes],
            "alerts": alerts,
            "densities": self.densities.to_dict(),
            "doubtful": self.doubtful,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        unfinished.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")
        unfinished.replace(path)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> History:
        """Read what `save` wrote.

        Raises:
            OSError: there is no such file.
            CurvwatchError: it is no history, is damaged, or a newer curvwatch wrote it.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            version = content["curvwatch_history"]
        except (ValueError, KeyError, TypeError) as error:
            raise CurvwatchError(
                f"{path} is not a history that curvwatch saved, or is truncated"
            ) from error
        if version not in _READ:
            raise CurvwatchError(
                f"{path} has version {version!r}; this curvwatch reads versions "
                f"{', '.join(map(str, _READ))}"
            )
        history = cls()
        try:
            for name, series in content["series"].items():
                history._steps[name] = [int(step) for step in series["steps"]]
                history._values[name] = [_from_json(value) for value in series["values"]]
                if len(history._steps[name]) != len(history._values[name]):
                    raise ValueError(f"{name!r} has unequal numbers of steps and values")
            history.notes = [Note(*note) for note in content["notes"]]
            history.alerts = [
                Alert(**{**alert, "value": _from_json(alert["value"])}) for alert in content["alerts"]
            ]
            if version > 1:
                history.densities = Densities.from_dict(content["densities"])
            history.doubtful = {n: [int(s) for s in steps] for n, steps in _doubtful(content).items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CurvwatchError(f"{path} is damaged: {error}") from error
        return history

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "series": self.to_dict(),
            "notes": [tuple(n) for n in self.notes],
            "densities": self.densities.state_dict(),
            "doubtful": {name: list(steps) for name, steps in self.doubtful.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._steps = {name: list(s["steps"]) for name, s in state["series"].items()}
        self._values = {name: list(s["values"]) for name, s in state["series"].items()}
        self.notes = [Note(*n) for n in state["notes"]]
        self.densities.load_state_dict(state.get("densities", {}))  # older checkpoints have none
        self.doubtful = {name: list(steps) for name, steps in _doubtful(state).items()}


def _doubtful(saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """Doubtful steps in a file or a checkpoint; those of version 0.1 have none."""
    found: Mapping[str, Any] = saved.get("doubtful", {})
    return found


def _to_json(value: float) -> float | str | None:
    """JSON has no nan, which means a missing value here, and no inf."""
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)


def _from_json(value: float | str | None) -> float:
    return math.nan if value is None else float(value)
