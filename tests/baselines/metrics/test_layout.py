"""Layout accuracy and localisation: right on true pictures, chance on others, 0 on bad ones."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torchvision.transforms.functional import gaussian_blur

from baselines.data.scene_captions import SceneCaption, StatedObject
from baselines.data.scene_content import SceneObject
from baselines.data.scene_drawing import RGB
from baselines.data.scenes import Scenes
from baselines.metrics.layout import (
    LayoutScore,
    check_caption,
    layout_accuracy,
    layout_checks,
)
from baselines.metrics.scene_parsing import parse_scene


def pictures(count, size, *, max_objects=3, split="test", seed=4):
    scenes = Scenes(split, seed=seed, max_objects=max_objects, images=count)
    captions = [scenes.described(i)[i % 10] for i in range(count)]
    return scenes, torch.stack([scenes.image(i, size) for i in range(count)]), captions


@pytest.mark.parametrize(
    ("size", "count", "least"),
    [(256, 80, 0.99), (128, 80, 0.99), (64, 300, 0.97), (32, 300, 0.97)],
)
@pytest.mark.parametrize("max_objects", [1, 3])
def test_true_pictures_score_one(size, count, least, max_objects):
    _, images, captions = pictures(count, size, max_objects=max_objects)
    score = layout_accuracy(images, captions)
    assert score.overall >= least and score.pictures == count
    assert min(score.objects, score.sizes, score.places) >= least
    assert math.isnan(score.relations) if max_objects == 1 else score.relations >= least


def test_parsing_recovers_geometry():
    scenes, images, _ = pictures(100, 64)
    for i, image in enumerate(images):
        seen = {(o.colour, o.shape): o for o in parse_scene(image)}
        assert len(seen) == len(scenes.scene(i).objects)
        for item in scenes.scene(i).objects:
            found = seen[item.colour, item.shape]
            assert np.abs(np.subtract(found.centre, item.centre)).max() < 0.01
            assert found.radius == pytest.approx(item.radius, abs=0.01)


@pytest.mark.parametrize("max_objects", [1, 3])
def test_captions_of_other_scenes_score_what_is_by_chance_true(max_objects):
    scenes, images, captions = pictures(300, 64, max_objects=max_objects)
    shuffled = captions[1:] + captions[:1]
    seen = LayoutScore.of(layout_checks(images, shuffled))
    chance = LayoutScore.of(
        check_caption(caption, scenes.scene(i).objects) for i, caption in enumerate(shuffled)
    )
    assert seen.overall == pytest.approx(chance.overall, abs=0.005)
    assert seen.objects == pytest.approx(chance.objects, abs=0.005)
    assert seen.overall < 0.02 and seen.objects < 0.06


def _noise(images, generator):
    return torch.rand(images.shape, generator=generator) * 2 - 1


def _plain(images, generator):
    colours = 2 * torch.tensor(list(RGB.values())) - 1
    return colours[torch.arange(len(images)) % 8][:, :, None, None].expand_as(images)


def _blurred(images, generator):
    size = images.shape[-1]
    return gaussian_blur(images, 2 * (size // 5) + 1, size / 16)


def _half_noise(images, generator):
    return (images + 1.5 * torch.randn(images.shape, generator=generator)).clamp(-1, 1)


def _shuffled_pixels(images, generator):
    flat = images.flatten(2)
    return flat[:, :, torch.randperm(flat.shape[2], generator=generator)].view_as(images)


def _stripes(images, generator):
    colours = 2 * torch.tensor(list(RGB.values())) - 1
    return colours[torch.arange(images.shape[-1]) // 4 % 8].T[:, None, :].expand_as(images)


def _nan(images, generator):
    return torch.full_like(images, math.nan)


@pytest.mark.parametrize(
    "spoil", [_noise, _plain, _blurred, _half_noise, _shuffled_pixels, _stripes, _nan]
)
@pytest.mark.parametrize("size", [64, 128])
def test_bad_pictures_score_nought(spoil, size):
    _, images, captions = pictures(30, size)
    score = layout_accuracy(spoil(images, torch.Generator().manual_seed(0)), captions)
    assert score.overall == 0 and score.objects <= 0.02


def test_mirrored_pictures_keep_objects_and_lose_left_and_right():
    scenes, images, _ = pictures(200, 64)
    captions = [
        next((c for c in scenes.described(i) if len(c.relations) == 1), None) for i in range(200)
    ]
    kept = [i for i, caption in enumerate(captions) if caption is not None]
    checks = layout_checks(images.flip(3)[kept], [captions[i] for i in kept])
    for i, check in zip(kept, checks, strict=True):
        upright = captions[i].relations[0][1] in ("above", "below")
        assert check.objects.right == check.objects.stated
        assert check.relations.right == upright


def _drawn(shape, colour, box, size=128, ground=(150, 150, 150)):
    """A picture by another painter than ours."""
    image = Image.new("RGB", (size, size), ground)
    pen = ImageDraw.Draw(image)
    fill = tuple(round(255 * c) for c in RGB[colour])
    left, top, right, bottom = (c * size for c in box)
    width, height = right - left, bottom - top
    if shape in ("circle", "ring"):
        pen.ellipse((left, top, right, bottom), fill=fill)
        if shape == "ring":
            inset = 0.25 * width
            pen.ellipse((left + inset, top + inset, right - inset, bottom - inset), fill=ground)
    elif shape == "square":
        pen.rectangle((left, top, right, bottom), fill=fill)
    elif shape == "cross":
        pen.rectangle((left + width / 3, top, right - width / 3, bottom), fill=fill)
        pen.rectangle((left, top + height / 3, right, bottom - height / 3), fill=fill)
    else:
        corners = {
            "triangle": ((0.5, 0), (1, 1), (0, 1)),
            "diamond": ((0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)),
            "bar": ((0, 0.4), (1, 0.4), (1, 0.6), (0, 0.6)),
            "wedge": ((0, 0), (1, 0), (0, 0.3)),
        }[shape]
        pen.polygon([(left + x * width, top + y * height) for x, y in corners], fill=fill)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1


@pytest.mark.parametrize(
    ("shape", "box", "size", "place"),
    [
        ("circle", (0.1, 0.1, 0.4, 0.4), "small", "upper left"),
        ("ring", (0.3, 0.55, 0.7, 0.95), "medium", "bottom"),
        ("square", (0.25, 0.25, 0.75, 0.75), "large", "middle"),
        ("cross", (0.6, 0.05, 0.95, 0.4), "medium", "upper right"),
        ("triangle", (0.05, 0.6, 0.45, 0.946), "medium", "lower left"),
        ("diamond", (0.65, 0.35, 0.866, 0.65), "small", "right"),
    ],
)
@pytest.mark.parametrize("colour", ["orange", "blue"])
def test_objects_of_another_painter_are_recognised(shape, box, size, place, colour):
    (seen,) = parse_scene(_drawn(shape, colour, box))
    assert (seen.colour, seen.shape, seen.size, seen.place) == (colour, shape, size, place)
    assert seen.overlap > 0.85


@pytest.mark.parametrize("shape", ["bar", "wedge"])
def test_other_things_are_no_shapes(shape):
    assert parse_scene(_drawn(shape, "red", (0.2, 0.2, 0.7, 0.7))) == ()


def test_a_colour_between_two_is_neither():
    image = _drawn("square", "red", (0.2, 0.2, 0.6, 0.6))
    lime = torch.tensor([0.5, 0.9, 0.1]) * 2 - 1
    brown = torch.tensor([0.45, 0.24, 0.04]) * 2 - 1
    for colour in (lime, brown):
        image[:, 26:77, 26:77] = colour[:, None, None]
        assert parse_scene(image) == ()


RED = StatedObject(0, "red", "circle", "small", "left")
BLUE = StatedObject(2, "blue", "star", None, None)
CAPTION = SceneCaption("", (RED, BLUE), ((0, "left of", 2),), ())


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({}, None),
        ({"colour": "pink"}, "objects"),
        ({"shape": "ring"}, "objects"),
        ({"size": "large"}, "sizes"),
        ({"centre": (0.5, 0.5)}, "places"),
        ({"centre": (0.9, 0.5)}, "relations"),
        ({"centre": (0.3, 0.95)}, "relations"),
    ],
)
def test_every_false_statement_is_found(change, kind):
    red = SceneObject("red", "circle", "small", (0.3, 0.5), 0.14)
    blue = SceneObject("blue", "star", "large", (0.7, 0.5), 0.24)
    check = check_caption(CAPTION, [blue, replace(red, **change)])
    assert check.holds == (kind is None)
    if kind == "objects":
        assert check.objects == (1, 2)
        assert (check.sizes, check.places, check.relations) == ((0, 1), (0, 1), (0, 1))
    elif kind is not None:
        assert check.objects == (2, 2)
        assert getattr(check, kind) == (0, 1)


def test_scores_add_up_over_batches_and_say_nan_for_nothing():
    _, images, captions = pictures(12, 64)
    whole = layout_accuracy(images, captions)
    parts = layout_checks(images[:5], captions[:5]) + layout_checks(images[5:], captions[5:])
    assert repr(LayoutScore.of(parts)) == repr(whole)
    blank = layout_accuracy(torch.zeros(12, 3, 64, 64), captions)
    assert (blank.overall, blank.objects, blank.places) == (0, 0, 0)
    nothing = LayoutScore.of([])
    assert nothing.pictures == 0 and math.isnan(nothing.overall) and math.isnan(nothing.objects)


def test_bad_input_is_named():
    _, images, captions = pictures(2, 64)
    with pytest.raises(ValueError, match="for 1 captions"):
        layout_accuracy(images, captions[:1])
    with pytest.raises(ValueError, match=r"\(64, 64\)"):
        parse_scene(images[0, 0])
    with pytest.raises(ValueError, match="16 pixels wide; shapes need at least 32"):
        parse_scene(torch.zeros(3, 16, 16))
