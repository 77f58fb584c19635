import json
import math

import pytest
import torch

from baselines.data.source import DataError
from baselines.metrics.alignment import (
    OPPOSITES,
    SPEC,
    positional_alignment,
    read_false_captions,
    turn_over,
)
from baselines.metrics.image_text import ImageTextJudge
from baselines.metrics.images import ImageBatch
from baselines.metrics.pairs import Pairs
from baselines.metrics.spec import EvaluationContext, ImageSet
from tests.baselines.metrics.toy_encoder import ToyEncoder

# Where σ(cos φ - sin φ) is 0.6: √2 cos(φ + π/4) = ln 1.5.
EDGE = 1 - (math.acos(math.log(1.5) / math.sqrt(2)) - math.pi / 4) / (math.pi / 4)


class Captions:
    name, split = "own", "test"

    def __init__(self, *texts):
        self.texts = texts

    def captions(self, index):
        return (self.texts[index],)


def context_of(*texts, **given):
    count = len(texts)
    numbers = torch.arange(count)
    pairs = Pairs(
        numbers, torch.zeros(count, dtype=torch.int64), numbers, torch.zeros(count, 0),
        torch.zeros(count), count, 0, 0,
    )  # fmt: skip
    given = {"judge": ImageTextJudge(ToyEncoder()), **given}
    return EvaluationContext(source=Captions(*texts), pairs=pairs, size=4, seed=0, **given)


def measure(context, *levels):
    metric = SPEC.start(context, ImageSet("x", len(levels)))
    images = torch.tensor(levels)[:, None, None, None].expand(-1, 3, 4, 4)
    for rows in torch.arange(len(levels)).split(3):
        metric.update(ImageBatch(rows, images[rows]))
    return metric.scores()


def test_an_image_is_aligned_above_six_tenths():
    above, below = "a cat above a dog", "a cat below a dog"
    context = context_of(above, above, above, below, "a cat")
    found = measure(context, EDGE + 0.01, EDGE - 0.01, 1.0, -1.0, 0.0)["pa"]
    assert found.by["above"].value == pytest.approx(2 / 3)
    assert found.by["below"].value == 1.0
    # The plain mean over words, not over images, and of those captions that say where.
    assert found.value == pytest.approx(5 / 6)
    assert found.count == 4 and found.facts == {"words": 2}
    # Bright images with captions of "below" are not aligned, dark ones with "above" neither.
    turned = measure(context_of(below, above), 1.0, -1.0)["pa"]
    assert turned.value == 0.0 and turned.chance == 1.0


def test_what_says_no_place_has_no_row():
    assert measure(context_of("a cat", "a dog"), 1.0, -1.0) == {}


@pytest.mark.parametrize(
    ("caption", "turned"),
    [
        ("a dog in front of a car", [("in front of", "a dog behind a car")]),
        ("A cat on top of a box", [("on top of", "A cat under a box")]),
        ("Above a dog is a cat", [("above", "Below a dog is a cat")]),
        (
            "a cup on the left and a fork left of a cup",
            [("left", "a cup on the right and a fork right of a cup")],
        ),
        (
            "in the upper left corner",
            [("left", "in the upper right corner"), ("upper", "in the lower left corner")],
        ),
        ("he was leftist and stopped", []),
    ],
)
def test_each_positional_word_is_turned_over_alone(caption, turned):
    assert [tuple(false) for false in turn_over(caption)] == turned


def test_turning_over_twice_gives_the_caption_back():
    for word in OPPOSITES.keys() - {"beneath"}:
        (false,) = turn_over(f"a cat {word} a dog")
        (back,) = turn_over(false.text)
        assert back.text == f"a cat {word} a dog"


def test_published_lists_take_the_place_of_our_words(tmp_path):
    path = tmp_path / "pa.jsonl"
    row = {"text": "a cat by a dog", "false": "a cat above a dog", "word": "by"}
    path.write_text(json.dumps(row) + "\n\n")
    context = context_of("a cat by a dog", "a cat above a dog")
    own = SPEC.settings(context, "")
    context.false_captions = read_false_captions(path)
    found = measure(context, -1.0, -1.0)["pa"]
    assert list(found.by) == ["by"] and found.value == 1.0
    assert SPEC.settings(context, "") != own
    path.write_text('{"text": "a"}')
    with pytest.raises(DataError, match=r"pa.jsonl, line 1: KeyError 'word'"):
        read_false_captions(path)
    path.write_text("\n")
    with pytest.raises(DataError, match="no false caption"):
        read_false_captions(path)


def test_it_says_what_it_needs():
    assert "--clip" in SPEC.missing(context_of("a", judge=None))
    assert "--captions" in SPEC.missing(context_of(""))
    assert SPEC.missing(context_of("a")) == ""
    assert math.isnan(positional_alignment({}).value)
