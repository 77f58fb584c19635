import json
import math
from typing import ClassVar

import pytest
import torch

from baselines.data.source import DataError
from baselines.metrics.counting import (
    SPEC,
    counted_by,
    counting_alignment,
    counting_error,
    read_counts,
)
from baselines.metrics.detectors import Detection
from baselines.metrics.images import ImageBatch
from baselines.metrics.spec import ImageSet
from tests.baselines.metrics.test_alignment import context_of

LABELS = ("dog", "cat", "person", "knife", "dining table", "wine glass")


class Dogs:
    """Finds as many dogs as the image's level says, and one more that it is not sure of."""

    labels = LABELS
    names_colours = False
    settings: ClassVar = {"detector": "dogs"}

    def __call__(self, images):
        box = (0.0, 0.0, 1.0, 1.0)
        return [
            [Detection("dog", 0.91, box)] * round(float(image.mean()))
            + [Detection("dog", 0.9, box)]
            for image in images
        ]


@pytest.mark.parametrize(
    ("caption", "counts"),
    [
        ("Two dogs", {"dog": 2}),
        ("two large brown dogs and a cat", {"dog": 2}),
        ("ten people with 3 knives", {"person": 10, "knife": 3}),
        ("three tables", {"dining table": 3}),
        ("two wine glasses", {"wine glass": 2}),
        ("a dog", {}),
        ("one dog", {}),
        ("two of the dogs", {}),
        ("two cups and cats", {}),
        ("at 12 dogs", {}),
        ("two hotdogs", {}),
    ],
)
def test_what_a_caption_counts(caption, counts):
    assert counted_by(caption, LABELS) == counts


def test_it_is_a_root_mean_square_over_what_the_caption_counts():
    # Classes that the caption does not count say nothing; what is absent counts as none.
    assert counting_error({"dog": 3, "cup": 9}, {"dog": 1, "cat": 1}) == math.sqrt((4 + 1) / 2)
    found = counting_alignment([math.sqrt(2.5), 2.0])
    assert found.value == pytest.approx((math.sqrt(2.5) + 2) / 2) and found.count == 2
    assert found.error == pytest.approx((2 - math.sqrt(2.5)) / 2)
    assert math.isnan(counting_alignment([]).value)


def test_the_metric_holds_a_detectors_counts_to_the_captions(tmp_path):
    context = context_of("two dogs", "three dogs", "a dog", detector=Dogs())
    levels = torch.tensor([2.0, 1.0, 1.0])[:, None, None, None].expand(3, 3, 4, 4)

    def measured():
        metric = SPEC.start(context, ImageSet("x", 3))
        metric.update(ImageBatch(torch.arange(3), levels))
        return metric.scores()

    found = measured()["counting"]
    assert found.value == pytest.approx((0 + 2) / 2) and found.count == 2
    path = tmp_path / "counts.jsonl"
    path.write_text(json.dumps({"text": "a dog", "counts": {"dog": 1, "cat": 2}}))
    own = SPEC.settings(context, "")
    context.counts = read_counts(path)
    assert measured()["counting"].value == pytest.approx(math.sqrt(2))
    assert SPEC.settings(context, "") != own and own["detector"] == "dogs"
    context.counts = {"a dog": {"dgo": 1}}
    assert "no label for dgo" in SPEC.missing(context)
    context.counts = {}
    assert measured() == {} and SPEC.missing(context) == ""
    context.detector = None
    assert "--detector" in SPEC.missing(context)


def test_a_bad_line_of_counts_is_named(tmp_path):
    path = tmp_path / "counts.jsonl"
    for line in ('{"text": "a"}', "[]", "{", '{"text": "a", "counts": [1]}'):
        path.write_text("\n" + line)
        with pytest.raises(DataError, match=r"counts.jsonl, line 2: "):
            read_counts(path)
    path.write_text("\n")
    with pytest.raises(DataError, match="no counts"):
        read_counts(path)
