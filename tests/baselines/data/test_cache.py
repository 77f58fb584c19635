"""The cache of decoded images: the same pixels, of these images only, whatever happens to it."""

import errno
import fcntl
import json
import logging
import multiprocessing
import os
import pickle
import signal
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from baselines.config import Config, DataConfig, settings
from baselines.data import Vocabulary, open_source
from baselines.data import cache as caching
from baselines.data.cache import FOLDER, LOCK, cached, estimated
from baselines.data.files import FileSource
from baselines.data.loader import evaluation_loader, training_loader
from baselines.data.scan import scan
from baselines.data.source import DataError
from tests.baselines.data.makers import make_coco, make_cub, make_folder, write_image
from tests.baselines.data.test_webdataset import write_shard

FORK = multiprocessing.get_context("fork")
SIZE = 16
ROWS = [
    {"file_name": f"{n}.png", "text": [f"bird {n}", "a bird"], "class": n // 2} for n in range(6)
]
MAKERS = {
    "cub": make_cub,
    "coco": make_coco,
    "folder": lambda root: [make_folder(root / split, ROWS) for split in ("train", "test")],
}


@pytest.fixture
def data(tmp_path) -> DataConfig:
    """A folder of six images, with a cache beside it."""
    MAKERS["folder"](tmp_path / "data")
    return DataConfig(name="folder", root=str(tmp_path / "data"), cache=str(tmp_path / "cache"))


def filled(data, split="train", size=SIZE):
    return cached(open_source(data, split), data, size)


def images_of(source, size=SIZE):
    return [source.pixels(i, size, rng=torch.Generator().manual_seed(i)) for i in range(6)]


def files_in(data) -> list[str]:
    return sorted(path.name for path in Path(data.cache).iterdir() if path.name != LOCK)


def training_batches(source, count=6, **options):
    words = Vocabulary.build(c for i in range(len(source)) for c in source.captions(i))
    loader = iter(
        training_loader(source, words, size=SIZE, max_words=4, batch_size=2, seed=7, **options)
    )
    return [next(loader) for _ in range(count)]


def same(batches, others) -> bool:
    return all(
        torch.equal(one.images, other.images)
        and one.keys == other.keys
        and torch.equal(one.captions, other.captions)
        and (one.wrong_images is None or torch.equal(one.wrong_images, other.wrong_images))
        for one, other in zip(batches, others, strict=True)
    )


@pytest.fixture
def undecodable(monkeypatch):
    """Let decoding fail, once it is called."""

    def forbid():
        def decoded(self, index):
            raise AssertionError("decoded, although it is in the cache")

        monkeypatch.setattr(FileSource, "decoded", decoded)

    return forbid


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("where", ["auto", "elsewhere"])
def test_batches_are_the_same_to_the_bit_and_nothing_is_decoded(tmp_path, name, where, undecodable):
    MAKERS[name](tmp_path / "data")
    cache = where if where == "auto" else str(tmp_path / "deep" / where)
    data = DataConfig(name=name, root=str(tmp_path / "data"), cache=cache)
    plain = open_source(data, "train")
    options = {"wrong_images": True, "start_batch": 3}
    expected = training_batches(plain, **options)
    words = Vocabulary.build(plain.captions(0))
    held_out = {"size": SIZE, "max_words": 4, "batch_size": 2}
    shown = list(evaluation_loader(plain, words, **held_out))

    filled(data)
    folder = tmp_path / "data" / FOLDER if where == "auto" else Path(cache)
    assert any(path.suffix == ".pixels" for path in folder.iterdir())
    undecodable()
    source = filled(data)
    assert source.fingerprint == plain.fingerprint
    assert same(training_batches(source, **options), expected)
    assert same(training_batches(source, workers=2, **options), expected)
    assert same(list(evaluation_loader(source, words, **held_out)), shown)


def test_another_size_is_decoded_and_has_a_cache_of_its_own(data):
    source, plain = filled(data), open_source(data, "train")
    assert torch.equal(source.pixels(2, 24), plain.pixels(2, 24))
    assert torch.equal(filled(data, size=24).pixels(2, 24), plain.pixels(2, 24))
    filled(data, "test")
    assert len(files_in(data)) == 6


def test_a_changed_image_is_never_served_even_with_the_size_and_time_of_the_old_one(data):
    filled(data)
    path = Path(data.root) / "train" / "2.png"
    before = path.stat()
    write_image(path, seed=99)
    # Decoders pass over what follows the end of an image.
    path.write_bytes(path.read_bytes().ljust(before.st_size, b"\0"))
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    source = filled(data)
    assert source.cache is not None
    assert all(map(torch.equal, images_of(source), images_of(open_source(data, "train"))))
    assert len(files_in(data)) == 4


def test_other_captions_share_the_images_and_another_place_does_too(data, undecodable, tmp_path):
    filled(data)
    metadata = Path(data.root) / "train" / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace("a bird", "an auk"))
    moved = (tmp_path / "data").rename(tmp_path / "elsewhere")
    undecodable()
    there = DataConfig(name="folder", root=str(moved), cache=data.cache)
    images_of(filled(there))


def test_a_box_is_part_of_what_is_kept(data):
    filled(data)
    metadata = Path(data.root) / "train" / "metadata.jsonl"
    rows = [
        json.loads(line) | {"bbox": [2, 2, 20, 20]} for line in metadata.read_text().splitlines()
    ]
    metadata.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = filled(data)
    assert all(map(torch.equal, images_of(source), images_of(open_source(data, "train"))))


@pytest.mark.parametrize("what", ["VERSION", "PIL.__version__", "torchvision.__version__"])
def test_other_code_that_decodes_fills_it_anew(data, what, monkeypatch):
    filled(data)
    monkeypatch.setattr(f"baselines.data.cache.{what}", "another")
    filled(data)
    assert len(files_in(data)) == 4


def test_it_travels_to_other_processes(data, undecodable):
    source = filled(data)
    expected = images_of(source)
    undecodable()
    assert all(map(torch.equal, images_of(pickle.loads(pickle.dumps(source))), expected))


def flipped(path: Path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGE = {
    "flipped": flipped,
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "gone": Path.unlink,
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
}


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_what_is_damaged_while_it_is_read_is_decoded_with_a_warning(data, damage, caplog):
    source, plain = filled(data), open_source(data, "train")
    DAMAGE[damage](source.cache.path)
    for _ in range(2):
        assert all(map(torch.equal, images_of(source), images_of(plain)))
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert str(source.cache.path) in warning and "delete the file" in warning


@pytest.mark.parametrize("damage", ["cut", "gone", "longer"])
@pytest.mark.parametrize("suffix", ["", ".json"])
def test_what_is_damaged_at_the_start_is_filled_again(data, damage, suffix, caplog):
    path = filled(data).cache.path
    whole = path.read_bytes()
    damaged = Path(f"{path}{suffix}")
    DAMAGE[damage](damaged)
    source = filled(data)
    assert path.read_bytes() == whole
    assert all(map(torch.equal, images_of(source), images_of(open_source(data, "train"))))
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert bool(told) != (damage == "gone" and suffix == ".json")
    assert all(str(damaged) in line and "filled again" in line for line in told)


@pytest.mark.parametrize(
    "content",
    ["[]", '{"rows": 3}', '{"rows": [[1, 2]]}', '{"rows": []}', '{"rows": [[19, 25, 1e400]]}',
     '{"x": [["a", {}, null]]}'],
)  # fmt: skip
def test_an_index_of_something_else_is_no_index(data, content):
    path = filled(data).cache.path
    Path(f"{path}.json").write_text(content)
    assert all(map(torch.equal, images_of(filled(data)), images_of(open_source(data, "train"))))


def test_broken_images_keep_their_own_error_and_their_stand_ins(data):
    (Path(data.root) / "train" / "1.png").write_bytes(b"no image")
    (Path(data.root) / "train" / "4.png").unlink()
    plain = open_source(data, "train")
    source = filled(data)
    for index in (1, 4):
        with pytest.raises(DataError, match=rf"{index}\.png cannot be read"):
            source.pixels(index, SIZE)
    expected = training_batches(plain, skip_broken=True)
    assert same(training_batches(source, skip_broken=True), expected)
    part = scan(plain, progress=False).skip()
    assert same(training_batches(cached(part, data, SIZE)), training_batches(part))


def slowly(decoded):
    def wait(self, index):
        time.sleep(0.5)
        return decoded(self, index)

    return wait


def _fill(data, pipe=None):
    found = []
    decoded = FileSource.decoded
    FileSource.decoded = lambda self, index: (found.append(index), decoded(self, index))[1]
    images_of(filled(data))
    if pipe is not None:
        pipe.send(len(found))


def test_processes_at_once_decode_once(data, monkeypatch):
    monkeypatch.setattr(FileSource, "decoded", slowly(FileSource.decoded))
    pipes = [FORK.Pipe(duplex=False) for _ in range(3)]
    children = [FORK.Process(target=_fill, args=(data, theirs)) for _, theirs in pipes]
    for child in children:
        child.start()
    counts = sorted(mine.recv() for mine, _ in pipes if mine.poll(60))
    for child in children:
        child.join()
    assert counts == [0, 0, 6]


@pytest.mark.parametrize("stage", ["decoding", "written", "renamed", "indexing"])
def test_a_kill_leaves_nothing_that_is_read(data, stage, monkeypatch, tmp_path):
    """Killed while images are decoded, before and after the pixels are renamed, at the index."""
    plain = open_source(data, "train")
    expected = images_of(plain)

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    def victim():
        if stage == "decoding":
            FileSource.decoded = lambda self, index: die() if index == 4 else None
            caching.BLOCK = 1
        elif stage == "written":
            os.fsync = die
        elif stage == "renamed":
            caching.files.write_json = die
        else:
            caching.files._fill_in = die
        filled(data)

    child = FORK.Process(target=victim)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    left = [path for path in Path(data.cache).iterdir() if path.name.endswith(".partial")]
    assert bool(left) == (stage != "renamed")
    source = filled(data)
    assert source.cache is not None and all(map(torch.equal, images_of(source), expected))
    assert len(files_in(data)) == 2
    assert not any(path.exists() for path in left)


def test_images_that_change_while_they_are_decoded_make_no_cache(data, monkeypatch):
    decoded = FileSource.decoded

    def meddling(self, index):
        write_image(self.records[5].path, seed=77)
        return decoded(self, index)

    monkeypatch.setattr(FileSource, "decoded", meddling)
    with pytest.raises(DataError, match="folder: images have changed while they were decoded"):
        filled(data)
    assert not files_in(data)


Usage = namedtuple("Usage", "total used free")


def test_too_little_room_is_refused_before_anything_is_decoded(data, undecodable, monkeypatch):
    # Resized, 40 × 30 pixels are 25 × 19, estimated at 25.3.
    needed = estimated(open_source(data, "train"), data, SIZE).needed
    assert needed == pytest.approx(6 * 3 * 25 * 19, rel=0.02)
    undecodable()
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**6, 0, needed - 1))
    with pytest.raises(DataError, match=rf"data.cache={data.cache}: .* GiB free: free some space"):
        filled(data)
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"take about 3.15e\+10 GiB in .* leave data.cache out"):
        filled(data, size=10**9)
    assert not files_in(data)


def test_a_disk_that_fills_up_is_named_and_nothing_stays(data, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        filled(data)
    assert caught.value.filename.startswith(data.cache) and not files_in(data)


def test_a_folder_that_cannot_be_written_to_is_named(data, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OSError) as caught:
        filled(data)
    assert caught.value.filename == data.cache


def test_one_that_is_filled_needs_no_right_to_write(data, undecodable, monkeypatch):
    filled(data)
    undecodable()
    monkeypatch.setattr(caching, "_alone", None)
    images_of(filled(data))


def test_without_locks_each_process_fills_its_own(data, monkeypatch):
    def unsupported(handle, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", unsupported)
    assert filled(data).cache is not None


def test_it_can_be_filled_on_nfs(data, monkeypatch):
    """There an exclusive lock needs a file that is open for writing."""
    lock = fcntl.flock

    def strict(handle, how):
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return lock(handle, how)

    monkeypatch.setattr("fcntl.flock", strict)
    assert filled(data).cache is not None


@pytest.mark.parametrize("name", ["scenes", "webdataset"])
def test_data_without_image_files_are_refused_in_one_line(tmp_path, name):
    if name == "webdataset":
        content = [("0", {"jpg": write_image(tmp_path / "a.jpg").read_bytes(), "txt": b"a bird"})]
        for split in ("train", "test"):
            write_shard(tmp_path / split / "0.tar", content)
    data = DataConfig(name=name, root=str(tmp_path), cache=str(tmp_path / "cache"))
    with pytest.raises(DataError, match=rf"nothing to keep of {name}.*leave data.cache out"):
        filled(data)
    with pytest.raises(DataError, match=f"nothing to keep of {name}"):
        estimated(open_source(data, "train"), data, SIZE)
    assert not (tmp_path / "cache").exists()


def test_unless_it_is_to_be_filled_it_is_only_read(data):
    source = cached(open_source(data, "train"), data, SIZE, fill=False)
    assert source.cache is None and not Path(data.cache).exists()
    filled(data)
    assert cached(open_source(data, "train"), data, SIZE, fill=False).cache is not None


def test_a_run_may_go_on_with_another_cache():
    assert settings(Config)["data.cache"].resume
