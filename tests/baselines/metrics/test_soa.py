import pickle
from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from baselines.data.source import DataError
from baselines.metrics.detectors import Detection
from baselines.metrics.images import ImageBatch
from baselines.metrics.measuring import measure
from baselines.metrics.pairs import Pairs
from baselines.metrics.soa import (
    SPEC,
    hit,
    names_class,
    read_caption_list,
    read_class_captions,
    soa_scores,
)
from baselines.metrics.spec import EvaluationContext, ImageSet


@pytest.mark.parametrize(
    ("caption", "label", "counts"),
    [
        ("A man sits on a Bench", "bench", True),
        ("a workbench with tools", "bench", True),
        ("a motorbike by a wall", "bicycle", False),
        ("a motorbike by a wall", "motorcycle", True),
        ("a kitten sleeps", "cat", True),
        ("cattle, scattered on a hill", "cat", False),
        ("a hot dog and a drink", "dog", False),
        ("a plane lands", "airplane", True),
        ("an orange cat", "orange", False),
        ("two oranges", "orange", True),
    ],
)
def test_captions_of_a_class_follow_the_published_words(caption, label, counts):
    assert names_class(caption, label) == counts


def test_rates_are_averaged_by_class_and_by_image():
    hits = {"dog": [True] * 6 + [False] * 2, "cat": [False, True], "cup": [False] * 10}
    found = soa_scores(hits)
    assert found["soa_c"].value == pytest.approx((0.75 + 0.5 + 0.0) / 3)
    assert found["soa_i"].value == pytest.approx(7 / 20)
    # Of three classes there are no 40 with fewest images.
    assert found.keys() == {"soa_c", "soa_i"}
    many = {f"class {n:02d}": [n >= 50] * (n + 1) for n in range(80)}
    found = soa_scores(many)
    assert found["top_40"].value == pytest.approx(30 / 40)
    assert found["bottom_40"].value == 0.0


def test_an_image_without_any_detection_is_a_miss_and_a_class_without_images_an_error():
    assert not hit("dog", [])
    assert hit("dog", [Detection("dog", 0.5, (0, 0, 1, 1))])
    assert not hit("dog", [Detection("dog", 0.49, (0, 0, 1, 1))])
    with pytest.raises(ValueError, match="none of cat"):
        soa_scores({"dog": [True], "cat": []})


def test_published_lists_are_read_without_running_them(tmp_path):
    for number, content in enumerate(
        [["a dog"], [{"caption": "a dog", "id": 3}], {7: b"a dog"}, [(12, "a dog")]]
    ):
        path = tmp_path / f"{number}.pkl"
        path.write_bytes(pickle.dumps(content, protocol=2))
        assert read_caption_list(path) == ["a dog"]
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps([7]))
    with pytest.raises(DataError, match="entry 0 holds no caption"):
        read_caption_list(tmp_path / "bad.pkl")


class Captions:
    name, split = "coco", "test"

    def captions(self, index):
        return (("a dog and a cat", "a  dog\n")[index],)


class Finder:
    """Finds a dog in bright images."""

    labels = ("dog", "cat", "cup")
    names_colours = False
    settings: ClassVar = {"detector": "x"}

    def __call__(self, images):
        dog = [Detection("dog", 0.9, (0, 0, 1, 1))]
        return [dog if image.mean() >= 0 else [] for image in images]


def context_of(detector):
    pairs = Pairs(
        *(torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([0, 1])),
        *(torch.zeros(2, 0), torch.zeros(2), 2, 0, 0),
    )
    return EvaluationContext(
        source=Captions(), pairs=pairs, size=8, seed=0, detector=detector, drawn=2
    )


def test_published_lists_say_which_captions_count(tmp_path):
    for name, captions in (("00_dog", ["a dog", "a bone"]), ("01_cat", ["a tiger"])):
        (tmp_path / f"label_{name}.pkl").write_bytes(pickle.dumps(captions))
    context = context_of(Finder())
    rule = SPEC.settings(context, "soa_c")
    context.class_captions = read_class_captions(tmp_path, Finder.labels)
    metric = SPEC.start(context, ImageSet("x", 2))
    metric.update(ImageBatch(torch.arange(2), torch.zeros(2, 3, 8, 8)))
    # The caption of both is in no list; that of the dog is, but for its blanks.
    assert metric.scores()["soa/soa_i"].count == 1
    assert SPEC.settings(context, "soa_c") != rule and SPEC.missing(context) == ""
    context.class_captions = {"cat": frozenset({"a tiger"})}
    assert "no caption that is drawn is in the lists" in SPEC.missing(context)
    (tmp_path / "label_03_car.pkl").write_bytes(pickle.dumps([]))
    with pytest.raises(DataError, match=r"label_03_car.pkl: expected .* below 3"):
        read_class_captions(tmp_path, Finder.labels)
    with pytest.raises(DataError, match="no lists of captions"):
        read_class_captions(tmp_path / "none", Finder.labels)


def test_every_sample_of_a_caption_counts_as_published():
    context = context_of(Finder())
    images = ImageSet("x", 2, samples=3)
    results = {}

    def batches():
        for sample, level in enumerate((1.0, -1.0, -1.0)):
            yield ImageBatch(torch.arange(2), torch.full((2, 3, 8, 8), level), sample)

    results = measure([(images, batches())], context, {"soa": SPEC}, quiet=True)
    assert results["soa/soa_i"]["x"]["count"] == 9  # two captions name a dog, one a cat
    assert results["soa/soa_i"]["x"]["value"] == pytest.approx(2 / 9)
    assert "--samples 3" in SPEC.warnings(context)[0]
    assert SPEC.warnings(replace(context, samples=3)) == []


def test_the_metric_asks_for_the_classes_that_captions_name():
    context = context_of(None)
    assert SPEC.missing(context) == "it needs a detector: give --detector"
    context.detector = Finder()
    metric = SPEC.start(context, ImageSet("x", 2))
    metric.update(ImageBatch(torch.arange(2), torch.zeros(2, 3, 8, 8)))
    found = metric.scores()
    assert found["soa/soa_c"].value == 0.5 and found["soa/soa_i"].value == pytest.approx(2 / 3)
    assert SPEC.settings(context, "soa_c") == {"detector": "x"}
