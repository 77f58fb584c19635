"""Kills, full disks, damage and signals in numbers: `pytest -m battery -s` prints the figures.

The suite runs a sample of each.
"""

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from baselines.cli import one_line
from baselines.config import Config, from_dict, load_config, to_dict
from baselines.errors import UserError
from baselines.runs import load_run
from baselines.start import newest_state
from baselines.training.checkpoint import CheckpointError, checkpoints, load_torch, save_checkpoint
from baselines.training.lock import locked
from baselines.training.stats import read_stats
from tests.baselines.commands import differences
from tests.support.tiny_run import make_tiny_run
from tests.support.toy_training import Samples, train_toy

FORK = multiprocessing.get_context("fork")
STEPS = 40


def sizes(sample, whole):
    """A sample for every run of the suite, the whole for the battery."""
    marks = [pytest.mark.battery, pytest.mark.timeout(1800)]
    return pytest.mark.parametrize("count", [sample, pytest.param(whole, marks=marks)])


def newest(run):
    """The newest checkpoint, which must be whole, or None."""
    found = checkpoints(run)
    return load_torch(found[-1]) if found else None


def go_on(run, seconds=0.0, steps=STEPS, limit=None):
    """Train on from the newest checkpoint, saving after every step."""
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    samples = Samples(seconds=seconds)
    try:
        with locked(run):
            train_toy(run, steps, samples=samples, saved=newest(run), checkpoint_every=1)
    except OSError as error:
        assert "File too large" in one_line(error) and str(run) in one_line(error)
        sys.exit(2)


def child(run, **options):
    process = FORK.Process(target=go_on, args=(run,), kwargs=options)
    process.start()
    return process


@sizes(3, 100)
def test_kills_lose_nothing(count, tmp_path):
    rng = random.Random(0)
    train_toy(tmp_path / "whole", STEPS)
    run = tmp_path / "run"
    killed = before = 0
    while killed < count:
        process = child(run, seconds=0.003)
        time.sleep(rng.uniform(0.0, 0.6))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        state = newest(run)
        at = 0 if state is None else state["progress"]["step"]
        assert at >= before, "a saved step was lost"
        before = at
        if at == STEPS:
            shutil.rmtree(run)
            before = 0
    go_on(run)
    assert not list(run.glob(".*.partial"))
    final, whole = newest(run), newest(tmp_path / "whole")
    assert differences(final["networks"], whole["networks"]) == []
    print(f"\nkills: {killed} × SIGKILL, no saved step lost, resumed bit for bit")


@sizes(4, 60)
def test_a_disk_that_is_full_at_any_size_loses_nothing(count, tmp_path):
    run, outcomes = tmp_path / "run", Counter()
    go_on(run, steps=2)
    for number in range(count):
        limit = 200 + number * 16000 // count
        process = child(run, limit=limit, steps=newest(run)["progress"]["step"] + 1)
        process.join()
        assert process.exitcode in (0, 2)
        outcomes["stopped" if process.exitcode else "trained on"] += 1
        state = newest(run)
        assert state["progress"]["step"] >= 2 and read_stats(run / "stats.jsonl") is not None
        assert not list(run.glob(".*.partial"))
    assert outcomes["stopped"] and outcomes["trained on"]
    print(f"\nfull disk at {count} sizes: {dict(outcomes)}, newest checkpoint always whole")


@pytest.mark.battery
def test_a_real_disk_that_is_full_is_one_line(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)],
        capture_output=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        with pytest.raises(OSError, match="No space left on device") as raised:
            for images in range(1000):
                state = {"weights": torch.zeros(1000)}
                save_checkpoint(disk, images, state, keep=1000)
        assert "checkpoint-" in str(raised.value.filename)
        assert checkpoints(disk) and load_torch(checkpoints(disk)[-1])
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@sizes(4, 60)
def test_signals_at_any_moment_save(count, tmp_path):
    rng, outcomes = random.Random(1), Counter()
    for number in range(count):
        run = tmp_path / str(number)
        process = child(run, seconds=0.003, steps=10**6)
        while not checkpoints(run):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.2))
        names = rng.choices([signal.SIGTERM, signal.SIGINT, signal.SIGHUP], k=rng.choice([1, 2]))
        for name in names:
            os.kill(process.pid, name)
        process.join(60)
        assert process.exitcode is not None
        outcomes[f"{len(names)} signals, status {process.exitcode}"] += 1
        assert process.exitcode == 0 or len(names) == 2
        assert newest(run)["progress"]["step"] == read_stats(run / "stats.jsonl")[-1]["step"] or (
            len(names) == 2
        )
    print(f"\nsignals: {dict(outcomes)}")


def damaged(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    """One accident that happens to files."""
    kind = rng.choice(["flip", "byte", "cut", "zeros", "lost", "doubled", "appended"])
    place, length = rng.randrange(len(data)), rng.randrange(1, 512)
    block = data[place : place + length]
    if kind == "flip":
        return kind, data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
    if kind == "byte":
        return kind, data[:place] + rng.randbytes(1) + data[place + 1 :]
    if kind == "cut":
        return kind, data[:place]
    if kind == "zeros":
        return kind, data[:place] + bytes(len(block)) + data[place + length :]
    if kind == "lost":
        return kind, data[:place] + data[place + length :]
    if kind == "doubled":
        return kind, data[: place + length] + block + data[place + length :]
    return kind, data + rng.randbytes(length)


@sizes(60, 2000)
def test_damage_is_always_noticed(count, tmp_path):
    rng, cases = random.Random(2), Counter()
    run = make_tiny_run(tmp_path / "run")
    vocabulary = load_run(run).encoders.vocabulary
    parts = {"networks": {"a": torch.rand(400)}, "optimizers": {}, "scaler": {}, "rng": {}}
    parts |= {"config": {}, "vocabulary": vocabulary.to_dict(), "progress": {"images": 4}}
    paths = [save_checkpoint(run, 4, parts, keep=9)]
    paths += [run / name for name in ("config.json", "vocabulary.json", "encoders.pt")]
    paths.append(run / "generator.safetensors")
    originals = {path: path.read_bytes() for path in paths}
    while sum(cases.values()) < count:
        path = rng.choice(paths)
        kind, data = damaged(originals[path], rng)
        if data == originals[path]:
            continue
        path.write_bytes(data)
        with pytest.raises(UserError) as raised:
            newest_state(Config(), run, vocabulary) if path is paths[0] else load_run(run)
        assert path.name in str(raised.value), (path, kind, str(raised.value))
        path.write_bytes(originals[path])
        cases[kind] += 1
    load_run(run)
    print(f"\ndamage: {count} cases in {len(paths)} kinds of file, all noticed: {dict(cases)}")


def mutated(value, rng: random.Random, depth: int = 0):
    """A JSON value with something in it replaced by what nobody expects."""
    strange = [None, -1, 0, 10**40, 1e308, "", "x" * 1000, [], {}, [[]], True, "\u0000", {"a": {}}]
    if not isinstance(value, dict) or not value or rng.random() < 0.15:
        return rng.choice(strange)
    key = rng.choice(sorted(value))
    changed = dict(value)
    if rng.random() < 0.2:
        changed[key + "x"] = changed.pop(key)
    else:
        changed[key] = mutated(value[key], rng, depth + 1)
    return changed


@sizes(60, 2000)
def test_strange_configurations_and_logs_are_user_errors_or_fine(count, tmp_path):
    rng, outcomes = random.Random(3), Counter()
    path = tmp_path / "config.json"
    for _ in range(count):
        content = mutated(to_dict(Config()), rng)
        path.write_text(json.dumps(content))
        try:
            config = load_config(path)
            assert from_dict(Config, to_dict(config)) == config
            outcomes["read"] += 1
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000
            outcomes["refused"] += 1
        log = tmp_path / "stats.jsonl"
        log.write_bytes(damaged(b'{"step": 1, "x": 0.5}\n{"step": 2, "x": 0.25}\n', rng)[1])
        try:
            read_stats(log)
        except UserError as error:
            assert "stats.jsonl: line" in str(error)
    print(f"\nconfigurations: {count} strange ones: {dict(outcomes)}")


@sizes(20, 500)
def test_strange_checkpoints_are_refused_in_one_line(count, tmp_path):
    rng = random.Random(4)
    train_toy(tmp_path, 2)
    saved = load_torch(checkpoints(tmp_path)[-1])
    refused = 0
    for _ in range(count):
        state = dict(saved)
        name = rng.choice(["networks", "optimizers", "scaler", "progress", "rng"])
        state[name] = mutated(state[name], rng)
        try:
            train_toy(Path(tmp_path / "again"), 2, saved=state)
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused
    print(f"\ncheckpoints: {count} with a strange part, {refused} refused, the rest harmless")
