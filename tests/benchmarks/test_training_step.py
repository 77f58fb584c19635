import json

import pytest
import torch

from baselines.training.distributed import World
from baselines.trial import trial_step
from benchmarks import training_step
from benchmarks.efficiency import build
from benchmarks.training_step import Case, cases, original_step

TINY = (
    "model.feature_dim=8", "model.discriminator_dim=8", "model.condition_dim=8",
    "model.noise_dim=8", "model.stages=2", "optim.batch_size=4", "loss.bank=0",
)  # fmt: skip


def tiny(host: str) -> Case:
    sizes = tuple(s.replace("stages=2", "stages=1") if host == "dfgan" else s for s in TINY)
    return next(cases(host, "demo", "no", sizes))


@pytest.mark.parametrize("host", training_step.HOSTS.split(","))
def test_the_originals_way_trains_the_same_networks(host):
    """Only the price differs: discriminators and generator end where ours do."""
    config = tiny(host).config
    results = []
    for way in (original_step, trial_step):
        torch.manual_seed(0)
        objective = build(config, World())
        before = {name: p.clone() for name, p in objective.net.named_parameters()}
        words = objective.text_encoder.vocabulary_size
        step = way(objective, config, World(), vocabulary=words)
        step(0), step(1)
        assert any(not torch.equal(before[name], p) for name, p in objective.net.named_parameters())
        results.append(objective)
    for part in ("net", "discriminators"):
        first, second = (getattr(objective, part).state_dict() for objective in results)
        moved = sum((first[name] - second[name]).abs().sum() for name in first if "num" not in name)
        total = sum(first[name].abs().sum() for name in first if "num" not in name)
        assert moved < 1e-3 * total


def test_every_way_is_measured_in_turn(monkeypatch, tmp_path, capsys):
    asked = []

    def apart(case, device, steps):
        asked.append((case.name, device, steps))
        return float(len(asked)), 2**30

    monkeypatch.setattr(training_step, "apart", apart)
    monkeypatch.setattr(training_step, "resolved_amp", lambda amp, device: "bf16")
    out = tmp_path / "steps.json"
    options = ["--hosts", "attngan", "--steps", "4", "--device", "cpu", "--out", str(out)]
    training_step.main(options)
    ways = [
        "the originals' way, float32", "ours, float32", "ours + ALR + LVR, float32",
        "ours, bf16", "ours + ALR + LVR, bf16",
    ]  # fmt: skip
    assert asked == [(way, "cpu", 4) for way in ways] * 3
    results = json.loads(out.read_text())["results"]
    # The second of three turns, of five ways each.
    assert [found["step_seconds"] for found in results] == [6.0, 7.0, 8.0, 9.0, 10.0]
    rows = [line.split("|")[4].strip() for line in capsys.readouterr().out.splitlines()[2:7]]
    assert rows == ["1.00", "0.857", "–", "0.667", "–"]


def test_memory_and_time_are_measured():
    seconds, peak = training_step.measure(tiny("attngan"), "cpu", 1)
    assert seconds > 0 and 0 <= peak < 2**34


def test_bad_options_are_named():
    with pytest.raises(SystemExit):
        training_step.main(["--steps", "0"])
