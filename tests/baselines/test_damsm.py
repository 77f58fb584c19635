from pathlib import Path

import pytest
import torch

from baselines import damsm
from baselines.config import ConfigError
from baselines.data.scenes import Scenes
from baselines.runs import load_encoders
from baselines.training.checkpoint import checkpoints, load_torch
from baselines.training.hardware import resolved_amp
from baselines.training.stats import read_stats
from tests.baselines.commands import differences

TINY = (
    "data.train_images=32", "data.test_images=8", "encoder.embedding_dim=16",
    "encoder.token_dim=12", "encoder.batch_size=8", "run.device=cpu", "run.log_every=2",
    "run.checkpoint_every=1000000",
)  # fmt: skip


def train_damsm(run_dir: Path, images: int, *settings: str) -> dict:
    arguments = ["--preset", "demo", "--run-dir", str(run_dir)]
    for setting in (*TINY, f"encoder.images={images}", *settings):
        arguments += ["--set", setting]
    damsm.main(arguments)
    return load_torch(checkpoints(run_dir)[-1])


def test_every_epoch_is_validated_and_best_and_last_are_kept(tmp_path, caplog):
    caplog.set_level("INFO")
    train_damsm(tmp_path, 64)
    lines = read_stats(tmp_path / "stats.jsonl")
    recalls = [line for line in lines if "validation/text_to_image/R@5" in line]
    assert [line["step"] for line in recalls] == [4, 8]
    for name in ("image_to_text/R@1", "image_to_text/R@10", "text_to_image/R@1"):
        assert all(0 <= line[f"validation/{name}"] <= 1 for line in recalls)
    assert {"DAMSM/damsm_words", "DAMSM/damsm_sentence"} <= set(lines[0])
    best = load_torch(tmp_path / "encoders.pt")["facts"]
    scores = [line["validation/text_to_image/R@5"] for line in recalls]
    assert best["text_to_image/R@5"] == max(scores)
    said = [f"step {step}, {8 * step} images: text_to_image/R@5" for step in (4, 8)]
    for line, score in zip(said, scores, strict=True):
        assert f"{line} {score:.3f}" in caplog.text
    assert load_torch(tmp_path / "last.pt")["facts"]["step"] == 8
    loaded = load_encoders(tmp_path)
    text = loaded.text(torch.tensor([[2, 3, 0]]), torch.tensor([2]))
    assert text.words.shape == (1, 16, 3)


def test_resume_is_bit_exact(tmp_path):
    # One validation epoch of 4 steps; stopping in its middle must not matter.
    whole = train_damsm(tmp_path / "whole", 48)
    train_damsm(tmp_path / "parts", 24)
    parts = train_damsm(tmp_path / "parts", 48)
    assert differences(whole["networks"], parts["networks"]) == []
    assert differences(whole["optimizers"], parts["optimizers"]) == []


def test_learning_rate_decays_by_epoch_and_keeps_its_moments(tmp_path):
    state = train_damsm(tmp_path, 96, "encoder.lr=1e-3", "encoder.lr_decay=0.5")
    optimizer = state["optimizers"]["DAMSM"]
    assert optimizer["param_groups"][0]["lr"] == pytest.approx(1e-3 * 0.5**2)
    assert optimizer["state"][0]["step"] == 12


def test_mixed_precision_teaches_the_same_and_is_kept(tmp_path):
    plain = train_damsm(tmp_path / "plain", 64, "encoder.amp=no")
    mixed = train_damsm(tmp_path / "mixed", 64, "encoder.amp=bf16")
    losses = [
        [
            line["DAMSM/total"]
            for line in read_stats(tmp_path / run / "stats.jsonl")
            if "DAMSM/total" in line
        ]
        for run in ("plain", "mixed")
    ]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    for state in (plain, mixed):
        weights = [w for network in state["networks"].values() for w in network.values()]
        assert {w.dtype for w in weights} == {torch.float32}
    assert load_encoders(tmp_path / "mixed").config.amp == "bf16"


def test_what_auto_came_to_is_kept_in_the_run(tmp_path):
    train_damsm(tmp_path, 8, "encoder.amp=auto")
    amp = load_encoders(tmp_path).config.amp
    assert amp == resolved_amp("auto", torch.device("cpu"))
    assert amp != "auto"
    assert train_damsm(tmp_path, 16, "encoder.amp=auto")["progress"]["step"] == 2


def test_encoders_learn_to_match(tmp_path):
    settings = ("data.train_images=16", "data.max_objects=1", "encoder.batch_size=16")
    train_damsm(tmp_path, 16 * 60, *settings, "encoder.embedding_dim=32", "run.log_every=10")
    losses = [line.get("DAMSM/total") for line in read_stats(tmp_path / "stats.jsonl")]
    last = [loss for loss in losses if loss is not None][-1]
    # Encoders that ignore their input lose 4 log 16 = 11.1.
    assert last < 10.6


def test_validation_counts_an_image_once_and_every_caption(tmp_path):
    train_damsm(tmp_path, 16)
    encoders = load_encoders(tmp_path)
    source = Scenes("test", images=6, max_objects=1)
    config = damsm.configure(damsm.parse(["--preset", "demo", "--run-dir", "x"]))
    recalls = damsm.validate(encoders, source, config, torch.device("cpu"))
    # Ten of six candidates are all of them.
    assert recalls["text_to_image/R@10"] == 1.0


def test_no_images_to_train_on_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"encoder\.images=0: set"):
        damsm.main(["--preset", "demo", "--run-dir", str(tmp_path), "--set", "encoder.images=0"])


def test_only_what_the_encoders_read_is_compared_on_resume(tmp_path):
    train_damsm(tmp_path, 8)
    state = load_torch(checkpoints(tmp_path)[-1])
    state["config"]["optim"]["g_lr"] = 0.5  # as another preset, or an older version of it, had it
    torch.save(state, checkpoints(tmp_path)[-1])
    assert train_damsm(tmp_path, 16)["progress"]["step"] == 2
    with pytest.raises(ConfigError, match=r"encoder\.lr: 0\.002 in the run, 0\.5 asked for"):
        train_damsm(tmp_path, 24, "encoder.lr=0.5")
    with pytest.raises(ConfigError, match=r"loss\.gamma1: 4\.0 in the run"):
        train_damsm(tmp_path, 24, "loss.gamma1=3")


@pytest.mark.parametrize("setting", ["optim.g_lr=0.5", "model.stages=2", "loss.damsm=1"])
def test_settings_of_training_alone_are_refused(setting, tmp_path):
    with pytest.raises(
        ConfigError, match=r"has no effect in damsm; only python -m baselines\.train"
    ):
        train_damsm(tmp_path / "run", 8, setting)
    assert not (tmp_path / "run").exists()
