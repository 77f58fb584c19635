"""MS-COCO 2014: a tiny imitation in full, and the sample of the real one."""

import json

import pytest

from baselines.data import build_vocabulary
from baselines.data.coco import Coco
from baselines.data.scan import scan
from baselines.data.source import DataError
from tests.baselines.data.makers import make_coco
from tests.support.bounded import bounded
from tests.support.paths import require, shared


@pytest.fixture
def root(tmp_path):
    return make_coco(tmp_path)


def annotations(root, split="train"):
    return root / "annotations" / f"captions_{split}2014.json"


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_listed_images_of_both_folders(root):
    train, test = Coco(root, "train"), Coco(root, "test")
    assert [train.key(n) for n in (0, 1)] == [f"COCO_train2014_{n:012d}" for n in (10, 11)]
    assert [test.key(n) for n in (0, 1)] == [f"COCO_val2014_{n:012d}" for n in (20, 21)]
    assert [train.class_id(n) for n in (0, 1)] == [0, 1]
    assert train.captions(0) == ("train2014 0 c0.",)
    assert test.captions(1) == ("val2014 1 c0.", "val2014 1 c1.", "val2014 1 c2.")
    assert len(train) == 2, "the file that is not listed stays out"
    assert scan(train, progress=False).ok and scan(test, progress=False).ok


def test_captions_per_image(root):
    assert len(Coco(root, "train", captions_per_image=2).captions(1)) == 2
    assert len(Coco(root, "train", captions_per_image=2).captions(0)) == 1


def test_damage_is_found_by_the_scan(root):
    (root / "train2014" / f"COCO_train2014_{10:012d}.jpg").unlink()
    edit(annotations(root), lambda content: content["annotations"][1].update(caption=" "))

    def move(content):
        content["annotations"][0]["image_id"] = 77

    edit(annotations(root), move)
    source = Coco(root, "train")
    report = scan(source, progress=False)
    assert report.counts == {"missing captions": 1, "missing image": 1, "empty caption": 1}
    assert "1 captions of 1 images not listed" in report.summary()


@pytest.mark.parametrize("part", ["val2014", "annotations/captions_val2014.json"])
def test_missing_parts_are_named(root, part):
    (root / part).rename(root / "elsewhere")
    Coco(root, "train")
    with pytest.raises(DataError, match=f"coco lacks 1 of its files: .*{part}"):
        Coco(root, "test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images":\n [', "not JSON .*line 2"),
        ("[]", "is no COCO caption file"),
        ('{"images": []}', r"KeyError: 'annotations'"),
        ('{"images": [{"id": 1}], "annotations": []}', "file_name"),
        (
            '{"images": [], "annotations": [{"id": 7, "image_id": 1, "caption": 3}]}',
            "annotation 7 is no string",
        ),
        (
            '{"images": [{"id": 1, "file_name": "../x.jpg"}], "annotations": []}',
            r"image 1: file name '\.\./x\.jpg' does not lie inside",
        ),
    ],
)
def test_malformed_annotations(root, content, message):
    annotations(root).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        Coco(root, "train")
    assert "captions_train2014.json" in str(caught.value)


def test_line_separators_inside_captions_survive(root):
    path = annotations(root)
    content = json.loads(path.read_text())
    content["annotations"][0]["caption"] = "one\u2028two\u0085three"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    assert Coco(root, "train").captions(0) == ("one\u2028two\u0085three",)


def test_real_sample():
    root = require(shared("data", "coco"))
    train, test = Coco(root, "train"), Coco(root, "test")
    assert (len(train), len(test)) == (60, 60)
    vocabulary = build_vocabulary(train)
    for source in (train, test):
        report = scan(source, vocabulary, progress=False)
        assert report.ok and report.captions >= 300
    assert train.image(5, 64).std() > 0.05
    assert test.key(0).startswith("COCO_val2014_")


@pytest.mark.parametrize(
    "content",
    [
        "[" * 200_000,
        '{"images": [{"id": ' + "9" * 10_000 + "}]}",
        json.dumps({"images": [{"id": (2**61 - 1) * n, "file_name": "x"} for n in range(60_000)]}),
        '{"images": [{"id": 1, "file_name": ' + "[" * 500 + "]" * 500 + "}]}",
    ],
    ids=["nested", "digits", "colliding", "deep name"],
)
def test_annotations_made_to_break_the_reader_are_one_line(tmp_path, content):
    make_coco(tmp_path)
    (tmp_path / "annotations" / "captions_train2014.json").write_text(content)
    kind, message = bounded(Coco, tmp_path, "train")
    assert kind == "DataError" and "captions_train2014.json" in message, message
    assert "\n" not in message and len(message) < 700
