"""A measure of a user's own that still calls itself `dear`."""

from __future__ import annotations

import warnings

import pytest

from curvwatch.measures import MEASURES, Landscape, LandscapeMeasure, Reading, Sharpness


class Plain(LandscapeMeasure):
    name = "plain"
    metrics = ("plain/value",)

    def read(self, at: Landscape) -> Reading:
        return Reading({"plain/value": at.objective.loss()})


def test_dear_is_honoured_and_warned_about_once_for_a_class() -> None:
    with pytest.warns(DeprecationWarning, match="Old.dear is deprecated: set `expensive`") as warned:

        class Old(Plain):
            dear = True

    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Old.expensive
        assert Old().expensive

        class Inherits(Old):
            pass

        class Cheap(Old):
            expensive = False

    assert Inherits.expensive
    assert not Cheap.expensive


def test_the_old_name_can_still_be_read() -> None:
    for measure in (*MEASURES.values(), Plain, Sharpness):
        assert measure.dear == measure.expensive


def test_the_new_name_counts_where_both_are_set() -> None:
    with pytest.warns(DeprecationWarning, match="dear"):

        class Both(Plain):
            dear = True
            expensive = False

    assert not Both.expensive
