"""CUB-200-2011: a tiny imitation in full, and the real one."""

import pickle

import numpy as np
import pytest
import torch

from baselines.data import build_vocabulary
from baselines.data.cub import Cub
from baselines.data.images import box_crop, open_rgb, to_square
from baselines.data.loader import EvaluationView
from baselines.data.originals import save_captions_pickle
from baselines.data.scan import scan
from baselines.data.source import DataError
from baselines.data.vocabulary import Vocabulary
from tests.baselines.data.makers import BIRDS, TEXTS, make_cub
from tests.support.paths import require, shared


@pytest.fixture
def root(tmp_path):
    return make_cub(tmp_path)


def test_splits_classes_and_captions(root):
    train, test = Cub(root, "train"), Cub(root, "test")
    assert [train.key(index) for index in range(len(train))] == list(BIRDS[:2])
    assert [train.class_id(index) for index in range(len(train))] == [1, 1]
    assert [test.key(0), test.class_id(0), len(test)] == [BIRDS[2], 2, 1]
    assert train.captions(1) == tuple(TEXTS[BIRDS[1]])
    assert scan(train, progress=False).ok and scan(test, progress=False).ok


def test_boxes_follow_the_number_of_the_image(root):
    image = open_rgb(root / "CUB_200_2011" / "images" / f"{BIRDS[2]}.jpg")
    expected = to_square(box_crop(image, (1.0, 2.0, 30.0, 20.0)), 16, None)
    assert torch.equal(Cub(root, "test").pixels(0, 16), expected)


def test_captions_per_image_counts_captions_with_words(root):
    (root / "text" / f"{BIRDS[0]}.txt").write_text("one\n\n?!\ntwo\nthree\n", encoding="utf-8")
    assert Cub(root, "train", captions_per_image=2).captions(0) == ("one", "", "?!", "two")
    assert Cub(root, "train", captions_per_image=2).captions(1) == tuple(TEXTS[BIRDS[1]])
    assert len(Cub(root, "train").captions(0)) == 5
    assert scan(Cub(root, "train"), progress=False).counts == {
        "empty caption": 1,
        "caption without words": 1,
    }


def test_real_names_of_files_are_used(root):
    images = root / "CUB_200_2011" / "images"
    (images / f"{BIRDS[2]}.jpg").rename(images / f"{BIRDS[2]}.JPEG")
    names = root / "CUB_200_2011" / "images.txt"
    names.write_text(names.read_text().replace(f"{BIRDS[2]}.jpg", f"{BIRDS[2]}.JPEG"))
    assert scan(Cub(root, "test"), progress=False).ok


def test_class_ids_as_a_numpy_array_and_bytes_as_names(root):
    (root / "train" / "class_info.pickle").write_bytes(pickle.dumps(np.array([5, 6]), 2))
    names = pickle.dumps([key.encode() for key in BIRDS[:2]], 2)
    (root / "train" / "filenames.pickle").write_bytes(names)
    train = Cub(root, "train")
    assert [train.class_id(0), train.class_id(1)] == [5, 6]
    assert train.key(0) == BIRDS[0]


def test_captions_come_from_captions_pickle_without_text(tmp_path):
    root = make_cub(tmp_path, text=False)
    vocabulary = Vocabulary.build(["a red bird flies"])
    train = [vocabulary.encode(text) for text in ("a bird", "a red bird", "bird flies", "red")]
    save_captions_pickle(root / "captions.pickle", vocabulary, train, [vocabulary.encode("a")])
    source = Cub(root, "train")
    assert source.captions(0) == ("a bird", "a red bird")
    assert source.captions(1) == ("bird flies", "red")
    assert "read back from" in scan(source, progress=False).summary()


def test_uneven_captions_pickle_is_refused(tmp_path):
    root = make_cub(tmp_path, text=False)
    save_captions_pickle(root / "captions.pickle", Vocabulary(["a"]), [[2], [2], [2]], [])
    with pytest.raises(DataError, match="3 train captions for 2 images"):
        Cub(root, "train")


def test_no_captions_at_all(tmp_path):
    with pytest.raises(DataError, match=r"neither .*text nor .*captions\.pickle exists"):
        Cub(make_cub(tmp_path, text=False), "train")


def test_split_is_never_guessed(tmp_path):
    root = make_cub(tmp_path, splits=("test",))
    with pytest.raises(DataError) as caught:
        Cub(root, "train")
    message = str(caught.value)
    assert str(root / "train" / "filenames.pickle") in message
    assert str(root / "train" / "class_info.pickle") in message
    assert "cannot be guessed" in message


def test_all_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"images, .*images\.txt, .*bounding_boxes\.txt"):
        Cub(tmp_path, "train")


def test_damage_is_found_by_the_scan(root):
    text = root / "text"
    (text / f"{BIRDS[0]}.txt").write_bytes(b"a caf\xe9 bird\n")
    (text / f"{BIRDS[1]}.txt").unlink()
    boxes = root / "CUB_200_2011" / "bounding_boxes.txt"
    boxes.write_text("1 0 0 40 30\n")
    report = scan(Cub(root, "train"), progress=False)
    assert report.counts == {"unreadable captions": 1, "missing captions": 1, "bad box": 1}
    assert "is not UTF-8 (byte 5: " in report.details()
    assert f"{BIRDS[1]}: no box in " in report.details()


def test_unlisted_image_and_empty_text_are_found(root):
    names = root / "CUB_200_2011" / "images.txt"
    names.write_text(names.read_text().replace(f"2 {BIRDS[1]}.jpg\n", ""))
    (text := root / "text" / f"{BIRDS[0]}.txt").write_text("\n \n", encoding="utf-8")
    assert text.exists()
    report = scan(Cub(root, "train"), progress=False)
    assert report.counts == {"missing captions": 1, "missing image": 1}
    assert "not listed in" in report.details()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("images.txt", "1\n", r"images\.txt, line 1: '1' has not 2 columns"),
        ("images.txt", "\n1 ../../x.jpg\n", r"images\.txt, line 2: file name '\.\./\.\./x\.jpg'"),
        ("bounding_boxes.txt", "1 0 0 1 1\n2 0 a 1 1\n", r"boxes\.txt, line 2: could not convert"),
        ("bounding_boxes.txt", "1 0 0 1\n", r"boxes\.txt, line 1: .* has not 5 columns"),
    ],
)
def test_malformed_lists_are_named_with_the_line(root, file, content, message):
    (root / "CUB_200_2011" / file).write_text(content)
    with pytest.raises(DataError, match=message):
        Cub(root, "train")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("class_info", [1], "has 1 entries, filenames.pickle beside it 2"),
        ("class_info", ["a", "b"], "something else than class numbers"),
        ("class_info", 3, "expected a list, found int"),
        ("filenames", [1, 2], "entry 0 is 1, expected a name"),
        ("filenames", "ab", "expected a list, found str"),
    ],
)
def test_malformed_pickles_are_named(root, file, content, message):
    (root / "train" / f"{file}.pickle").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=message):
        Cub(root, "train")


def test_names_cannot_leave_the_folder(root):
    content = pickle.dumps(["../../secret", BIRDS[1]])
    (root / "train" / "filenames.pickle").write_bytes(content)
    with pytest.raises(DataError, match="does not lie inside"):
        Cub(root, "train")


@pytest.fixture(scope="module")
def real():
    root = require(shared("data", "cub"))
    return Cub(root, "train"), Cub(root, "test")


def test_real_splits(real):
    train, test = real
    assert (len(train), len(test)) == (8855, 2933)
    classes = [{source.class_id(index) for index in range(len(source))} for source in real]
    assert (len(classes[0]), len(classes[1])) == (150, 50)
    assert not classes[0] & classes[1]
    assert all(len(train.captions(index)) == 10 for index in range(len(train)))
    assert train.class_id(0) == int(train.key(0)[:3])


def test_real_vocabulary_and_scan(real):
    train, test = real
    vocabulary = build_vocabulary(train)
    report = scan(test, vocabulary, progress=False)
    assert report.ok, report.details(5)
    assert report.captions == 29330
    # The originals number the words of both splits and <end>: the 5,450 of their encoders.
    assert (len(vocabulary) - 2) + len(report.unknown) + 1 == 5450


def test_real_images(real):
    train, _ = real
    generator = torch.Generator().manual_seed(0)
    for index in (0, 4000, 8854):
        for options in ({}, {"rng": generator}):
            image = train.image(index, 64, **options)
            assert image.shape == (3, 64, 64)
            assert image.min() >= -1 and image.max() <= 1 and image.std() > 0.05


def test_real_evaluation_shows_every_caption(real):
    _, test = real
    view = EvaluationView(test, build_vocabulary(real[0]), size=32, max_words=18)
    assert len(view) == 29330 and view.dropped == 0
    assert view.truncated > 1000
