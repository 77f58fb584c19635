import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from baselines.data.scene_captions import SceneCaption, StatedObject
from baselines.data.scene_content import Background, Scene, SceneObject
from baselines.data.scene_drawing import draw_scene
from baselines.data.scenes import Scenes
from baselines.data.vocabulary import Vocabulary
from baselines.metrics.graded import (
    TITLES,
    GradedMetric,
    graded_rows,
    graded_scores,
)
from baselines.metrics.images import ImageBatch
from baselines.metrics.layout import layout_accuracy
from baselines.metrics.pairs import read_pairs
from baselines.metrics.spec import EvaluationContext, ImageSet
from tests.baselines.metrics.pictures import blurred, pictures, through_jpeg

GREY = Background("plain", ((0.6, 0.6, 0.6), (0.6, 0.6, 0.6)), (0.0, 0.0, 0.0, 0.0), 0)
RED = SceneObject("red", "circle", "small", (0.25, 0.5), 0.14)
BLUE = SceneObject("blue", "square", "medium", (0.75, 0.5), 0.19)
PAIR = dict.fromkeys(("both", "relation", "arrangement"), 0.0)
STATED = (
    StatedObject(0, "red", "circle", "small", "left"),
    StatedObject(1, "blue", "square", "medium", "right"),
)
CAPTION = SceneCaption("", STATED, ((0, "left of", 1),), ())


def picture(*objects, size=64):
    pixels = draw_scene(Scene(tuple(objects), GREY), size)
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1


def scores(*objects, caption=CAPTION, size=64):
    return graded_scores(graded_rows(picture(*objects, size=size)[None], [caption]))


def test_a_true_picture_holds_in_every_row():
    found = scores(RED, BLUE)
    assert found.pop("overlap") > 0.9
    assert set(found.values()) == {1.0}


@pytest.mark.parametrize(
    ("objects", "changed"),
    [
        # The red one is missing: nothing can be asked of it but that it is not there.
        (
            (BLUE,),
            {"colour": 0.5, "place": 0.5, "relation_given_both": math.nan} | PAIR,
        ),
        # It is elsewhere, and the relation with it.
        (
            (replace(RED, centre=(0.3, 0.15)), BLUE),
            {"place": 0.5, "arrangement": 0.0},
        ),
        (
            (replace(RED, centre=(0.75, 0.15)), replace(BLUE, centre=(0.75, 0.7))),
            {"place": 0.0, "relation": 0.0, "relation_given_both": 0.0, "arrangement": 0.0},
        ),
        ((replace(RED, shape="star"), BLUE), {"shape": 0.5}),
        ((replace(RED, radius=0.19), BLUE), {"size": 0.5}),
        # One object more than is stated.
        (
            (RED, BLUE, SceneObject("green", "heart", "small", (0.5, 0.85), 0.13)),
            {"precision": 2 / 3},
        ),
        # Colours and shapes changed over: both colours are there, each the other's shape.
        (
            (replace(RED, colour="blue"), replace(BLUE, colour="red")),
            dict.fromkeys(
                ("shape", "size", "place", "relation", "relation_given_both", "arrangement"), 0.0
            ),
        ),
    ],
)  # fmt: skip
def test_every_false_statement_costs_its_row_and_no_other(objects, changed):
    found = scores(*objects)
    overlap = found.pop("overlap")
    assert overlap > 0.9 or "shape" in changed
    expected = dict.fromkeys(found, 1.0) | changed
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, nan_ok=True), name


def test_two_objects_of_one_colour_are_told_apart_by_their_shape():
    twins = (RED, replace(BLUE, colour="red"))
    stated = (STATED[0], replace(STATED[1], colour="red"))
    found = scores(*twins, caption=replace(CAPTION, objects=stated))
    assert found["arrangement"] == found["shape"] == 1.0
    # A caption that speaks of one of them means the one of its shape, not the larger.
    alone = scores(*twins, caption=SceneCaption("", stated[:1], (), ()))
    assert alone["place"] == alone["shape"] == 1.0
    # Two are stated and one is there.
    lone = scores(RED, caption=replace(CAPTION, objects=stated))
    assert (lone["colour"], lone["relation"]) == (0.5, 0.0)


@pytest.mark.parametrize("max_objects", [1, 3])
@pytest.mark.parametrize("size", [32, 64])
def test_true_pictures_score_one(max_objects, size):
    _, images, captions = pictures(200, size, max_objects=max_objects)
    found = graded_scores(graded_rows(images, captions))
    assert min(found[name] for name in ("colour", "place", "shape", "size")) >= 0.985
    assert found["overlap"] >= 0.95
    if max_objects == 3:
        assert found["relation_given_both"] >= 0.99 and found["both"] == 1.0


@pytest.mark.parametrize("spoil", [blurred, through_jpeg])
@pytest.mark.parametrize("max_objects", [1, 3])
def test_it_stands_what_strict_finding_does_not(spoil, max_objects):
    _, images, captions = pictures(200, 32, max_objects=max_objects)
    spoilt = spoil(images)
    found = graded_scores(graded_rows(spoilt, captions))
    assert layout_accuracy(spoilt, captions).overall < 0.7
    assert min(found["colour"], found["place"], found["arrangement"]) >= 0.97
    assert found["shape"] >= 0.75 and found["size"] >= 0.9


def test_noise_and_plain_colours_score_low():
    _, images, captions = pictures(60, 32)
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for bad in (noise, torch.zeros_like(images), images * math.nan):
        found = graded_scores(graded_rows(bad, captions))
        assert found["colour"] <= 0.1 and found["arrangement"] == 0.0


def test_mirrored_pictures_keep_colours_and_turn_relations_over():
    scenes, images, _ = pictures(150, 64)
    held = [
        (i, caption)
        for i in range(150)
        for caption in scenes.described(i)[:3]
        if caption.relations and caption.relations[0][1] in ("left of", "right of")
    ]
    rows = graded_rows(images.flip(3)[[i for i, _ in held]], [caption for _, caption in held])
    sideways = [
        row for row, (_, caption) in zip(rows, held, strict=True) if len(caption.relations) == 1
    ]
    found = graded_scores(sideways)
    assert found["colour"] == 1.0 and found["relation"] <= 0.02


def context_of(count=40, max_objects=2):
    source = Scenes("test", images=count, max_objects=max_objects)
    pairs = read_pairs(source, Vocabulary.build(Scenes.vocabulary_captions()), 18)
    return source, EvaluationContext(source=source, pairs=pairs, size=32, seed=0)


def measure(context, images, samples=1):
    metric = GradedMetric(context, ImageSet("x", len(images[0]), samples))
    for sample, batch in enumerate(images):
        for rows in torch.arange(len(batch)).split(16):
            metric.update(ImageBatch(rows, batch[rows], sample))
    return metric.scores()


def test_every_row_has_its_control_and_its_parts():
    source, context = context_of()
    images = torch.stack([source.image(index, 32) for index in range(40)])
    found = measure(context, [images])
    assert set(found) == {f"graded/{name}" for name in TITLES}
    place = found["graded/place"]
    assert place.value >= 0.98 and place.chance < 0.3
    assert found["graded/colour"].chance < 0.6
    counts = sum(place.by[f"objects={n}"].count for n in (1, 2))
    assert counts == place.count
    relations = found["graded/relation"].by
    assert set(relations) <= {"left of", "right of", "above", "below", "objects=2"}
    assert sum(score.count for name, score in relations.items() if "=" not in name) == (
        found["graded/relation"].count
    )


def test_of_several_samples_it_counts_how_many_hold():
    source, context = context_of(12, 1)
    right = torch.stack([source.image(index, 32) for index in range(12)])
    wrong = torch.zeros_like(right)
    half = torch.cat([right[:6], wrong[6:]])
    found = measure(context, [wrong, right, half, half], samples=4)
    shares = [found[f"graded/arrangement/{k}_of_4"].value for k in (1, 2, 3, 4)]
    assert shares == pytest.approx([1.0, 0.5, 0.5, 0.0])
    # All else is of the first sample.
    assert found["graded/colour"].value == 0.0


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"\(1, 3, 32, 32\) for 2 captions"):
        graded_rows(torch.zeros(1, 3, 32, 32), [CAPTION, CAPTION])
    assert np.isnan(graded_scores([])["place"])
