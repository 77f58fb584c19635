import json

import pytest
import torch

from baselines.errors import UserError
from benchmarks import efficiency

TINY = (
    "model.feature_dim=8", "model.discriminator_dim=8", "model.condition_dim=8",
    "model.noise_dim=8", "optim.batch_size=4", "refine.source=module",
)  # fmt: skip


def test_every_host_is_measured_with_and_without_refinement(tmp_path, capsys):
    settings = [part for setting in TINY for part in ("--set", setting)]
    out = tmp_path / "costs.json"
    efficiency.main(
        [
            "--preset",
            "demo",
            "--hosts",
            "attngan,dmgan",
            "--steps",
            "2",
            "--device",
            "cpu",
            "--out",
            str(out),
            *settings,
        ]
    )
    report = json.loads(out.read_text())
    costs = {found["name"]: found for found in report["costs"]}
    assert set(costs) == {
        "attngan", "attngan + ALR + LVR", "dmgan", "dmgan + ALR + LVR",
    }  # fmt: skip
    for host in ("attngan", "dmgan"):
        plain, refined = costs[host], costs[f"{host} + ALR + LVR"]
        # Refinement lives in training alone: the generator gains nothing.
        assert refined["parameters"]["generator"] == plain["parameters"]["generator"] > 0
        assert refined["parameters"]["refinements"] > 0
        assert "refinements" not in plain["parameters"]
        assert plain["step_seconds"] > 0 and plain["image_seconds"] > 0
        assert plain["peak_bytes"] is None
    printed = capsys.readouterr().out
    assert printed.startswith("| host") and "batch 4" in printed and torch.__version__ in printed


def test_the_mean_covers_what_is_done_now_and_then():
    calls = []
    seconds, peak = efficiency.timed(calls.append, 5, torch.device("cpu"))
    assert calls == list(range(efficiency.WARM + 5)) and seconds >= 0 and peak is None


def test_bad_options_are_named():
    with pytest.raises(UserError, match="--steps 0"):
        efficiency.main(["--steps", "0"])
