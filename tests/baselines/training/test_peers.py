"""Ranks that start alike, share every step whatever their number, and end together."""

import signal
import time

import pytest
import torch

from baselines.errors import UserError
from baselines.training.checkpoint import checkpoints, load_torch
from baselines.training.distributed import World, share_of_batch
from tests.support.ranks import finish, start_ranks
from tests.support.toy_training import train_toy


def wait_for_steps(run, ranks):
    stats = run / "stats.jsonl"
    end = time.monotonic() + 120
    while not (stats.exists() and stats.read_text()) and time.monotonic() < end:
        assert all(rank.poll() is None for rank in ranks), finish(ranks)
        time.sleep(0.05)


def networks(run):
    return load_torch(checkpoints(run)[-1])["networks"]


def assert_equal_networks(first, second):
    for name, network in networks(first).items():
        for key, value in networks(second)[name].items():
            torch.testing.assert_close(network[key], value, atol=1e-9, rtol=1e-9)


def test_another_number_of_ranks_goes_on_with_the_same_steps(tmp_path):
    train_toy(tmp_path / "one", 6, batch_size=8)
    train_toy(tmp_path / "many", 2, batch_size=8)
    for rank in finish(start_ranks(tmp_path / "many", 2, 4)):
        assert rank[0] == 0, rank[1]
    assert load_torch(checkpoints(tmp_path / "many")[-1])["progress"] == {"step": 4, "images": 32}
    saved = load_torch(checkpoints(tmp_path / "many")[-1])
    train_toy(tmp_path / "many", 6, batch_size=8, saved=saved)
    assert_equal_networks(tmp_path / "one", tmp_path / "many")


def test_ranks_that_differ_are_named(tmp_path):
    prepare = 'world.require_same({"optim.g_lr": 0.1 + rank, "code": "same"})'
    results = finish(start_ranks(tmp_path, 2, 3, prepare=prepare))
    assert [status for status, _ in results] == [2, 2]
    (line,) = [text for _, text in results if "error" in text]
    assert "optim.g_lr: 1.1 on rank 1" in line and "0.1 on rank 0" in line and "code" in line
    assert not checkpoints(tmp_path)


def test_a_data_error_on_one_rank_ends_all_with_its_message(tmp_path):
    prepare = "samples = Samples(broken=41)"  # position 41 is of rank 1
    results = finish(start_ranks(tmp_path, 2, 100, prepare=prepare))
    assert [status for status, _ in results] == [2, 2]
    assert [text for _, text in results] == [
        "", "error: images/41.jpg cannot be read: mend it or leave it out\n"
    ]  # fmt: skip


def test_a_dead_rank_ends_the_job_and_is_named(tmp_path):
    ranks = start_ranks(tmp_path, 2, 10**6, prepare="samples = Samples(seconds=0.01)")
    wait_for_steps(tmp_path, ranks)
    ranks[1].kill()
    ranks[1].wait()
    (status, text), _ = finish(ranks, timeout=60)
    assert status == 2 and f"rank 1 (process {ranks[1].pid} on " in text and "has died" in text
    assert text.count("error: ") == 1


def test_a_signal_to_one_rank_stops_all_at_the_same_step(tmp_path):
    ranks = start_ranks(tmp_path, 2, 10**6, prepare="samples = Samples(seconds=0.01)")
    wait_for_steps(tmp_path, ranks)
    ranks[1].send_signal(signal.SIGTERM)
    assert [status for status, _ in finish(ranks)] == [0, 0]
    assert load_torch(checkpoints(tmp_path)[-1])["progress"]["step"] > 0


@pytest.mark.battery
@pytest.mark.parametrize("frozen", [0, 1, 3])
def test_a_frozen_rank_ends_the_job_within_a_minute(frozen, tmp_path):
    ranks = start_ranks(tmp_path, 4, 10**6, prepare="samples = Samples(seconds=0.01)")
    wait_for_steps(tmp_path, ranks)
    ranks[frozen].send_signal(signal.SIGSTOP)
    started = time.monotonic()
    others = [rank for number, rank in enumerate(ranks) if number != frozen]
    results = finish(others, timeout=60)
    assert time.monotonic() - started < 60
    ranks[frozen].kill()
    finish([ranks[frozen]])
    text = "".join(text for _, text in results)
    assert all(status == 2 for status, _ in results)
    assert f"rank {frozen} (process {ranks[frozen].pid}" in text
    # The first rank keeps the store here: without it the others cannot agree on who speaks.
    assert text.count("error: ") == (3 if frozen == 0 else 1)


@pytest.mark.battery
def test_a_rank_that_hangs_in_its_data_is_named(tmp_path):
    prepare = """
        class Stuck(Samples):
            def __getitem__(self, place):
                time.sleep(1000 if place[1] == 101 else 0.01)
                return super().__getitem__(place)
        samples = Stuck()
"""
    ranks = start_ranks(tmp_path, 4, 10**6, prepare=prepare)
    wait_for_steps(tmp_path, ranks)
    results = finish(ranks, timeout=100)
    text = "".join(text for _, text in results)
    assert all(status == 2 for status, _ in results)
    assert "rank 1 (process" in text and "hangs in reading the next batch" in text
    assert text.count("error: ") == 1


@pytest.mark.battery
def test_four_ranks_share_the_steps_of_one(tmp_path):
    train_toy(tmp_path / "one", 6, batch_size=8)
    for rank in finish(start_ranks(tmp_path / "four", 4, 6)):
        assert rank[0] == 0, rank[1]
    assert_equal_networks(tmp_path / "one", tmp_path / "four")


def test_a_step_that_cannot_be_shared_is_refused():
    assert share_of_batch(None, 5, 3, World(0, 4)) == 5
    assert share_of_batch({"batch": 12}, 5, 3, World(0, 2)) == 2
    with pytest.raises(UserError, match=r"12 images, which 5 ranks and .* do not share evenly"):
        share_of_batch({"batch": 12}, 5, 1, World(0, 5))
