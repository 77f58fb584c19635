import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from baselines.data.scenes import Scenes
from baselines.data.vocabulary import Vocabulary
from baselines.metrics.images import ImageBatch
from baselines.metrics.pairs import read_pairs
from baselines.metrics.pointing import PointingMetric, point, point_in
from baselines.metrics.spec import EvaluationContext, ImageSet

LEFT, RIGHT = (0.0, 0.25, 0.25, 0.75), (0.5, 0.0, 1.0, 1.0)


def maps(*cells, size=4):
    """A map with one maximum for every (row, column)."""
    layout = torch.zeros(len(cells), size, size)
    for word, (row, column) in enumerate(cells):
        layout[word, row, column] = 1.0
    return layout


def test_a_maximum_in_the_right_box_is_a_hit_and_in_another_box_is_not():
    layout = maps((1, 0), (0, 3), (0, 0), (1, 0))
    found = point(layout, [0, 1, 0, 1], [LEFT, RIGHT])
    assert (found.words, found.inside, found.objects) == (4, 2.0, 2)
    # The third points at nothing; the fourth at the wrong object.
    assert (found.bound, found.any_) == (2.0, 3.0)


def test_words_without_an_object_and_beyond_the_layout_are_left_out():
    assert point(maps((1, 0)), [-1], [LEFT]).words == 0
    assert point(maps((1, 0)), [0, 0, 0], [LEFT]).words == 1


def test_one_object_says_nothing_of_binding():
    found = point(maps((1, 0)), [0], [LEFT])
    assert (found.inside, found.bound, found.any_) == (1.0, 0.0, 0.0)


def test_a_map_that_says_nothing_gets_the_share_of_its_cells_inside():
    flat = torch.full((1, 8, 8), 0.3)
    assert point(flat, [0], [(0.0, 0.0, 0.5, 0.5)]).inside == pytest.approx(0.25)
    assert point(flat * math.nan, [0], [(0.0, 0.0, 1.0, 1.0)]).inside == 0.0


@given(
    seed=st.integers(0, 2**31), height=st.integers(1, 12), width=st.integers(1, 12),
    words=st.integers(1, 5), objects=st.integers(1, 3),
)  # fmt: skip
def test_equals_looking_cell_by_cell(seed, height, width, words, objects):
    g = torch.Generator().manual_seed(seed)
    layout = torch.randint(0, 4, (words, height, width), generator=g).float()
    corners = torch.rand(objects, 2, 2, generator=g, dtype=torch.float64).sort(dim=1).values
    boxes = [tuple(box.flatten().tolist()) for box in corners]
    named = torch.randint(-1, objects, (words,), generator=g).tolist()
    inside = 0.0
    for t, index in enumerate(named):
        if index < 0:
            continue
        left, top, right, bottom = boxes[index]
        best = float(layout[t].max())
        peaks = [(y, x) for y in range(height) for x in range(width) if layout[t, y, x] == best]
        held = [
            left <= (x + 0.5) / width < right and top <= (y + 0.5) / height < bottom
            for y, x in peaks
        ]
        inside += sum(held) / len(held)
    found = point(layout, named, boxes)
    assert found.inside == pytest.approx(inside)
    assert 0 <= found.inside <= found.words == sum(index >= 0 for index in named)
    assert found.bound <= found.any_ + 1e-9


def context_of(images=40, max_objects=1):
    source = Scenes("test", images=images, max_objects=max_objects)
    pairs = read_pairs(source, Vocabulary.build(Scenes.vocabulary_captions()), 18)
    return EvaluationContext(source=source, pairs=pairs, size=32, seed=0)


def play(context, layouts):
    metric = PointingMetric(context, ImageSet("x", len(layouts)))
    rows = torch.arange(len(layouts))
    for part in rows.split(16):
        images = torch.zeros(len(part), 3, 32, 32)
        metric.update(ImageBatch(part, images, layouts={"stage1": layouts[part]}))
    return metric.scores()


def blobs(context, at):
    """Layouts of every word with one peak, at (x, y) of (row, object)."""
    layouts = torch.zeros(40, 18, 32, 32)
    for row in range(40):
        caption, boxes = context.stated(row)
        for t, index in enumerate(caption.word_objects[:18]):
            x, y = at(boxes[index]) if index >= 0 else (0.5, 0.5)
            layouts[row, t, int(y * 32), int(x * 32)] = 1.0
    return layouts


def centre(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def test_a_word_blind_blob_in_the_middle_scores_its_own_line_and_no_more():
    """A ratio of means called such a blob better than chance."""
    context = context_of()
    layouts = torch.zeros(40, 18, 32, 32)
    layouts[:, :, 15:17, 15:17] = 1.0
    found = play(context, layouts)
    score, line = found["pointing/stage1"], found["pointing/blob"]
    assert score.value == pytest.approx(line.value, abs=0.08)
    assert score.chance == pytest.approx(score.value, abs=0.08)


def test_layouts_that_know_their_word_score_one_and_their_control_does_not():
    context = context_of()
    found = play(context, blobs(context, centre))
    assert found["pointing/stage1"].value == 1.0
    assert found["pointing/stage1"].chance < 0.4
    assert math.isnan(found["pointing/stage1/binding"].value)


def test_binding_tells_the_right_object_from_any():
    context = context_of(max_objects=2)
    right = play(context, blobs(context, centre))
    assert right["pointing/stage1/binding"].value == 1.0
    assert right["pointing/stage1/binding"].chance == pytest.approx(0.5)
    first = blobs(context, centre)
    # All words of a picture point where its first object is.
    for row in range(40):
        _, boxes = context.stated(row)
        x, y = centre(boxes[0])
        first[row] = 0
        first[row, :, int(y * 32), int(x * 32)] = 1.0
    any_object = play(context, first)
    assert 0.25 < any_object["pointing/stage1/binding"].value < 0.75


def test_the_blob_line_counts_words_whose_box_holds_the_centre():
    boxes = [(0.4, 0.4, 0.6, 0.6), (0.0, 0.0, 0.2, 0.2)]
    assert point_in(boxes, [0, 0, 1, -1], (0.5, 0.5)) == 2.0
