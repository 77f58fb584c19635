import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines.metrics.record import plain
from baselines.metrics.report import cell, markdown, ordered, significant
from baselines.metrics.spec import Score


@given(st.floats(1e-9, 1e9))
def test_no_number_is_shown_as_nought(value):
    shown = significant(value)
    assert float(shown) == pytest.approx(value, rel=6e-3)
    assert float(cell({"value": value, "error": value / 3}, {"percent": False}).split()[0]) > 0


def test_a_value_and_its_error_end_at_the_same_place():
    for percent in (False, True):
        for error in (0.7, 0.034, 0.0021):
            value, shown = cell({"value": 0.5, "error": error}, {"percent": percent}).split(" ± ")
            places = [len(text.partition(".")[2]) for text in (value, shown)]
            assert places[0] == places[1]
    assert cell({"value": None}, {"percent": True}) == cell(None, {"percent": True}) == "–"


def test_every_set_has_its_place():
    assert ordered({"real", "trained", "x", "untrained"}) == ["untrained", "trained", "x", "real"]
    lines = markdown([["a", "b"], ["long", "1"]])
    assert lines == ["| a    | b |", "| ---- | - |", "| long | 1 |"]


def test_what_is_not_a_number_is_null_and_what_is_not_known_is_left_out():
    score = Score(
        math.nan, interval=(0.0, math.inf), facts={"x": math.nan, "y": 2}, by={"p": Score(1.0)}
    )
    assert plain(score) == {
        "value": None, "interval": [0.0, None], "facts": {"x": None, "y": 2},
        "by": {"p": {"value": 1.0}},
    }  # fmt: skip
