"""What may happen to a training from outside, and what it must have saved by then."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from baselines.errors import UserError
from baselines.training.checkpoint import CheckpointError, NonFiniteError, checkpoints, load_torch
from baselines.training.recorder import Hook
from tests.support.paths import ROOT
from tests.support.toy_training import Samples, ToyObjective, train_toy

PROGRAM = """
import sys, time
from pathlib import Path
from baselines.console import guard_streams
guard_streams()
from baselines.training.recorder import Hook
from tests.support.toy_training import Samples, train_toy
hooks = [Hook(10**9, lambda step, images: {hook} or {{}})]
train_toy(
    Path(sys.argv[1]), 10**6, samples=Samples(seconds={seconds}), workers={workers}, hooks=hooks
)
"""


def once(name):
    """A hook that sends this process a signal the first time."""
    sent = []

    def hook(step, images):
        if not sent:
            sent.append(step)
            os.kill(os.getpid(), name)
        return {}

    return hook


def state(run):
    return load_torch(checkpoints(run)[-1])


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_after_the_step(name, tmp_path):
    handlers = [signal.getsignal(number) for number in (name, signal.SIGCHLD)]
    hook = Hook(3, once(name))
    progress = train_toy(tmp_path, 50, hooks=[hook])
    assert 3 <= progress.step <= 4
    assert state(tmp_path)["progress"]["step"] == progress.step
    assert [signal.getsignal(number) for number in (name, signal.SIGCHLD)] == handlers


def test_an_ignored_hangup_stays_ignored(tmp_path):
    usual = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        hook = Hook(3, once(signal.SIGHUP))
        assert train_toy(tmp_path, 9, hooks=[hook]).step == 9
    finally:
        signal.signal(signal.SIGHUP, usual)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_signal_breaks_the_wait_for_data(workers, tmp_path):
    class Stuck(Samples):
        def __getitem__(self, place):
            if place[1] >= 20:
                time.sleep(1000)
            return super().__getitem__(place)

    timer = threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    started = time.monotonic()
    progress = train_toy(tmp_path, 50, samples=Stuck(), workers=workers)
    assert progress.step == 5 == state(tmp_path)["progress"]["step"]
    assert time.monotonic() - started < 60


def test_the_checkpoint_comes_before_the_pictures_when_asked_to_stop(tmp_path):
    found = []

    def slow(step, images):
        found.append(len(checkpoints(tmp_path)))
        return {}

    hooks = [Hook(2, once(signal.SIGTERM))]
    train_toy(tmp_path, 50, hooks=[*hooks, Hook(1000, slow)])
    assert found == [1]


def test_a_data_error_is_its_own_line_and_loses_nothing(tmp_path):
    for workers in (0, 2):
        run = tmp_path / str(workers)
        with pytest.raises(UserError) as raised:
            train_toy(run, 50, samples=Samples(broken=30), workers=workers)
        assert str(raised.value) == "images/30.jpg cannot be read: mend it or leave it out"
        assert state(run)["progress"]["step"] == 7


def test_a_dead_worker_loses_nothing(tmp_path):
    class Deadly(Samples):
        def __getitem__(self, place):
            if place[1] == 30:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__getitem__(place)

    with pytest.raises(UserError, match=r"loading process died .*data\.workers") as raised:
        train_toy(tmp_path, 50, samples=Deadly(), workers=1)
    assert "\n" not in str(raised.value)
    assert state(tmp_path)["progress"]["step"] > 0


def running(run, workers=0, seconds=0.01, hook="{}", **options):
    program = PROGRAM.format(workers=workers, seconds=seconds, hook=hook)
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(run)], cwd=ROOT, start_new_session=True, **options
    )
    deadline = time.monotonic() + 120
    stats = run / "stats.jsonl"
    while not (stats.exists() and stats.read_text()) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("stderr", ["closed", "head"])
def test_sigterm_to_the_group_saves_even_with_nobody_listening(stderr, tmp_path):
    if stderr == "closed":
        process = running(tmp_path, workers=2, preexec_fn=lambda: os.close(2))
    else:
        process = running(tmp_path, workers=2, stderr=subprocess.PIPE)
        process.stderr.close()
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert state(tmp_path)["progress"]["step"] > 0
    assert not list(tmp_path.rglob("*.partial"))


def test_a_second_signal_ends_at_once(tmp_path):
    process = running(tmp_path, hook="time.sleep(1000)")
    process.send_signal(signal.SIGTERM)
    while not checkpoints(tmp_path):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == -signal.SIGTERM
    assert state(tmp_path)["progress"]["step"] > 0


def test_a_cancelled_job_is_a_stop_for_every_process_of_it(tmp_path):
    process = running(tmp_path, workers=2)
    ours = [int(pid) for pid in children_of(process.pid)]
    for pid in [*ours, process.pid]:  # the workers first
        os.kill(pid, signal.SIGTERM)
    assert len(ours) == 2 and process.wait(timeout=60) == 0
    assert state(tmp_path)["progress"]["step"] > 0


def children_of(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


class Exploding(ToyObjective):
    """Its loss is finite, and its weights after step 4 are not."""

    def after(self, number):
        if number == 4:
            with torch.no_grad():
                self.reader.weight[0, 0] = torch.inf


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    with pytest.raises(NonFiniteError, match=r"step 4: reader\.weight is not finite"):
        train_toy(tmp_path, 9, objective=Exploding(), checkpoint_every=1)
    assert state(tmp_path)["progress"]["step"] == 3
    saved = state(tmp_path)
    assert train_toy(tmp_path, 9, saved=saved).step == 9


def test_a_checkpoint_with_such_weights_is_refused(tmp_path):
    train_toy(tmp_path, 2)
    saved = state(tmp_path)
    saved["networks"]["scale"]["bias"][0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"step 2 .*scale\.bias; --resume previous"):
        train_toy(tmp_path, 4, saved=saved)


@pytest.mark.parametrize(
    "damage",
    [
        lambda saved: saved["networks"].pop("scale"),
        lambda saved: saved["optimizers"].clear(),
        lambda saved: saved["progress"].pop("step"),
        lambda saved: saved["rng"].pop("cpu"),
        lambda saved: saved.update(progress=3),
        lambda saved: saved["networks"]["scale"].update(weight=torch.zeros(3, 3)),
    ],
)
def test_a_checkpoint_without_a_part_is_one_line(damage, tmp_path):
    train_toy(tmp_path, 2)
    saved = state(tmp_path)
    damage(saved)
    with pytest.raises(CheckpointError, match="--resume previous") as raised:
        train_toy(tmp_path, 4, saved=saved)
    assert "\n" not in str(raised.value)


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path):
    whole, parts = ToyObjective(), ToyObjective()
    train_toy(tmp_path / "whole", 5, objective=whole, batch_size=8)
    train_toy(tmp_path / "parts", 5, objective=parts, batch_size=2, accumulate=4)
    for name, network in whole.networks.items():
        for a, b in zip(network.parameters(), parts.networks[name].parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)
    assert torch.equal(torch.cat(whole.seen[:1]), torch.cat(parts.seen[:4]))
    assert state(tmp_path / "parts")["progress"] == {"step": 5, "images": 40}


def test_accumulation_resumes_bit_exactly(tmp_path):
    options = {"batch_size": 2, "accumulate": 3}
    train_toy(tmp_path / "whole", 6, **options)
    train_toy(tmp_path / "parts", 3, **options)
    train_toy(tmp_path / "parts", 6, saved=state(tmp_path / "parts"), **options)
    a, b = state(tmp_path / "whole"), state(tmp_path / "parts")
    for name in a["networks"]:
        for key, value in a["networks"][name].items():
            assert torch.equal(value, b["networks"][name][key])
