"""What whoever watches a training sees of it, and who does not watch."""

import io
import logging
import re
import sys

import pytest
import torch

from baselines.training.distributed import World
from baselines.training.recorder import memory
from tests.support.toy_training import train_toy


class Screen(io.StringIO):
    """Standard error, as a terminal or a file."""

    def __init__(self, watched):
        super().__init__()
        self.watched = watched

    def isatty(self):
        return self.watched


@pytest.mark.parametrize("watched", [True, False])
def test_the_bar_is_for_terminals(watched, tmp_path, monkeypatch, caplog):
    screen = Screen(watched)
    monkeypatch.setattr(sys, "stderr", screen)
    with caplog.at_level(logging.INFO):
        train_toy(tmp_path, 20, checkpoint_every=10)
    lines = [record.getMessage() for record in caplog.records if "saved" in record.getMessage()]
    if watched:
        last = screen.getvalue().rstrip().split("\r")[-1]
        assert re.fullmatch(
            r"training: 100%\|.*\| 80/80 \[\d+:\d+<00:00, .*img/s, [\d.]+ steps/s .*\]", last
        ), last
        assert not lines
    else:
        assert screen.getvalue() == ""
        assert lines == [f"step {n}, {4 * n} of 80 images: saved" for n in (10, 20)]


def test_memory_is_shown_where_a_gpu_has_some(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**29)
    assert memory(World(device=torch.device("cuda"))) == "1.5 GiB "
    assert memory(World()) == ""
