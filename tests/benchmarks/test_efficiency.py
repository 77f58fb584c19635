import json
import sys

import pytest
import torch

from baselines.errors import UserError
from baselines.hosts import HOSTS
from benchmarks import efficiency

TINY = (
    "model.feature_dim=8", "model.discriminator_dim=8", "model.condition_dim=8",
    "model.noise_dim=8", "optim.batch_size=4", "refine.source=module",
)  # fmt: skip


def test_every_host_is_measured_with_and_without_refinement(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(efficiency, "WARM", 0)
    settings = [part for setting in TINY for part in ("--set", setting)]
    out = tmp_path / "costs.json"
    efficiency.main(
        [
            "--preset", "demo", "--steps", "1", "--device", "cpu", "--out", str(out), *settings,
        ]
    )  # fmt: skip
    report = json.loads(out.read_text())
    costs = {found["name"]: found for found in report["costs"]}
    hosts = [name for name in HOSTS if name != "alrgan"]
    assert list(costs) == [name + more for name in hosts for more in ("", " + ALR + LVR")]
    for host in hosts:
        plain, refined = costs[host], costs[f"{host} + ALR + LVR"]
        # Refinement lives in training alone: the generator gains nothing.
        assert refined["parameters"]["generator"] == plain["parameters"]["generator"] > 0
        assert refined["parameters"]["refinements"] > 0
        assert "refinements" not in plain["parameters"] and 0 not in plain["parameters"].values()
        assert plain["step_seconds"] > 0 and plain["image_seconds"] > 0
        assert plain["peak_bytes"] > 0
    assert costs["mirrorgan"]["parameters"]["captioner"] > 0
    printed = capsys.readouterr().out
    assert printed.startswith("| host") and "batch 4" in printed and torch.__version__ in printed


def test_the_mean_covers_what_is_done_now_and_then():
    calls = []
    seconds, _ = efficiency.timed(calls.append, 5, torch.device("cpu"))
    assert calls == list(range(efficiency.WARM + 5)) and seconds >= 0


@pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell")
def test_memory_is_that_of_the_calls_alone():
    def take(megabytes):
        return lambda number: torch.ones(megabytes, 2**18).sum()

    before = efficiency.timed(take(200), 1, torch.device("cpu"))[1]
    after = efficiency.timed(take(1), 1, torch.device("cpu"))[1]
    assert 150 * 2**20 < before - after < 250 * 2**20


def test_bad_options_are_named():
    with pytest.raises(SystemExit):
        efficiency.main(["--steps", "0"])
    with pytest.raises(UserError, match="--preset huge: no host has it; expected one of"):
        efficiency.main(["--preset", "huge"])
