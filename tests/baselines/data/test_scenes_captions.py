"""Captions of scenes: every word of them is true, and what they state is recorded."""

import re
from collections import Counter

import pytest

from baselines.data import scene_content as content
from baselines.data.scene_captions import vocabulary_captions
from baselines.data.scenes import Scenes
from baselines.data.vocabulary import Vocabulary, tokenize

SIZES = {"small": "small", "little": "small", "medium": "medium", "large": "large", "big": "large"}


def everything(split, max_objects, images):
    scenes = Scenes(split, seed=2, max_objects=max_objects, images=images)
    for i in range(images):
        for caption in scenes.described(i):
            yield scenes.scene(i), caption


@pytest.mark.parametrize("max_objects", [1, 2, 3])
def test_ten_different_captions_of_at_most_18_words(max_objects):
    scenes = Scenes("train", max_objects=max_objects)
    for i in range(150):
        captions = scenes.captions(i)
        assert len(captions) == 10 == len(set(captions))
        assert captions == tuple(c.text for c in scenes.described(i))
        assert all(3 <= len(tokenize(text)) <= 18 for text in captions)


@pytest.mark.parametrize("split", ["train", "test"])
def test_what_is_recorded_is_true_of_the_scene(split):
    for scene, caption in everything(split, 3, 150):
        indices = [stated.index for stated in caption.objects]
        assert len(set(indices)) == len(indices) >= 1
        for stated in caption.objects:
            item = scene.objects[stated.index]
            assert (stated.colour, stated.shape) == (item.colour, item.shape)
            assert stated.size in (None, item.size)
            if stated.place is not None:
                x, y = item.centre
                assert ("left" in stated.place) == (x < 0.38 + 1e-9)
                assert ("right" in stated.place) == (x > 0.62 - 1e-9)
                assert (stated.place.split()[0] in ("upper", "top")) == (y < 0.38 + 1e-9)
                assert (stated.place.split()[0] in ("lower", "bottom")) == (y > 0.62 - 1e-9)
        for i, relation, j in caption.relations:
            assert {i, j} <= set(indices)
            (ax, ay), (bx, by) = scene.objects[i].centre, scene.objects[j].centre
            ahead = {"left of": bx - ax, "right of": ax - bx, "above": by - ay, "below": ay - by}
            assert ahead[relation] >= 1.5 * min(abs(ax - bx), abs(ay - by)) > 0


def test_words_name_the_objects_they_describe():
    for scene, caption in everything("train", 3, 150):
        words = tokenize(caption.text)
        assert len(words) == len(caption.word_objects)
        said = Counter()
        for word, index in zip(words, caption.word_objects, strict=True):
            describing = word in content.COLOURS + content.SHAPES or word in (*SIZES, "sized")
            assert describing == (index >= 0)
            if describing:
                item = scene.objects[index]
                assert word in (item.colour, item.shape, "sized") or SIZES[word] == item.size
                said[index, SIZES.get(word, word)] += 1
        for stated in caption.objects:
            assert said[stated.index, stated.colour] == said[stated.index, stated.shape] == 1
            assert said[stated.index, stated.size] == (stated.size is not None)


def test_text_of_single_objects_says_where_they_are():
    placed = total = 0
    for scene, caption in everything("train", 1, 200):
        (item,), words = scene.objects, set(tokenize(caption.text))
        x, y = item.centre
        assert {item.colour, item.shape} <= words
        total += 1
        vague = not words & {"left", "right", "top", "upper", "bottom", "lower", "middle", "center"}
        if vague:
            assert caption.objects[0].place is None
            continue
        placed += 1
        assert ("left" in words) == (x < 0.41) and ("right" in words) == (x > 0.59)
        assert bool(words & {"top", "upper"}) == (y < 0.41)
        assert bool(words & {"bottom", "lower"}) == (y > 0.59)
    assert placed > 0.75 * total


def test_text_of_relations_says_what_is_so():
    relation = r"(?:to the |on the )?(left of|right of|above|over|below|under|beneath)"
    thing = rf"(?:an?|the) (?:[a-z]+ )*?({'|'.join(content.COLOURS)}) ([a-z]+)"
    pattern = re.compile(
        f"(?:there is )?{thing}(?: is| sits)? {relation} {thing}(?: on a .*| in a .*| before a .*|)"
    )
    other_names = {"over": "above", "under": "below", "beneath": "below"}
    checked = 0
    for scene, caption in everything("test", 2, 150):
        match = pattern.fullmatch(caption.text)
        if match is None:
            continue
        checked += 1
        where = {(o.colour, o.shape): o.centre for o in scene.objects}
        (ax, ay), (bx, by) = where[match[1], match[2]], where[match[4], match[5]]
        name = other_names.get(match[3], match[3])
        assert {"left of": ax < bx, "right of": ax > bx, "above": ay < by, "below": ay > by}[name]
    assert checked > 150


def test_statements_of_every_kind_are_common():
    kinds = Counter()
    for _, caption in everything("train", 3, 200):
        kinds["relation"] += bool(caption.relations)
        kinds["place"] += any(stated.place for stated in caption.objects)
        kinds["size"] += any(stated.size for stated in caption.objects)
        kinds["where"] += bool(caption.relations) or any(stated.place for stated in caption.objects)
        kinds["several"] += len(caption.objects) > 1
    assert kinds["relation"] > 500 and kinds["place"] > 500
    assert kinds["size"] > 800 and kinds["several"] > 700
    assert kinds["where"] > 1600


def test_the_background_is_named_rightly():
    names = {
        "plain": "plain", "shaded": "gradient", "fading": "gradient", "landscape": "landscape",
        "checkered": "checker", "cloudy": "noise",
    }  # fmt: skip
    named = 0
    for scene, caption in everything("train", 3, 150):
        for word in set(tokenize(caption.text)) & set(names):
            named += 1
            assert names[word] == scene.background.kind
    assert named > 50


def test_vocabulary_captions_hold_exactly_the_words_of_captions():
    vocabulary = Vocabulary.build(vocabulary_captions())
    assert list(Scenes.vocabulary_captions()) == list(vocabulary_captions())
    used = {word for split in ("train", "test") for _, c in everything(split, 3, 400)
            for word in tokenize(c.text)}  # fmt: skip
    known = {word for text in vocabulary_captions() for word in tokenize(text)}
    assert used == known
    assert len(vocabulary) == len(known) + 2
