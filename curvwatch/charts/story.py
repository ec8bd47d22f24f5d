"""The charts that summarize a run: those of the story figure, and those that come first."""

from __future__ import annotations

from typing import NamedTuple


class Story(NamedTuple):
    """One panel of the story figure.

    Attributes:
        title: of the panel.
        charts: the titles of those whose lines it has.
        log: whether its axis is logarithmic.
        limits: values outside are cut off: a run that diverges would leave nothing else to see.
    """

    title: str
    charts: tuple[str, ...]
    log: bool = False
    limits: tuple[float, float] | None = None


LOSS = Story("Loss on the probe", ("loss on the probe",), log=True)
SHARPNESS = Story(
    "Sharpness against its edge",
    ("sharpness against 2/lr", "effective sharpness against its edge"),
    log=True,
)
RATIOS = Story(
    "Stability ratio: 1 is the edge",
    ("stability ratio (1 is the edge)", "stability ratio of the step"),
    limits=(-0.5, 4.0),  # healthy values lie between
)
DIRECTIONAL = Story(
    "Directional sharpness of the step", ("directional sharpness of the step",), log=True
)
STORY = (
    LOSS,
    SHARPNESS,
    RATIOS,
    DIRECTIONAL,
    Story("Gradient correlation of the step", ("gradient correlation of the step",)),
    Story(
        "Loss change of the step, and its prediction", ("loss change of the step, and its prediction",)
    ),
)
# in a figure of four
SHORT_STORY = (SHARPNESS, RATIOS, LOSS, DIRECTIONAL)

# what the report and the terminal show before all sections, by title
FIRST = (
    "loss on the probe",
    "stability ratio (1 is the edge)",
    "effective sharpness against its edge",
    "stability ratio of the step",
    "directional sharpness of the step",
    "gradient correlation of the step",
)
