import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from baselines.data.scenes import Scenes
from baselines.metrics.relations import CHANCE, OPPOSITE, RULES, dominant_axis, geneval, visor

SIDES = st.floats(0, 1, allow_nan=False, width=32)


@st.composite
def boxes(draw):
    x, y, w, h = (draw(SIDES) for _ in range(4))
    return x, y, x + w + 0.01, y + h + 0.01


def geneval_by_numpy(first, second):
    """As the protocol is written: offset, shrunk, over its raw length."""
    a, b = np.array(first).reshape(2, 2), np.array(second).reshape(2, 2)
    offset = a.mean(0) - b.mean(0)
    sizes = np.ptp(a, axis=0) + np.ptp(b, axis=0)
    shrunk = np.maximum(np.abs(offset) - 0.1 * sizes, 0) * np.sign(offset)
    if np.linalg.norm(offset) == 0:
        return set()
    dx, dy = shrunk / np.linalg.norm(offset)
    found = set()
    if dx < -0.5:
        found.add("left of")
    if dx > 0.5:
        found.add("right of")
    if dy < -0.5:
        found.add("above")
    if dy > 0.5:
        found.add("below")
    return found


@given(first=boxes(), second=boxes())
def test_geneval_is_its_protocol(first, second):
    assert set(geneval(first, second)) == geneval_by_numpy(first, second)


@given(first=boxes(), second=boxes(), scale=st.sampled_from([0.01, 1.0, 512.0]))
def test_rules_know_neither_unit_nor_order(first, second, scale):
    scaled = [tuple(scale * c for c in box) for box in (first, second)]
    for name, rule in RULES.items():
        assert rule(*scaled) == rule(first, second) or name != "geneval"
        turned = {OPPOSITE[relation] for relation in rule(second, first)}
        if name != "dominant_axis" or abs(sum(first) - sum(second)) > 1e-3:
            assert turned == set(rule(first, second)) or name == "dominant_axis"


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        # (dx, dy) of boxes of side 0.2: geneval, visor, dominant axis.
        ((-0.5, 0.0), ({"left of"}, {"left of"}, {"left of"})),
        ((0.5, 0.1), ({"right of"}, {"right of", "below"}, {"right of"})),
        ((-0.4, -0.4), ({"left of", "above"}, {"left of", "above"}, {"left of"})),
        ((0.05, 0.3), ({"below"}, {"right of", "below"}, {"below"})),
        ((0.03, 0.0), (set(), {"right of"}, {"right of"})),
    ],
)
def test_known_answers(offset, expected):
    second = (0.4, 0.4, 0.6, 0.6)
    first = tuple(c + offset[n % 2] for n, c in enumerate(second))
    assert tuple(set(rule(first, second)) for rule in RULES.values()) == expected


def test_boxes_at_one_place_have_no_relation_but_the_dominant_axis_always_answers():
    box = (0.1, 0.1, 0.3, 0.3)
    assert geneval(box, box) == visor(box, box) == frozenset()
    assert len(dominant_axis(box, box)) == 1


def test_scenes_state_relations_that_all_rules_confirm():
    scenes = Scenes("test", images=150)
    stated = confirmed = 0
    for index in range(150):
        scene = scenes.scene(index)
        for i, relation, j in scene.relations:
            first, second = scene.boxes[i], scene.boxes[j]
            assert relation in dominant_axis(first, second)
            assert relation in visor(first, second)
            stated, confirmed = stated + 1, confirmed + (relation in geneval(first, second))
    assert stated > 200 and confirmed / stated > 0.95


@pytest.mark.parametrize("name", sorted(CHANCE))
def test_chance_is_what_unrelated_boxes_satisfy(name):
    rng = np.random.default_rng(0)
    corners = rng.random((4000, 2, 2))
    held = ["left of" in RULES[name]((*a, *(a + 0.1)), (*b, *(b + 0.1))) for a, b in corners]
    assert np.mean(held) == pytest.approx(CHANCE[name], abs=4 * math.sqrt(0.25 / 4000))
