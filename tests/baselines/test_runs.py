"""Opening a run directory: who may, from which checkpoint, and on what data."""

import json
import logging
import multiprocessing
import os
import subprocess
import sys
import time

import pytest
import torch

from baselines.config import Config, ConfigError
from baselines.data import Vocabulary
from baselines.data.scenes import Scenes
from baselines.errors import UserError
from baselines.runs import load_encoders, load_run
from baselines.start import newest_state, origin, require_same_origin
from baselines.training.checkpoint import (
    CheckpointError,
    checkpoints,
    load_torch,
    note_unsealed,
    save_checkpoint,
)
from baselines.training.distributed import pick_device
from baselines.training.lock import LOCK, RunInUseError, locked
from tests.support.paths import ROOT
from tests.support.tiny_run import make_tiny_run

WORDS = Vocabulary(["red", "bird"])
EMPTY = {"networks": {}, "optimizers": {}, "scaler": {}, "rng": {}, "config": {}}


def save(run, images, **changed):
    state = EMPTY | {"vocabulary": WORDS.to_dict(), "progress": {"step": 1, "images": images}}
    return save_checkpoint(run, images, {**state, **changed}, keep=9)


def newest(run, **options):
    return newest_state(Config(), run, WORDS, **options)


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def test_a_damaged_checkpoint_names_the_one_before_it(tmp_path):
    save(tmp_path, 8)
    last = save(tmp_path, 16)
    flip(last, -300)
    with pytest.raises(CheckpointError) as raised:
        newest(tmp_path)
    text = str(raised.value)
    assert last.name in text and "damaged" in text
    assert "--resume previous goes on from checkpoint-0000000008.pt" in text
    assert newest(tmp_path, resume="previous")["progress"]["images"] == 8
    save(tmp_path, 12)
    assert [path.name for path in checkpoints(tmp_path)] == [
        "checkpoint-0000000008.pt", "checkpoint-0000000012.pt"
    ]  # fmt: skip
    assert (tmp_path / f"{last.name}.superseded").exists()


def test_no_byte_of_the_newest_checkpoint_flips_unnoticed(tmp_path):
    save(tmp_path, 8)
    last = save(tmp_path, 16)
    whole = last.read_bytes()
    places = [*range(0, len(whole), len(whole) // 60), *range(len(whole) - 120, len(whole))]
    for place in places:
        flip(last, place)
        with pytest.raises(CheckpointError, match=last.name):
            newest(tmp_path)
        last.write_bytes(whole)


def test_what_a_checkpoint_says_counts_not_its_name(tmp_path):
    first, second = save(tmp_path, 8), save(tmp_path, 16)
    spare = tmp_path / "spare"
    first.rename(spare)
    second.rename(first)
    spare.rename(second)
    assert newest(tmp_path)["progress"]["images"] == 16
    assert checkpoints(tmp_path)[-1] == first


def test_ten_digits_and_the_nine_of_earlier_versions(tmp_path):
    old = save(tmp_path, 999_999_999).rename(tmp_path / "checkpoint-999999999.pt")
    new = save(tmp_path, 1_000_000_004)
    huge = save(tmp_path, 123_456_789_012)
    assert checkpoints(tmp_path) == [old, new, huge]


@pytest.mark.parametrize("section", ["networks", "rng", "vocabulary", "config", "progress"])
def test_a_checkpoint_without_a_section_is_named(section, tmp_path):
    save(tmp_path, 8)
    path = save(tmp_path, 16)
    state = load_torch(path)
    del state[section]
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=rf"{path.name}: .*{section} missing.*previous"):
        newest(tmp_path)


def test_there_may_be_no_previous_one(tmp_path):
    assert newest(tmp_path) is None
    path = save(tmp_path, 8)
    with pytest.raises(CheckpointError, match="no previous checkpoint"):
        newest(tmp_path, resume="previous")
    flip(path, 100)
    with pytest.raises(CheckpointError, match="another --run-dir to start anew"):
        newest(tmp_path)


def test_torch_is_not_quoted_with_its_advice(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.getcwd, ()

    torch.save({"networks": Evil()}, tmp_path / "bad.pt")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    for name in ("bad.pt", "junk.pt"):
        with pytest.raises(CheckpointError) as raised:
            load_torch(tmp_path / name)
        text = str(raised.value)
        assert "weights_only" not in text and "torch.load" not in text and "\n" not in text
    with pytest.raises(CheckpointError, match=r"bad\.pt: .*getcwd"):
        load_torch(tmp_path / "bad.pt")


def test_files_without_checksums_open_and_are_mentioned_once(tmp_path, caplog):
    make_tiny_run(tmp_path)
    state = load_torch(tmp_path / "encoders.pt")
    torch.save(state, tmp_path / "encoders.pt")
    note_unsealed.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            load_run(tmp_path)
    assert [r.getMessage() for r in caplog.records if "without checksums" in r.getMessage()] == [
        caplog.records[0].getMessage()
    ]


@pytest.mark.parametrize("section", ["text", "image", "vocabulary", "encoder"])
def test_a_file_of_encoders_without_a_section_is_named(section, tmp_path):
    make_tiny_run(tmp_path)
    state = load_torch(tmp_path / "encoders.pt")
    for value in (None, 3, {"a": 1}):
        torch.save(state | {section: value}, tmp_path / "encoders.pt")
        with pytest.raises(UserError) as raised:
            load_encoders(tmp_path)
        assert "\n" not in str(raised.value)


def test_other_data_and_other_encoders_are_refused_by_name(tmp_path):
    before = {"origin": {"training data": "2 images, ab", "encoders": "cd"}}
    require_same_origin(before, before["origin"], tmp_path)
    require_same_origin(None, before["origin"], tmp_path)
    require_same_origin({}, before["origin"], tmp_path)
    with pytest.raises(ConfigError, match="training data: 2 images, ab in the run, 1 images, x"):
        require_same_origin(before, {"training data": "1 images, x", "encoders": "cd"}, tmp_path)
    with pytest.raises(ConfigError, match="encoders: cd in the run, other now"):
        require_same_origin(
            before, {"training data": "2 images, ab", "encoders": "other"}, tmp_path
        )


def test_fingerprints_follow_the_content(tmp_path):
    encoders = load_encoders(make_tiny_run(tmp_path / "a"))
    again = load_encoders(make_tiny_run(tmp_path / "b"))
    assert encoders.fingerprint == again.fingerprint
    with torch.no_grad():
        next(again.text.parameters()).view(-1)[0] += 1e-3
    assert encoders.fingerprint != again.fingerprint
    data = [Scenes("train", images=images, max_objects=1) for images in (6, 6, 5)]
    first, same, fewer = (origin(source)["training data"] for source in data)
    assert first == same != fewer


def hold(run, seconds):
    with locked(run):
        time.sleep(seconds)


def test_a_second_training_is_told_who_is_there(tmp_path):
    run = tmp_path / "run"
    with locked(run):
        program = "from pathlib import Path; from baselines.training.lock import locked\n"
        program += f"with locked(Path({str(run)!r})): pass"
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert f"RunInUseError: {run}: in use by process {os.getpid()} on " in done.stderr
    assert not run.exists()


def test_a_killed_owner_leaves_no_lock_and_is_named(tmp_path, caplog):
    process = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path, 1000))
    process.start()
    while not (tmp_path / LOCK).exists() or not (tmp_path / LOCK).read_text():
        time.sleep(0.02)
    with (
        pytest.raises(RunInUseError, match=f"in use by process {process.pid} on"),
        locked(tmp_path),
    ):
        pass
    process.kill()
    process.join()
    left = tmp_path / f".x.pt.{process.pid}.partial"
    left.write_bytes(b"half")
    with caplog.at_level(logging.INFO), locked(tmp_path):
        assert f"process {process.pid} on" in caplog.text
        assert not left.exists()
        assert json.loads((tmp_path / LOCK).read_text())["owner"].startswith(
            f"process {os.getpid()} on"
        )


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    context = multiprocessing.get_context("fork")
    with locked(tmp_path):
        child = context.Process(target=time.sleep, args=(1000,))
        child.start()
    with locked(tmp_path):
        pass
    child.kill()
    child.join()


def test_a_directory_made_for_nothing_is_removed(tmp_path):
    with pytest.raises(UserError), locked(tmp_path / "a" / "b"):
        raise UserError("refused")
    assert os.listdir(tmp_path) == []
    with locked(tmp_path / "a"):
        (tmp_path / "a" / "file").write_text("kept")
    assert (tmp_path / "a" / "file").exists()


@pytest.mark.parametrize("name", ["foo", "cuda:99", "meta", "", "cpu:x"])
def test_a_device_that_is_not_here_is_one_line(name):
    with pytest.raises(UserError, match="does not exist here, only cpu") as raised:
        pick_device(name)
    assert "\n" not in str(raised.value)
