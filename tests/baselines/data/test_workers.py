"""Loading processes: what they find wrong is one line, and nothing of them hangs a run."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import namedtuple
from itertools import islice
from multiprocessing import active_children, resource_sharer
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from baselines.data import workers
from baselines.data.loader import batch_bytes, training_loader
from baselines.data.source import DataError, to_floats
from baselines.data.vocabulary import Vocabulary
from baselines.data.workers import BatchLoader
from tests.baselines.data.makers import Toy

WORDS = Vocabulary.build(caption for index in range(7) for caption in Toy().captions(index))


class Numbers(Dataset):
    """0 ... 11; `act(number)` happens before one is handed out."""

    def __init__(self, act=lambda number: None):
        self.act = act

    def __len__(self):
        return 12

    def __getitem__(self, number):
        self.act(number)
        return number


def loader(act=lambda number: None, **options):
    settings = {"batch_size": 2, "collate": list, "finish": tuple, "batch_bytes": 100, "workers": 2}
    return BatchLoader(Numbers(act), **(settings | options))


def at(place, action):
    return lambda number: action() if number == place else None


def complain():
    raise DataError("image a.png cannot be read: mend it")


@pytest.fixture(autouse=True)
def nobody_is_left():
    yield
    assert not active_children()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_batches_come_in_order_and_are_finished(count):
    assert list(loader(workers=count)) == [(n, n + 1) for n in range(0, 12, 2)]
    assert len(loader(workers=count)) == 6


@pytest.mark.parametrize("count", [0, 2])
def test_what_the_user_can_mend_is_the_message_alone(count):
    batches = iter(loader(at(5, complain), workers=count))
    assert [next(batches), next(batches)] == [(0, 1), (2, 3)]
    with pytest.raises(DataError) as caught:
        next(batches)
    assert str(caught.value) == "image a.png cannot be read: mend it"


def test_a_bug_keeps_its_kind_and_traceback():
    with pytest.raises(ZeroDivisionError, match="Original Traceback"):
        list(loader(at(3, lambda: 1 / 0)))


def test_a_dead_process_is_told():
    with pytest.raises(DataError, match=r"a loading process died .*data\.workers"):
        list(loader(at(4, lambda: os.kill(os.getpid(), signal.SIGKILL))))


def test_a_process_that_is_dying_is_told(tmp_path):
    """Its connections close before the system counts it as dead; here half a second before."""
    closed = tmp_path / "closed"

    def die():
        resource_sharer._resource_sharer._listener.close()
        closed.touch()
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    batches = iter(loader(at(4, die), collate=torch.tensor, workers=1))
    assert next(batches) == (0, 1)
    while not closed.exists():
        time.sleep(0.01)
    # The next batch is ready, but its memory can no longer be asked for.
    with pytest.raises(DataError, match=r"a loading process died .*data\.workers"):
        next(batches)


def test_waiting_has_a_limit():
    with pytest.raises(DataError, match=r"no batch came from the 2 .* for 1 s: .*data\.workers=0"):
        list(loader(at(4, lambda: time.sleep(1000)), patience=1))


def test_a_signal_breaks_the_wait():
    def raising(number, frame):
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, raising)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(loader(at(0, lambda: time.sleep(1000))))
    finally:
        signal.signal(signal.SIGALRM, previous)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_signals_to_the_group_leave_the_processes_working(name):
    slow = loader(lambda number: time.sleep(0.05))
    seen = []
    for batch in slow:
        seen.append(batch)
        if len(seen) == 1:
            for process in active_children():
                os.kill(process.pid, getattr(signal, name))
    assert seen == [(n, n + 1) for n in range(0, 12, 2)]


def test_processes_end_with_a_loop_that_is_left():
    for _ in loader():
        assert active_children()
        break
    batches = iter(loader(at(9, lambda: time.sleep(1000))))
    next(batches)
    batches.close()


@pytest.mark.parametrize("last", ["sys.exit(3)", "os.kill(0, 15)"])
def test_a_run_that_ends_in_the_middle_ends(last):
    script = f"""
        import os, signal, sys, time
        from torch.utils.data import Dataset
        from baselines.data.workers import BatchLoader

        class Slow(Dataset):
            def __len__(self): return 1000
            def __getitem__(self, n):
                time.sleep(1000 if n == 7 else 0)
                return n

        signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
        kept = iter(BatchLoader(Slow(), batch_size=2, collate=list, finish=list, batch_bytes=9,
                                workers=2))
        next(kept)
        {last}
        time.sleep(1000)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], timeout=100, start_new_session=True
    )
    assert done.returncode == 3


def test_pixels_cross_as_bytes_and_become_the_same_floats():
    options = {"size": 4, "max_words": 5, "batch_size": 3, "seed": 3, "workers": 1}
    raw = training_loader(Toy(), WORDS, **options)
    raw.finish = lambda batch: batch
    floats = islice(training_loader(Toy(), WORDS, **options), 3)
    for sent, made in zip(islice(raw, 3), floats, strict=True):
        assert sent.images.dtype == torch.uint8 and made.images.dtype == torch.float32
        assert torch.equal(to_floats(sent.images), made.images)
        size = sum(t.untyped_storage().nbytes() for t in vars(sent).values() if torch.is_tensor(t))
        assert size <= batch_bytes(3, 4, 5)


@pytest.mark.parametrize(("ranks", "fits"), [(1, True), (2, False)])
def test_too_little_shared_memory_is_told_before_anything_starts(monkeypatch, ranks, fits):
    usage = namedtuple("usage", "total used free")
    # Five batches: two ahead for each of two processes, and the one in use.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 5 * 2**20))
    monkeypatch.setattr(workers, "SHARED_MEMORY", Path("/"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert len(list(loader(batch_bytes=2**20, workers=0))) == 6
    if fits:
        assert len(list(loader(batch_bytes=2**20))) == 6
        with pytest.raises(DataError, match=r"has 5 MiB free, and .* up to 10 MiB"):
            list(loader(batch_bytes=2**21))
    else:
        message = r"5 MiB free, .* 2 loading processes take up to 10 MiB.*workers=0.*--shm-size"
        with pytest.raises(DataError, match=message):
            list(loader(batch_bytes=2**20))
