"""Shards as img2dataset writes them: every sample by number, in any company, resumed anywhere."""

import io
import json
import os
import pickle
import tarfile
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from baselines.config import DataConfig
from baselines.data import DataError, Source, build_vocabulary, open_source
from baselines.data.images import open_rgb, to_square
from baselines.data.loader import TrainingView, training_loader
from baselines.data.scan import scan
from baselines.data.tar_index import KEPT
from baselines.data.webdataset import WebDataset


def picture(seed, kind="jpg"):
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format={"jpg": "JPEG"}.get(kind, kind))
    return buffer.getvalue()


def samples(shard, count):
    for n in range(count):
        number = 100 * shard + n
        yield (
            f"{shard:05d}{n:04d}",
            {
                "jpg": picture(number),
                "json": json.dumps({"caption": f"from json {number}", "key": number}).encode(),
                "txt": f"ein schöner Vogel {number}\n".encode(),
            },
        )


def write_shard(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for key, parts in content:
            for kind, data in sorted(parts.items()):
                member = tarfile.TarInfo(f"{key}.{kind}")
                # A fraction of a second takes a PAX header, as img2dataset's shards have it.
                member.size, member.mtime = len(data), 1700000000.25
                shard.addfile(member, io.BytesIO(data))


@pytest.fixture
def root(tmp_path):
    """60 images in four shards, with what img2dataset leaves beside them."""
    for shard, count in enumerate((20, 5, 15, 20)):
        write_shard(tmp_path / f"{shard:05d}.tar", samples(shard, count))
        (tmp_path / f"{shard:05d}_stats.json").write_text("{}")
        (tmp_path / f"{shard:05d}.parquet").write_bytes(b"PAR1")
    return tmp_path


def keys(source):
    return [source.key(index) for index in range(len(source))]


def test_splits_share_out_every_sample(root):
    train, test = WebDataset(root, "train"), WebDataset(root, "test")
    assert isinstance(train, Source)
    assert sorted(keys(train) + keys(test)) == sorted(
        f"{shard:05d}/{key}" for shard, count in enumerate((20, 5, 15, 20))
        for key, _ in samples(shard, count)
    )  # fmt: skip
    assert 1 <= len(test) <= 15
    assert train.notes == (
        f"{len(train)} of 60 images of 4 shards, by a hash of their keys, about 9 to 1",
    )
    assert scan(train, progress=False).ok and scan(test, progress=False).ok


def test_a_sample_is_what_was_written(root):
    train = WebDataset(root, "train")
    for index in (0, 7, len(train) - 1):
        shard, key = train.key(index).split("/")
        number = 100 * int(shard) + int(key[-4:])
        assert train.captions(index) == (f"ein schöner Vogel {number}",)
        expected = to_square(open_rgb(io.BytesIO(picture(number))), 16, None)
        assert torch.equal(train.pixels(index, 16), expected)
    assert "schöner" in build_vocabulary(train)


def test_shards_of_the_webdataset_library(tmp_path):
    library = pytest.importorskip("webdataset")
    with library.ShardWriter(f"file:{tmp_path}/%05d.tar", maxcount=16, verbose=0) as sink:
        for key, parts in samples(3, 40):
            sink.write({"__key__": key, **parts})
    assert len(list(tmp_path.glob("*.tar"))) == 3
    sources = [WebDataset(tmp_path, split) for split in ("train", "test")]
    ours = {source.key(i).split("/")[1]: source.captions(i) for source in sources
            for i in range(len(source))}  # fmt: skip
    urls = sorted(f"file:{path}" for path in tmp_path.glob("*.tar"))
    theirs = library.WebDataset(urls, shardshuffle=False)
    assert ours == {s["__key__"]: (s["txt"].decode().strip(),) for s in theirs}


def test_the_index_is_kept_and_made_anew(root, monkeypatch):
    first = keys(WebDataset(root, "train"))
    assert (root / KEPT).exists()
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", None)
        assert keys(WebDataset(root, "train")) == first
    write_shard(root / "00001.tar", samples(1, 9))
    assert len(keys(WebDataset(root, "train")) + keys(WebDataset(root, "test"))) == 64
    (root / KEPT).write_bytes((root / KEPT).read_bytes()[:200])
    assert len(keys(WebDataset(root, "train")) + keys(WebDataset(root, "test"))) == 64
    assert not [path for path in root.iterdir() if path.suffix not in (".tar", ".json", ".parquet")
                and path.name != KEPT]  # fmt: skip


def test_a_folder_that_cannot_be_written_needs_no_index(root, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(np, "savez", refuse)
    assert len(WebDataset(root, "train")) > 40
    assert not (root / KEPT).exists()


def test_folders_or_a_list_of_shards_say_the_split(root, tmp_path):
    (tmp_path / "test.txt").write_text("00001.tar\n00003.tar\n")
    test = WebDataset(root, "test", split_file=tmp_path / "test.txt")
    assert {key[:5] for key in keys(test)} == {"00001", "00003"} and len(test) == 25
    (tmp_path / "bad.txt").write_text("00009.tar\n")
    with pytest.raises(DataError, match=r"bad\.txt lists shards .* has not: \['00009\.tar'\]"):
        WebDataset(root, "test", split_file=tmp_path / "bad.txt")
    for split, shard in (("train", 0), ("test", 1)):
        write_shard(tmp_path / "parted" / split / "00000.tar", samples(shard, 3))
    data = DataConfig(name="webdataset", root=str(tmp_path / "parted"))
    assert open_source(data, "test").captions(0) == ("ein schöner Vogel 100",)
    assert len(open_source(data, "train")) == 3


def test_an_epoch_shows_every_image_once_shards_at_random_within_the_buffer(root):
    train = WebDataset(root, "train", buffer=8)
    orders = [train.order(torch.Generator().manual_seed(seed)) for seed in range(3)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(len(train)))
        shards = train.index.shard[train.chosen][order.numpy()]
        runs = [len(set(shards[start : start + 8])) for start in range(0, len(train), 8)]
        assert max(runs) <= 3, "eight images that follow each other lie in few shards"
    assert len({tuple(order.tolist()) for order in orders}) == 3
    rng = torch.Generator()
    whole = WebDataset(root, "train", buffer=0).order(rng.manual_seed(0))
    assert torch.equal(whole, torch.randperm(len(train), generator=rng.manual_seed(0)))


def batches(source, count, **options):
    words = build_vocabulary(source)
    settings = {"size": 16, "max_words": 4, "batch_size": 4, "seed": 1} | options
    return list(islice(training_loader(source, words, **settings), count))


def test_resumed_at_a_sample_by_any_processes_and_ranks(root):
    train = WebDataset(root, "train", buffer=8)
    whole = batches(train, 30)
    for start, workers in ((0, 2), (7, 0), (20, 1)):
        part = batches(train, 30 - start, start_batch=start, workers=workers)
        for mine, theirs in zip(part, whole[start:], strict=True):
            assert mine.keys == theirs.keys and torch.equal(mine.images, theirs.images)
            assert torch.equal(mine.captions, theirs.captions)
    ranks = [batches(train, 10, batch_size=2, rank=rank, world=2) for rank in range(2)]
    for number in range(10):
        for rank in range(2):
            assert ranks[rank][number].keys == whole[number].keys[rank::2]


def test_it_pickles_and_has_a_fingerprint(root):
    train = WebDataset(root, "train")
    again = pickle.loads(pickle.dumps(train))
    assert again.fingerprint == train.fingerprint and again.captions(3) == train.captions(3)
    assert WebDataset(root, "test").fingerprint != train.fingerprint
    write_shard(root / "00004.tar", samples(4, 2))
    assert WebDataset(root, "train").fingerprint != train.fingerprint


def test_strange_samples(tmp_path):
    image = picture(0)
    write_shard(tmp_path / "train" / "0.tar", [
        ("json", {"png": picture(1, "png"), "json": b'{"caption": ["one", "two"]}'}),
        ("none", {"jpg": image}),
        ("bomb", {"jpg": image, "json": b"[" * 100_000}),
        ("latin", {"jpg": image, "txt": "schön".encode("latin1")}),
        ("alone", {"txt": b"no image"}),
        ("a/dir", {"JPG": image, "txt": b"below"}),
        ("broken", {"jpg": image[:300], "txt": b"cut"}),
        ("ps", {"jpg": b"%!PS-Adobe-3.0", "txt": b"ps"}),
    ])  # fmt: skip
    (tmp_path / "test").mkdir()
    train = WebDataset(tmp_path, "train")
    assert keys(train) == [f"0/{k}" for k in ("json", "none", "bomb", "latin", "a/dir", "broken",
                                              "ps")]  # fmt: skip
    assert [train.captions(n) for n in range(5)] == [("one", "two"), (), (), (), ("below",)]
    report = scan(train, progress=False)
    assert report.counts == {"missing captions": 3, "broken image": 2}
    assert keys(report.skip()) == ["0/json", "0/a/dir"]
    assert sorted(report.skip().order(torch.Generator()).tolist()) == [0, 1]
    with pytest.raises(DataError, match=r"image 0/broken of .* cannot be read .*--skip-broken"):
        train.pixels(5, 16)


def test_broken_images_beyond_the_scan_give_way_to_the_next(tmp_path, caplog):
    content = [("a", {"jpg": picture(0)[:200], "txt": b"red"}), ("b", {"txt": b"red", "jpg": b""})]
    write_shard(tmp_path / "train" / "0.tar", [*content, *samples(1, 2)])
    (tmp_path / "test").mkdir()
    train = WebDataset(tmp_path, "train", buffer=0)
    words, settings = build_vocabulary(train), {"size": 16, "max_words": 4, "seed": 0}
    with pytest.raises(DataError, match="image 0/a of"):
        TrainingView(train, words, **settings)[0, 5]
    view = TrainingView(train, words, **settings, skip_broken=True)
    assert view[0, 5].key == view[1, 5].key == "0/000010000"
    assert torch.equal(view[0, 5].image, view[2, 5].image)
    assert "left out: image 0/a of" in caplog.text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:3000]), "cannot be read"),
        (lambda path: path.write_bytes(b"\x1f\x8b" + bytes(1000)), "compressed shards"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "no regular file"),
        (lambda path: (path.unlink(), path.mkdir()), "no regular file"),
    ],
    ids=["cut", "gzip", "pipe", "folder"],
)
def test_damaged_shards_are_named(root, damage, message):
    damage(root / "00002.tar")
    with pytest.raises(DataError, match=rf"00002\.tar.*{message}"):
        WebDataset(root, "train")


def test_no_shards_are_said(tmp_path):
    with pytest.raises(DataError, match=r"has no shards \(\*\.tar\)"):
        WebDataset(tmp_path, "train")


def test_a_scan_of_many_looks_at_some(root, monkeypatch):
    monkeypatch.setattr("baselines.data.webdataset.SCANNED", 10)
    train = WebDataset(root, "train")
    report = scan(train, progress=False)
    assert report.captions == 10 and "10 of them, evenly spread, checked" in report.summary()
