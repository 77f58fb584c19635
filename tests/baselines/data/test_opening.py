"""From the configuration to a source and a vocabulary."""

import pickle
from itertools import islice

import pytest

from baselines.config import DataConfig
from baselines.data import DataError, Source, build_vocabulary, open_source
from baselines.data.loader import training_loader
from baselines.data.scan import scan
from baselines.data.scene_content import COLOURS, SHAPES
from tests.baselines.data.makers import Toy, make_coco, make_cub, make_folder
from tests.baselines.data.test_webdataset import samples, write_shard

MAKERS = {
    "cub": make_cub,
    "coco": make_coco,
    "folder": lambda root: [
        make_folder(root / split, [{"file_name": "a.png", "text": "a cat"}])
        for split in ("train", "test")
    ],
    "webdataset": lambda root: [
        write_shard(root / split / "00000.tar", samples(0, 2)) for split in ("train", "test")
    ],
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_data_set_opens_scans_and_pickles(tmp_path, name, split):
    MAKERS[name](tmp_path)
    source = open_source(DataConfig(name=name, root=str(tmp_path)), split)
    assert isinstance(source, Source)
    assert (source.name, source.split) == (name, split)
    assert scan(source, progress=False).ok
    again = pickle.loads(pickle.dumps(source))
    assert again.captions(0) == source.captions(0)


@pytest.mark.parametrize("name", MAKERS)
def test_every_data_set_feeds_training(tmp_path, name):
    MAKERS[name](tmp_path)
    source = open_source(DataConfig(name=name, root=str(tmp_path)), "train")
    vocabulary = build_vocabulary(source)
    loader = training_loader(
        source, vocabulary, size=16, max_words=4, batch_size=3, seed=0, workers=1
    )
    for batch in islice(loader, 2):
        assert batch.images.shape == (3, 3, 16, 16)
        assert batch.lengths.min() >= 1


def test_options_of_the_configuration_arrive(tmp_path):
    rows = [{"file_name": f"{n}.png", "text": ["a", "b"]} for n in range(3)]
    make_folder(tmp_path / "data", rows)
    (tmp_path / "split.txt").write_text("1.png\n")
    data = DataConfig(
        name="folder",
        root=str(tmp_path / "data"),
        split_file=str(tmp_path / "split.txt"),
        captions_per_image=1,
    )
    source = open_source(data, "test")
    assert [source.key(0), source.captions(0), len(source)] == ["1.png", ("a",), 1]


def test_scenes_open_without_a_folder():
    data = DataConfig(train_images=300, test_images=4, max_objects=1)
    train, test = (open_source(data, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (300, 4)
    vocabulary = build_vocabulary(train)
    report = scan(train, vocabulary, progress=False)
    assert report.ok and not report.unknown
    assert "only the first 256 checked" in report.summary()
    assert not scan(test, vocabulary, progress=False).unknown


@pytest.mark.parametrize(
    ("name", "hint"),
    [("cup", "did you mean 'cub'"), ("Scene", "'scenes'"), ("folders", "'folder'")],
)
def test_unknown_names_get_the_nearest(name, hint):
    with pytest.raises(DataError, match=f"data.name is '{name}'.*{hint}"):
        open_source(DataConfig(name=name), "train")


@pytest.mark.parametrize("name", ["cub", "coco", "folder", "webdataset"])
def test_missing_roots_are_named(name, tmp_path):
    with pytest.raises(DataError, match=f"data.root is empty: {name} needs the folder"):
        open_source(DataConfig(name=name), "train")
    gone = tmp_path / "gone"
    with pytest.raises(DataError, match=f"data.root={gone} is not a folder"):
        open_source(DataConfig(name=name, root=str(gone)), "train")


def test_unknown_split():
    with pytest.raises(DataError, match="split 'val': expected one of train, test"):
        open_source(DataConfig(), "val")


def test_vocabulary_never_sees_the_test_split():
    with pytest.raises(DataError, match="training split, not from 'test'"):
        build_vocabulary(Toy(split="test"))


def test_vocabulary_takes_min_count():
    assert len(build_vocabulary(Toy())) > len(build_vocabulary(Toy(), 3)) > 2


def test_template_sentences_are_not_counted(caplog):
    scenes = open_source(DataConfig(train_images=3, test_images=3), "train")
    every = build_vocabulary(scenes)
    assert build_vocabulary(scenes, 2) == every
    assert set(COLOURS + SHAPES) <= set(every.words)
    assert "min_count=2 does not apply to scenes" in caplog.text


@pytest.mark.parametrize(
    ("name", "asked", "word"),
    [
        ("folder", "auto", "schöner"),
        ("folder", "ascii", "schner"),
        ("coco", "auto", "schner"),
        ("coco", "unicode", "schöner"),
    ],
)
def test_letters_outside_ascii_follow_the_data_set_or_the_setting(tmp_path, name, asked, word):
    MAKERS[name](tmp_path)
    for path in tmp_path.rglob("*.json*"):
        text = path.read_text().replace("a cat", "schöner vogel").replace("c0.", "schöner vogel")
        path.write_text(text)
    source = open_source(DataConfig(name=name, root=str(tmp_path), tokens=asked), "train")
    assert word in build_vocabulary(source)
