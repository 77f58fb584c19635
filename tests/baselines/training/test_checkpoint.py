import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

from baselines.errors import UserError
from baselines.training.checkpoint import (
    CheckpointError,
    checkpoints,
    load_torch,
    load_weights,
    read_facts,
    save_checkpoint,
    save_torch,
    save_weights,
)
from baselines.training.stats import Means, NonFiniteError, StatsWriter, read_stats
from tests.support.paths import ROOT


def test_a_process_killed_while_saving_leaves_the_old_checkpoint(tmp_path):
    save_checkpoint(tmp_path, 10, {"value": torch.ones(3)}, keep=2)
    program = f"""
import os, signal, torch
from pathlib import Path
from baselines.training.checkpoint import save_checkpoint
class Deadly:
    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)
save_checkpoint(Path({str(tmp_path)!r}), 20, {{"big": torch.ones(10**6), "end": Deadly()}}, keep=1)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    (path,) = checkpoints(tmp_path)
    assert torch.equal(load_torch(path)["value"], torch.ones(3))


def test_only_the_newest_checkpoints_stay(tmp_path):
    for images in (5, 10, 15):
        save_checkpoint(tmp_path, images, {"images": images}, keep=2)
    assert [load_torch(path)["images"] for path in checkpoints(tmp_path)] == [10, 15]


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    torch.save({"networks": Touch(tmp_path / "ran")}, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match=r"bad\.pt"):
        load_torch(tmp_path / "bad.pt")
    assert not (tmp_path / "ran").exists()


def test_weights_round_trip_and_refuse_another_network(tmp_path):
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    save_weights(network, tmp_path / "w.safetensors", images=7)
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    load_weights(other, tmp_path / "w.safetensors")
    assert all(
        torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True)
    )
    with pytest.raises(CheckpointError, match="does not fit") as refused:
        load_weights(nn.Linear(3, 5), tmp_path / "w.safetensors")
    assert "weight is missing; bias is missing; 0.bias is unknown; and 6" in str(refused.value)
    for other_size, message in (
        (nn.Linear(3, 5), r"0\.weight has shape \(4, 3\), expected \(5, 3\); 0\.bias has shape"),
        (nn.Linear(3, 4).half(), r"0\.weight has dtype torch\.float32, expected torch\.float16; 0"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_weights(nn.Sequential(other_size, nn.BatchNorm1d(4)), tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_weights(other, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="no such file"):
        load_torch(tmp_path / "none.pt")
    save_torch({}, tmp_path / "ok.pt")
    assert load_torch(tmp_path / "ok.pt") == {}


def test_means_are_means_and_name_the_first_bad_step():
    means = Means()
    for step in range(1, 4):
        means.add(step, {"a": torch.tensor(float(step)), "b": torch.tensor(1.0)})
        means.add(step, {"c": torch.tensor(-1.0)})
    assert means.flush() == {"a": 2.0, "b": 1.0, "c": -1.0}
    assert means.flush() == {}
    means.add(4, {"a": torch.tensor(0.0), "b": torch.tensor(1.0)})
    means.add(5, {"a": torch.tensor(torch.inf), "b": torch.tensor(torch.nan)})
    means.add(6, {"a": torch.tensor(torch.nan), "b": torch.tensor(1.0)})
    with pytest.raises(NonFiniteError, match="step 5: a, b is not finite"):
        means.flush()


def test_resuming_a_log_drops_what_came_after_and_a_torn_line(tmp_path):
    writer = StatsWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write(step, {"x": step * 0.5})
    with open(tmp_path / "stats.jsonl", "a") as file:
        file.write('{"step": 4, "x"')
    assert [line["step"] for line in read_stats(tmp_path / "stats.jsonl")] == [1, 2, 3]
    StatsWriter(tmp_path, resume_step=2).write(3, {"x": 9.0})
    lines = (tmp_path / "stats.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines][-1] == {"step": 3, "x": 9.0} and len(lines) == 3


def test_pipes_in_a_run_directory_are_not_waited_for(tmp_path):
    for name in ("checkpoint-000000004.pt", "stats.jsonl"):
        os.mkfifo(tmp_path / name)
    assert read_facts(tmp_path / "checkpoint-000000004.pt") == {}
    with pytest.raises(UserError, match=r"stats\.jsonl: not a regular file"):
        read_stats(tmp_path / "stats.jsonl")
