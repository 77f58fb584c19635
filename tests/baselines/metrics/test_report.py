import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines.metrics.record import plain
from baselines.metrics.report import by_part, cell, markdown, ordered, significant, ties
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


def test_parts_have_a_line_each_and_a_table_a_metric():
    def scores(**parts):
        by = {name.replace("_", " "): {"value": value} for name, value in parts.items()}
        return {"trained": {"value": 0.5, "by": by}, "real": {"value": 1.0, "by": by}}

    entry = {
        "metrics": {
            "graded/colour": scores(two=0.25),
            "graded/relation": scores(left_of=0.003, two=0.5),
            "layout": {"trained": {"value": 0.5}},
            "pa": scores(above=1.0),
        },
    }
    entry["rows"] = {row: {"percent": True} for row in entry["metrics"]}
    graded, pa = "\n".join(by_part(entry, "trained")).strip().split("\n\n")
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in graded.split("\n")]
    assert lines[0] == ["graded of trained images, by", "colour %", "relation %"]
    assert lines[2:] == [["two", "25.0", "50.0"], ["left of", "–", "0.300"]]
    assert pa.split("\n")[2].startswith("| above") and by_part(entry, "untrained") == []


def test_what_ties_would_give_by_lot_is_said_where_there_are_any():
    tied = {"value": 0.2, "facts": {"folds": 10, "ties_by_lot": 0.25}}
    untied = {"value": 0.2, "facts": {"ties_by_lot": 0.2}}
    entry = {
        "metrics": {
            "r_precision": {"trained": tied, "real": untied},
            "layout": {"real": {"value": 1}},
        },
        "rows": {"r_precision": {"title": "R", "percent": True}},
    }
    assert ties(entry) == ["R, trained: 25.0 if ties were decided by lot."]


def test_what_is_not_a_number_is_null_and_what_is_not_known_is_left_out():
    score = Score(
        math.nan, interval=(0.0, math.inf), facts={"x": math.nan, "y": 2}, by={"p": Score(1.0)}
    )
    assert plain(score) == {
        "value": None, "interval": [0.0, None], "facts": {"x": None, "y": 2},
        "by": {"p": {"value": 1.0}},
    }  # fmt: skip
