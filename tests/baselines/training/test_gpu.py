"""The trainers on a CUDA device: `pytest -m gpu`."""

import pytest
import torch

from baselines.training.stats import read_stats
from tests.baselines.commands import differences, train_tiny

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("amp", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("model", ["alrgan", "dmgan"])
def test_trains_in_every_precision(model, amp, tmp_path, encoders):
    settings = ("run.device=cuda", f"optim.amp={amp}", "run.grid_every=4")
    train_tiny(model, tmp_path, encoders, 4, *settings, refine="alr,lvr")
    last = read_stats(tmp_path / "stats.jsonl")[-1]
    assert last["step"] == 4 and "G/stage1/style" in last


def test_resumes_bit_exactly(tmp_path, encoders, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    whole = train_tiny("attngan", tmp_path / "whole", encoders, 4, "run.device=cuda")
    train_tiny("attngan", tmp_path / "parts", encoders, 2, "run.device=cuda")
    parts = train_tiny("attngan", tmp_path / "parts", encoders, 4, "run.device=cuda")
    assert differences(whole["networks"], parts["networks"]) == []
