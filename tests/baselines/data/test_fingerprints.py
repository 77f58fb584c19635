"""A fingerprint changes with what a source shows, and with nothing else."""

import json
import pickle
import shutil

import pytest

from baselines.config import DataConfig
from baselines.data import open_source
from baselines.data.scan import FilteredSource
from baselines.data.scenes import Scenes
from tests.baselines.data.makers import Toy, make_coco, make_cub, make_folder

ROWS = [{"file_name": f"{n}.png", "text": ["a bird", f"bird {n}"], "class": n} for n in range(6)]
FILES = {
    "cub": make_cub,
    "coco": make_coco,
    "folder": lambda root: [make_folder(root / split, ROWS) for split in ("train", "test")],
}


def fingerprint(name, root, split="train", **settings):
    return open_source(DataConfig(name=name, root=str(root), **settings), split).fingerprint


@pytest.mark.parametrize("name", FILES)
def test_another_place_is_the_same_data(tmp_path, name):
    FILES[name](tmp_path / "here")
    before = fingerprint(name, tmp_path / "here")
    assert len(before) == 16 and int(before, 16)
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert fingerprint(name, tmp_path / "there") == before
    source = open_source(DataConfig(name=name, root=str(tmp_path / "there")), "train")
    assert pickle.loads(pickle.dumps(source)).fingerprint == before
    assert fingerprint(name, tmp_path / "there", "test") != before


@pytest.mark.parametrize("name", FILES)
def test_images_of_another_size_are_other_data(tmp_path, name):
    FILES[name](tmp_path)
    before = fingerprint(name, tmp_path)
    images = sorted(p for p in tmp_path.rglob("*") if p.suffix in (".png", ".jpg"))
    train = {"cub": images[0], "coco": images[0], "folder": images[-1]}[name]
    train.write_bytes(train.read_bytes() + b"\0")
    assert fingerprint(name, tmp_path) != before
    train.unlink()
    assert fingerprint(name, tmp_path) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows.pop(),
        lambda rows: rows[2].update(text=["a bird", "another bird"]),
        lambda rows: rows[2].update(text=["a birdbird 2"]),
        lambda rows: rows[2].update({"class": 7}),
        lambda rows: rows[2].update(bbox=[0, 0, 20, 20]),
        lambda rows: rows.reverse(),
    ],
    ids=["fewer", "caption", "joined", "class", "box", "order"],
)
def test_other_lists_are_other_data(tmp_path, change):
    FILES["folder"](tmp_path)
    before = fingerprint("folder", tmp_path)
    rows = [dict(row) for row in ROWS]
    change(rows)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "train" / "metadata.jsonl").write_text(lines)
    assert fingerprint("folder", tmp_path) != before


def test_fewer_captions_are_other_data(tmp_path):
    FILES["folder"](tmp_path)
    assert fingerprint("folder", tmp_path, captions_per_image=1) != fingerprint("folder", tmp_path)


@pytest.mark.parametrize(
    "settings",
    [{"seed": 1}, {"images": 9}, {"max_objects": 2}, {"backgrounds": ("plain",)}],
    ids=str,
)
def test_scenes_follow_their_settings_without_drawing_any(settings, monkeypatch):
    monkeypatch.setattr(Scenes, "scene", None)
    assert Scenes("train").fingerprint == Scenes("train").fingerprint == "35c19db7d2e37107"
    assert Scenes("train").fingerprint != Scenes("train", **settings).fingerprint
    assert Scenes("train").fingerprint != Scenes("test").fingerprint


def test_what_is_left_out_counts():
    toys = [Toy(), FilteredSource(Toy(), range(7), {}), FilteredSource(Toy(), range(6), {})]
    toys += [FilteredSource(Toy(), range(6), {1: {0}}), FilteredSource(Toy(), range(6), {1: {1}})]
    toys += [Toy(6), Toy(split="test")]
    assert len({toy.fingerprint for toy in toys}) == 7
    assert FilteredSource(Toy(), [1, 2], {1: {0}}).fingerprint == (
        FilteredSource(Toy(), [1, 2], {1: {0}}).fingerprint
    )
