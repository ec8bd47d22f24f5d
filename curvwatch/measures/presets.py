"""Sets of measures that a person picks by name and price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from curvwatch.checks import check_choice
from curvwatch.measures import MEASURES, Measure


@dataclass(frozen=True)
class Preset:
    """Measures under one name.

    Prices are in training steps, as whose time a gradient of one batch is counted, once a run is some
    readings old; the first ones cost up to three times as much.

    Attributes:
        what: for whom it is.
        measures: by name, with the options of their classes.
        budget: share of the time of a run.
        probe_batches: how many batches the landscape is read on.
        landscape: price of a reading of the landscape, without the expensive measures.
        step: that of a reading of a step.
        expensive: that of the expensive measures, whose cadence is their own.
        expensive_of: what this price is of, in words.
    """

    what: str
    measures: Mapping[str, Mapping[str, Any]]
    budget: float
    landscape: int
    step: int
    expensive: int = 0
    probe_batches: int = 1
    expensive_of: str = ""

    @property
    def price(self) -> str:
        """In words."""
        expensive = ""
        if self.expensive:
            expensive = f", one of the expensive measures about {self.expensive}{self.expensive_of}"
        return (
            f"{self.budget:.0%} of the time of a run. A reading of the landscape takes as long as "
            f"about {self.landscape} training steps{expensive}, one of a step about {self.step}."
        )

    def make(self) -> list[Measure]:
        """New instances of its measures."""
        return [MEASURES[name](**options) for name, options in self.measures.items()]


# of the classes' own defaults k="classes" is for networks with a few classes alone
_ANY_NETWORK: Mapping[str, Mapping[str, Any]] = {"gradient_subspace": {"k": 5}}

PRESETS: dict[str, Preset] = {
    "watch": Preset(
        what="for every run: how near the edge of stability it is, and what its steps do",
        measures={"sharpness": {}, "step_geometry": {}},
        budget=0.05,
        landscape=15,
        step=4,
    ),
    "study": Preset(
        what="for the study of a run: also where curvature, gradient and step lie",
        measures={
            "sharpness": {},
            "step_geometry": {},
            "gradient_stats": {},
            "activation_sparsity": {},
            "critical_sharpness": {},
            # of one batch both kinds are the same
            "batch_sharpness": {"interaction": False},
            "top_eigenvalues": {},
            "gradient_subspace": {"k": 5},
        },
        budget=0.2,
        landscape=25,
        expensive=90,
        step=4,
    ),
    "everything": Preset(
        what="all measures, on as many batches as each needs to estimate its error",
        measures={name: _ANY_NETWORK.get(name, {}) for name in MEASURES},
        budget=0.5,
        probe_batches=3,
        landscape=200,
        expensive=3500,
        expensive_of=" for five layers and 450 for each further one",
        step=4,
    ),
}


def preset_options(
    which: str, *, measures: Any, budget: float | None, probe_batches: int | None
) -> dict[str, Any]:
    """Arguments of a monitor: those of the preset `which` where they are None.

    Raises:
        ValueError: there is no such preset.
    """
    check_choice("preset", which, PRESETS)
    preset = PRESETS[which]
    return {
        "measures": preset.make() if measures is None else measures,
        "budget": preset.budget if budget is None else budget,
        "probe_batches": preset.probe_batches if probe_batches is None else probe_batches,
    }
