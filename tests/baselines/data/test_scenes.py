"""Scenes: determinism, geometry, colours, the held-out combinations, the source protocol."""

import copy
import dataclasses
import hashlib
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from baselines.data import scene_content as content
from baselines.data import scenes as scene_source
from baselines.data.scene_drawing import RGB, draw_scene
from baselines.data.scenes import Scenes
from baselines.data.source import Source


def shown(scene):
    """(colour, shape, position) of everything in a scene, told from the boxes alone."""
    centres = [((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in scene.boxes]
    for i, item in enumerate(scene.objects):
        column, row = (0 if c <= 0.41 else 1 if c <= 0.59 else 2 for c in centres[i])
        grid = ("upper left|top|upper right", "left|middle|right", "lower left|bottom|lower right")
        yield item.colour, item.shape, grid[row].split("|")[column]
        for j, other in enumerate(centres):
            if i != j:
                dx, dy = centres[i][0] - other[0], centres[i][1] - other[1]
                if abs(dx) >= abs(dy):
                    relation = "left of" if dx < 0 else "right of"
                else:
                    relation = "above" if dy < 0 else "below"
                yield item.colour, item.shape, relation


def test_is_a_source_with_unique_keys():
    scenes = Scenes("train", images=7)
    assert isinstance(scenes, Source)
    assert (scenes.name, scenes.split, len(scenes)) == ("scenes", "train", 7)
    keys = {
        Scenes(s, seed=k, images=9).key(i)
        for s in ("train", "test")
        for k in (0, 1)
        for i in range(9)
    }
    assert len(keys) == 36


@pytest.mark.parametrize("size", [16, 32, 64, 100])
def test_pictures_lie_on_256_levels(size):
    image = Scenes("train", seed=3).image(5, size)
    assert image.shape == (3, size, size) and image.dtype == torch.float32
    assert image.is_contiguous() and image.min() >= -1 and image.max() <= 1
    levels = (image.double() + 1) * 127.5
    assert (levels - levels.round()).abs().max() < 1e-4


# Frozen: what another platform, numpy or worker count must reproduce to the last bit.
FROZEN = {
    ("train", 3, 0, 32): "2afb96fce136ec10",
    ("train", 3, 1, 64): "3a5236913cedd6f3",
    ("test", 3, 2, 256): "4c93cc7dc4d742fc",
    ("test", 1, 3, 48): "d12caf069c6c50bf",
    ("train", 2, 4, 64): "4f3d1ea37bda061f",
}


@pytest.mark.parametrize(("case", "digest"), FROZEN.items())
def test_items_are_frozen(case, digest):
    split, max_objects, index, size = case
    scenes = Scenes(split, seed=7, max_objects=max_objects)
    pixels = ((scenes.image(index, size) + 1) * 127.5).round().to(torch.uint8).numpy().tobytes()
    text = "\n".join((*scenes.captions(index), str(scenes.class_id(index))))
    assert hashlib.sha256(pixels + text.encode()).hexdigest()[:16] == digest


def test_items_do_not_depend_on_order_length_or_copies():
    scenes, longer = Scenes("train", images=10), Scenes("train", images=99)
    forwards = [(scenes.captions(i), scenes.image(i, 32), scenes.class_id(i)) for i in range(10)]
    for other in (longer, copy.deepcopy(scenes), pickle.loads(pickle.dumps(scenes))):
        for i in reversed(range(10)):
            assert other.class_id(i) == forwards[i][2]
            assert torch.equal(other.image(i, 32), forwards[i][1])
            assert other.captions(i) == forwards[i][0]


class _Pictures(torch.utils.data.Dataset):
    def __init__(self):
        self.scenes = Scenes("train", images=12)

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return self.scenes.image(index, 16), self.scenes.class_id(index)


def test_items_do_not_depend_on_workers():
    alone = list(DataLoader(_Pictures(), batch_size=3))
    shared = list(DataLoader(_Pictures(), batch_size=3, num_workers=2))
    for (images, classes), (images2, classes2) in zip(alone, shared, strict=True):
        assert torch.equal(images, images2) and torch.equal(classes, classes2)


def test_splits_and_seeds_differ():
    first = Scenes("train").image(0, 32)
    assert not torch.equal(first, Scenes("train", seed=1).image(0, 32))
    assert not torch.equal(first, Scenes("test").image(0, 32))
    assert not torch.equal(first, Scenes("train").image(1, 32))


def test_a_generator_changes_nothing_and_is_left_alone():
    scenes, generator = Scenes("train"), torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert torch.equal(scenes.image(4, 32, rng=generator), scenes.image(4, 32))
    assert torch.equal(generator.get_state(), before)


def test_geometry_is_the_same_at_every_size():
    scenes = Scenes("train")
    for i in range(20):
        large = scenes.image(i, 256)
        for size in (32, 64, 128):
            small = torch.nn.functional.adaptive_avg_pool2d(large, size)
            assert (scenes.image(i, size) - small).abs().mean() < 0.012


def test_objects_are_drawn_exactly_in_their_boxes():
    scenes, side = Scenes("train"), 256
    for i in range(40):
        scene = scenes.scene(i)
        empty = dataclasses.replace(scene, objects=())
        for item in scene.objects:
            alone = dataclasses.replace(scene, objects=(item,))
            difference = draw_scene(alone, side).astype(int) - draw_scene(empty, side)
            changed = np.abs(difference).max(axis=2) > 40
            rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
            seen = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            # The tips of stars and diamonds are finer than a pixel.
            assert np.abs(np.array(seen) - np.array(item.box) * side).max() < 3.5
            assert max(item.box[2] - item.box[0], item.box[3] - item.box[1]) == pytest.approx(
                2 * item.radius
            )


@pytest.mark.parametrize("max_objects", [1, 2, 3])
@pytest.mark.parametrize("split", ["train", "test"])
def test_scenes_are_well_posed(split, max_objects):
    scenes = Scenes(split, max_objects=max_objects)
    counts = np.zeros(4)
    for i in range(200):
        scene = scenes.scene(i)
        counts[len(scene.objects)] += 1
        assert len({(o.colour, o.shape) for o in scene.objects}) == len(scene.objects)
        assert len(scene.objects) == 1 or scene.relations
        assert len(scene.objects) > 1 or scene.objects[0].stated_place is not None
        for n, box in enumerate(scene.boxes):
            assert min(box) >= 0.0199 and max(box) <= 0.9801
            for other in scene.boxes[:n]:
                gap = max(
                    box[0] - other[2], other[0] - box[2], box[1] - other[3], other[1] - box[3]
                )
                assert gap >= content.GAP - 1e-9
    assert counts[0] == 0 and (counts[1 : max_objects + 1] > 30).all()


def test_everything_there_is_occurs():
    scenes = [Scenes("train", images=600).scene(i) for i in range(600)]
    objects = [item for scene in scenes for item in scene.objects]
    assert {o.colour for o in objects} == set(content.COLOURS) and len(content.COLOURS) == 8
    assert {o.shape for o in objects} == set(content.SHAPES) and len(content.SHAPES) == 8
    assert {o.size for o in objects} == set(content.SIZES)
    assert {o.place for o in objects} == set(content.PLACES)
    assert {s.background.kind for s in scenes} == set(content.BACKGROUNDS)
    assert {r for s in scenes for _, r, _ in s.relations} == set(content.RELATIONS)
    assert all(content.size_of(o.radius) == o.size for o in objects)


def test_backgrounds_are_muted_and_objects_vivid():
    scenes = Scenes("train")
    assert all(max(rgb) - min(rgb) > 0.5 for rgb in RGB.values())
    for i in range(150):
        pixels = draw_scene(dataclasses.replace(scenes.scene(i), objects=()), 48).astype(int)
        assert (pixels.max(axis=2) - pixels.min(axis=2)).max() < 0.2 * 255


def test_background_kinds_can_be_chosen():
    scenes = Scenes("train", backgrounds=("plain", "gradient"))
    assert {scenes.scene(i).background.kind for i in range(60)} == {"plain", "gradient"}


@pytest.mark.parametrize("max_objects", [1, 3])
def test_training_never_shows_what_is_held_out_and_every_test_scene_does(max_objects):
    held_out = content.held_out()
    for seed in (0, 5):
        train = Scenes("train", seed=seed, max_objects=max_objects)
        test = Scenes("test", seed=seed, max_objects=max_objects)
        for i in range(300):
            assert held_out.isdisjoint(shown(train.scene(i)))
            assert not held_out.isdisjoint(shown(test.scene(i)))


def test_what_is_held_out_leaves_every_object_and_position_to_training():
    everything = 8 * 8 * 13
    assert 0.12 < len(content.held_out()) / everything < 0.18
    kept = {
        (c, s, p)
        for c in content.COLOURS
        for s in content.SHAPES
        for p in content.PLACES + content.RELATIONS
    } - content.held_out()
    for positions in (content.PLACES, content.RELATIONS):
        assert len({(c, s) for c, s, p in kept if p in positions}) == 64
    for position in content.PLACES + content.RELATIONS:
        assert len({c for c, _, p in kept if p == position}) == 8
        assert len({s for _, s, p in kept if p == position}) == 8


def test_class_is_the_content_of_a_scene():
    scenes = Scenes("train")
    scene = next(scenes.scene(i) for i in range(99) if len(scenes.scene(i).objects) == 3)
    turned = dataclasses.replace(scene, objects=scene.objects[::-1])
    first, *rest = scene.objects
    lighter = dataclasses.replace(first, shade=-first.shade, radius=first.radius + 1e-4)
    assert 0 <= scene.class_id < 2**48
    assert turned.class_id == scene.class_id
    assert dataclasses.replace(scene, objects=(lighter, *rest)).class_id == scene.class_id
    other = Scenes("train", backgrounds=("plain",)).scene(0).background
    assert dataclasses.replace(scene, background=other).class_id == scene.class_id
    for change in (
        {"colour": "red" if first.colour != "red" else "blue"},
        {"shape": "ring" if first.shape != "ring" else "star"},
        {"size": "small" if first.size != "small" else "large"},
        {"centre": (1 - first.centre[0], 1 - first.centre[1])},
    ):
        changed = dataclasses.replace(first, **change)
        assert dataclasses.replace(scene, objects=(changed, *rest)).class_id != scene.class_id


def test_single_objects_share_classes_across_scenes():
    scenes = Scenes("train", max_objects=1, images=3000)
    classes = {}
    for i in range(3000):
        (item,) = scenes.scene(i).objects
        classes.setdefault(scenes.class_id(i), set()).add(
            (item.colour, item.shape, item.size, item.place)
        )
    assert all(len(contents) == 1 for contents in classes.values())
    assert len(classes) == len(set.union(*classes.values())) < 3000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "val"}, "split 'val': expected one of train, test"),
        ({"seed": -1}, "seed is -1"),
        ({"images": 0}, "images is 0"),
        ({"max_objects": 4}, "max_objects is 4"),
        ({"max_objects": 0}, "max_objects is 0"),
        ({"backgrounds": ("plain", "sea")}, "sea"),
        ({"backgrounds": ()}, "backgrounds is"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Scenes(**{"split": "train", **arguments})


def test_bad_sizes_and_indices_are_named():
    scenes = Scenes("train", images=4)
    with pytest.raises(ValueError, match="size is 15"):
        scenes.image(0, 15)
    for index in (-1, 4):
        with pytest.raises(IndexError, match=str(index)):
            scenes.scene(index)


def test_what_is_kept_of_a_drawn_scene_is_what_would_be_drawn_and_nobodys_to_change(monkeypatch):
    scenes, fresh = Scenes("train", images=40), Scenes("train", images=40)
    first = scenes.pixels(3, 32)
    expected = first.clone()
    first.zero_()
    drawn = []
    draw = scene_source.draw_scene
    monkeypatch.setattr(scene_source, "draw_scene", lambda *args: drawn.append(args) or draw(*args))
    assert torch.equal(scenes.pixels(3, 32), expected) and not drawn
    assert scenes.captions(3) == fresh.captions(3) == scenes.captions(3)
    assert torch.equal(scenes.pixels(3, 16), fresh.pixels(3, 16)) and len(drawn) == 2


def test_no_more_is_kept_of_scenes_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(scene_source, "KEPT", 5 * 3 * 32**2)
    scenes = Scenes("train", images=40)
    for index in range(40):
        scenes.pixels(index, 32), scenes.captions(index)
    assert len(scenes._pictures) == len(scenes._texts) == 5
