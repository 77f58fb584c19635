"""A disk that fills up at any file of a run: one line that names it, and the run goes on later.

The suite runs a sample; `pytest -m battery -s` prints the figures of the whole.
"""

import io
import multiprocessing
import os
import random
import resource
import shutil
import subprocess
import sys
from collections import Counter

import pytest
import torch

from baselines import files, train
from baselines.cli import run_command
from baselines.runs import CONFIG
from baselines.training.checkpoint import checkpoints, load_torch
from baselines.training.lock import LOCK, locked
from tests.baselines.commands import differences, stats_of, train_command
from tests.baselines.test_battery import sizes

FORK = multiprocessing.get_context("fork")
STEPS = 6
OFTEN = ("run.checkpoint_every=2", "run.log_every=1", "run.keep=2")


def command(run, encoders):
    return train_command("attngan", run, encoders, STEPS, *OFTEN)


def _child(pipe, arguments, limit):
    sys.stderr = io.StringIO()
    torch.set_num_threads(1)  # the threads of the parent are not there
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    status = 0
    try:
        run_command(lambda _: train.main(arguments))
    except SystemExit as end:
        status = end.code
    pipe.send((status, sys.stderr.getvalue()))


def attempt(arguments, limit=resource.RLIM_INFINITY):
    """(exit status, standard error) of the command, whose files may have `limit` bytes."""
    mine, theirs = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_child, args=(theirs, arguments, limit))
    child.start()
    theirs.close()
    try:
        assert mine.poll(120), "hangs"
        return mine.recv()
    finally:
        child.kill()
        child.join()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, encoders):
    """A run that nothing disturbed; what it imports, no child needs to import again."""
    run, threads = tmp_path_factory.mktemp("whole") / "run", torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train.main(command(run, encoders))
    finally:
        torch.set_num_threads(threads)
    return run


def named_file(said, run):
    """The file of the run that the last line, an error, names."""
    line = said.splitlines()[-1]
    assert line.startswith(f"error: {run}") and "Traceback" not in said, said
    return line.removeprefix(f"error: {run}").split(":")[0].strip("/")


def require_whole_files(run):
    """Nothing half-written but the last line of the log, which is made to be cut short."""
    for path in run.rglob("*"):
        assert not path.name.endswith(".partial"), path
        if path.is_file() and path.suffix in files.SEALS:
            assert files.is_sealed(path), path
    assert not (run / LOCK).exists() or (run / LOCK).read_bytes() == b""


def require_same_end(run, whole):
    """What `whole` ends with, to the bit."""
    ends = [load_torch(checkpoints(one)[-1]) for one in (run, whole)]
    assert differences(*ends) == []
    assert stats_of(run) == stats_of(whole)
    assert (run / "generator.safetensors").read_bytes() == (
        whole / "generator.safetensors"
    ).read_bytes()


def limits(run, count):
    """Sizes of files at which one after the other of the run's no longer fits."""
    rng, largest = random.Random(5), checkpoints(run)[-1].stat().st_size
    edges = [30, largest - 1, 0, (run / CONFIG).stat().st_size - 1]
    others = (int(largest ** rng.uniform(0.4, 1)) - 1 for _ in range(count))
    return [*edges, *others][:count]


@sizes(2, 30)
def test_files_that_may_not_grow_stop_the_run_and_it_goes_on(count, tmp_path, encoders, whole):
    outcomes = Counter()
    for number, limit in enumerate(limits(whole, count)):
        run = tmp_path / str(number)
        status, said = attempt(command(run, encoders), limit)
        assert status == 2, (limit, said)
        outcomes[named_file(said, run)] += 1
        assert "File too large; raise the limit on the size of files" in said.splitlines()[-1]
        require_whole_files(run)
        status, said = attempt(command(run, encoders))
        assert status == 0, said
        require_same_end(run, whole)
        shutil.rmtree(run)
    assert outcomes[LOCK] and any(name.startswith("checkpoint-") for name in outcomes)
    print(f"\nfiles that may not grow: stopped at {dict(outcomes)}, all gone on with")


@sizes(2, 30)
def test_a_disk_that_fills_up_stops_the_run_and_it_goes_on(count, tmp_path, encoders, whole):
    disk, outcomes = tmp_path / "disk", Counter()
    used = sum(path.stat().st_blocks * 512 for path in whole.rglob("*") if path.is_file())
    for number in range(count):
        kilobytes = 4 + (used // 1024 - 4) * number // count
        mount(disk, kilobytes)
        try:
            run = disk / "run"
            status, said = attempt(command(run, encoders))
            assert status == 2, (kilobytes, said)
            outcomes[named_file(said, run)] += 1
            assert "No space left on device; free some space" in said.splitlines()[-1]
            require_whole_files(run)
            mount(disk, 100 * 1024, "remount,")
            status, said = attempt(command(run, encoders))
            assert status == 0, said
            require_same_end(run, whole)
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    print(f"\nfull disk: stopped at {dict(outcomes)}, all gone on with")


def mount(folder, kilobytes, how=""):
    """Put a small file system there, or change its size; skips where that is not allowed."""
    folder.mkdir(exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"{how}size={kilobytes}k", "tmpfs", str(folder)]
    if subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small tmpfs")


@pytest.mark.parametrize("free", [0, 30])
def test_a_lock_that_does_not_fit_names_its_file_and_leaves_nothing(free, tmp_path, monkeypatch):
    """Neither where nothing fits nor where a part does, which the system takes in silence."""
    left = [free]

    def pwrite(handle, data, place):
        taken = min(left[0], len(data))
        if not taken:
            raise OSError(28, "No space left on device")
        left[0] -= taken
        return real(handle, data[:taken], place)

    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OSError, match="No space left on device") as raised, locked(tmp_path / "a"):
        pass
    assert raised.value.filename == str(tmp_path / "a" / LOCK)
    assert os.listdir(tmp_path) == []
