"""Folders of images with a metadata.jsonl."""

import json
import os
import shutil

import pytest
import torch

from baselines.data.folder import Folder
from baselines.data.images import open_rgb, to_square
from baselines.data.scan import scan
from baselines.data.source import DataError
from tests.baselines.data.makers import make_folder, write_image
from tests.support.bounded import bounded

ROWS = [
    {"file_name": "a.png", "text": "a red cat", "class": "cat"},
    {"file_name": "sub/b.JPG", "text": ["a dog", "a big dog", "?"], "class": "dog"},
    {"file_name": "c.png", "text": "another cat", "class": "cat", "bbox": [5, 5, 20, 10]},
    {"file_name": "d.png", "text": "no class"},
    {"file_name": "e.png", "text": "none either", "class": 7},
]


def keys(source):
    return [source.key(index) for index in range(len(source))]


@pytest.fixture
def split_file(tmp_path):
    path = tmp_path / "test.txt"
    path.write_text("c.png\n\n sub/b.JPG \n")
    return path


def test_split_file(tmp_path, split_file):
    root = make_folder(tmp_path / "data", ROWS)
    train, test = (Folder(root, split, split_file=split_file) for split in ("train", "test"))
    assert keys(train) == ["a.png", "d.png", "e.png"]
    assert keys(test) == ["sub/b.JPG", "c.png"]
    assert test.captions(0) == ("a dog", "a big dog", "?")
    assert len({train.class_id(index) for index in range(3)}) == 3
    assert "3 train, 2 test images" in scan(train, progress=False).summary()


def test_split_file_beside_the_images(tmp_path, split_file):
    root = make_folder(tmp_path / "data", ROWS)
    shutil.move(split_file, root / "held-out.txt")
    assert len(Folder(root, "test", split_file="held-out.txt")) == 2


def test_equal_classes_get_equal_ids(tmp_path):
    for split in ("train", "test"):
        make_folder(tmp_path / split, ROWS)
    source = Folder(tmp_path, "train")
    ids = [source.class_id(index) for index in range(5)]
    assert ids[0] == ids[2]
    assert len(set(ids)) == 4


def test_sub_folders(tmp_path):
    make_folder(tmp_path / "train", ROWS)
    make_folder(tmp_path / "test", ROWS[:2])
    assert len(Folder(tmp_path, "train")) == 5
    assert keys(Folder(tmp_path, "test", captions_per_image=1)) == ["a.png", "sub/b.JPG"]
    assert Folder(tmp_path, "test", captions_per_image=1).captions(1) == ("a dog",)
    assert scan(Folder(tmp_path, "train"), progress=False).counts == {"caption without words": 1}


def test_box_crops(tmp_path):
    make_folder(tmp_path / "train", ROWS)
    make_folder(tmp_path / "test", ROWS)
    image = open_rgb(tmp_path / "train" / "c.png").crop((0, 0, 30, 25))
    assert torch.equal(Folder(tmp_path, "train").pixels(2, 16), to_square(image, 16, None))


def test_hash_split_is_stable_and_about_a_tenth(tmp_path):
    rows = [{"file_name": f"{n}.png", "text": "x"} for n in range(400)]
    root = make_folder(tmp_path, rows, images=False)
    train, test = Folder(root, "train"), Folder(root, "test")
    assert set(keys(train)) | set(keys(test)) == {row["file_name"] for row in rows}
    assert not set(keys(train)) & set(keys(test))
    assert 20 <= len(test) <= 60
    assert f"{len(train)} train, {len(test)} test images" in train.notes[0]
    make_folder(root, rows[:200][::-1], images=False)
    assert set(keys(Folder(root, "test"))) == {key for key in keys(test) if int(key[:-4]) < 200}


def test_hash_split_without_test_images_says_what_to_do(tmp_path):
    root = make_folder(tmp_path, [{"file_name": "0.png", "text": "x"}], images=False)
    with pytest.raises(DataError, match=r"no image is left for the \w+ split.*--split-file"):
        Folder(root, "train")


def test_a_folder_that_cannot_be_one_is_named(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for root in (loop, "a\0b", tmp_path / "gone"):
        with pytest.raises(DataError, match="is not a folder"):
            Folder(root, "train")


def test_a_split_file_that_is_not_there_is_named_once(tmp_path):
    root = make_folder(tmp_path / "data", [{"file_name": "0.png", "text": "x"}], images=False)
    gone = tmp_path / "gone.txt"
    with pytest.raises(DataError) as refused:
        Folder(root, "train", split_file=gone)
    assert str(refused.value) == f"data.split_file={gone} does not exist"
    with pytest.raises(DataError, match=rf"=gone\.txt does not exist, nor does {root}/gone\.txt"):
        Folder(root, "train", split_file="gone.txt")


@pytest.mark.parametrize(
    "name",
    ["../x.png", "/x.png", "a/../../x.png", "C:\\x.png", "..\\x.png", "\\\\host\\x.png", " "],
)
def test_names_cannot_leave_the_folder(tmp_path, name):
    write_image(tmp_path / "x.png")
    root = make_folder(tmp_path / "data", [{"file_name": name, "text": "x"}], images=False)
    with pytest.raises(DataError, match=r"line 1: .*does not lie inside"):
        Folder(root, "train")


def test_all_malformed_lines_are_listed(tmp_path):
    rows = [
        ROWS[0],
        "{broken",
        "[1]",
        '{"text": "x"}',
        '{"file_name": "a", "text": 3}',
        '{"file_name": "b", "text": ["x", null]}',
        '{"file_name": "c", "text": "x", "bbox": [1, 2, 3]}',
        '{"file_name": "d", "text": "x", "bbox": ["1", 2, 3, 4]}',
        '{"file_name": "e", "text": "x", "class": [1]}',
        '{"file_name": "f", "text": "a \\ud83d star"}',
        '{"file_name": "g", "text": "a \\ud83d\\ude00 star"}',
    ]
    root = make_folder(tmp_path, rows, images=False)
    with pytest.raises(DataError) as caught:
        Folder(root, "train")
    message = str(caught.value)
    assert "metadata.jsonl has 9 lines that cannot be used" in message
    for number, words in enumerate(
        ["Expecting property", "list instead", '"file_name"', '"text" of a', '"text" of b',
         '"bbox" of c', '"bbox" of d', '"class" of e', "half of a surrogate pair"],
        start=2,
    ):  # fmt: skip
        assert any(
            line.startswith(f"  line {number}: ") and words in line for line in message.splitlines()
        ), words


def test_damage_is_found_by_the_scan(tmp_path):
    rows = [
        {"file_name": "a.png", "text": "x"},
        {"file_name": "a.png", "text": "again"},
        {"file_name": "b.png"},
        {"file_name": "c.png", "text": ["", "ok"]},
        {"file_name": "d.png", "text": "x", "bbox": [0, 0, -1, 5]},
        {"file_name": "e.png", "text": []},
    ]
    for split in ("train", "test"):
        make_folder(tmp_path / split, rows)
    report = scan(Folder(tmp_path, "train"), progress=False)
    assert report.counts == {
        "duplicate name": 1,
        "missing captions": 2,
        "empty caption": 1,
        "bad box": 1,
    }
    assert "metadata.jsonl, line 3" in report.details()
    assert keys(report.skip()) == ["a.png", "c.png"]


def test_nan_boxes_are_found(tmp_path):
    for split in ("train", "test"):
        row = {"file_name": "a.png", "text": "x", "bbox": [float("nan"), 0, 1, 1]}
        make_folder(tmp_path / split, [row])
    assert scan(Folder(tmp_path, "test"), progress=False).counts == {"bad box": 1}


@pytest.mark.parametrize("folders", [(), ("train",)])
def test_missing_metadata(tmp_path, folders):
    for folder in folders:
        make_folder(tmp_path / folder, ROWS)
    with pytest.raises(DataError, match=r"test.* does not exist|has no metadata\.jsonl"):
        Folder(tmp_path, "train")


def test_empty_metadata(tmp_path):
    (tmp_path / "metadata.jsonl").write_text("\n")
    with pytest.raises(DataError, match="is empty: expected a line like"):
        Folder(tmp_path, "train")


def test_metadata_that_is_not_utf8(tmp_path):
    (tmp_path / "metadata.jsonl").write_bytes(json.dumps(ROWS[0]).encode("utf-16"))
    with pytest.raises(DataError, match=r"metadata\.jsonl is not UTF-8"):
        Folder(tmp_path, "train")


def test_byte_order_mark_is_ignored(tmp_path, split_file):
    root = make_folder(tmp_path / "data", ROWS)
    path = root / "metadata.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert len(Folder(root, "train", split_file=split_file)) == 3


def test_strangers_in_the_split_file(tmp_path, split_file):
    split_file.write_text("a.png\nb.png\n")
    root = make_folder(tmp_path / "data", ROWS)
    with pytest.raises(DataError, match=r"lists 1 names that .* has not: line 2: b\.png"):
        Folder(root, "train", split_file=split_file)
    with pytest.raises(DataError, match=r"split_file=none\.txt does not exist"):
        Folder(root, "train", split_file="none.txt")


def test_split_file_that_takes_everything(tmp_path, split_file):
    split_file.write_text("".join(f"{row['file_name']}\n" for row in ROWS))
    root = make_folder(tmp_path / "data", ROWS)
    with pytest.raises(DataError, match=r"no image is left for the train split.*change that file"):
        Folder(root, "train", split_file=split_file)


def test_split_file_contradicts_sub_folders(tmp_path, split_file):
    for split in ("train", "test"):
        make_folder(tmp_path / split, ROWS)
    with pytest.raises(DataError, match=r"split_file=.* contradicts"):
        Folder(tmp_path, "train", split_file=split_file)


@pytest.mark.parametrize(
    "line",
    [
        "[" * 200_000,
        '{"file_name": "a.png", "text": ' + "[" * 200_000 + "}",
        '{"file_name": ' + "9" * 10_000 + "}",
        '{"file_name": "a.png", "text": "x", "bbox": [1, 1, 1e999, ' + "9" * 400 + "]}",
        '{"file_name": "' + "x" * 100_000 + '", "text": "x"}',
        '{"file_name": "a\\u0000.png", "text": "x"}',
        '{"file_name": "a.png", "text": {"a": ' + "[" * 500 + "]" * 500 + "}}",
    ],
    ids=["nested", "nested text", "digits", "box", "long name", "zero byte", "deep text"],
)
def test_lines_made_to_break_the_reader_are_named_shortly(tmp_path, line):
    (tmp_path / "metadata.jsonl").write_text(line + "\n")
    kind, message = bounded(Folder, tmp_path, "train")
    assert kind == "DataError" and "line 1: " in message, message
    assert len(message) < 700


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_metadata_must_be_a_file(tmp_path, make):
    make(tmp_path / "metadata.jsonl")
    kind, message = bounded(Folder, tmp_path, "train", seconds=3)
    assert kind == "DataError" and "metadata.jsonl cannot be read" in message
    assert "no regular file" in message
