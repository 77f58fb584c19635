import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from baselines import sample, train
from baselines.config import ConfigError, flat, load_config, to_dict
from baselines.data.vocabulary import Vocabulary, VocabularyMismatchError
from baselines.hosts import preset
from baselines.runs import load_encoders
from baselines.training.checkpoint import CheckpointError, checkpoints, load_torch
from baselines.training.hardware import resolved_amp
from baselines.training.objective import StackedGANObjective
from baselines.training.stats import NonFiniteError, read_stats
from baselines.training.terms import PhaseLoss
from tests.baselines.commands import differences, stats_of, train_command, train_tiny
from tests.support.paths import ROOT

VARIANTS = [
    ("attngan", ""),
    ("attngan", "alr"),
    ("attngan", "alr,lvr"),
    ("dmgan", ""),
    ("dmgan", "alr"),
    ("dmgan", "alr,lvr"),
    ("alrgan", ""),
]


@pytest.mark.parametrize(("model", "refine"), VARIANTS)
def test_every_variant_trains_and_samples(model, refine, tmp_path, encoders):
    run = tmp_path / "run"
    train_tiny(model, run, encoders, 4, "run.grid_every=4", refine=refine)

    last = read_stats(run / "stats.jsonl")[-1]
    assert last["step"] == 4 and last["images"] == 16
    for name in ("D16/real", "D16/fake", "D32/wrong", "G/adversarial_32", "G/damsm_words", "G/kl"):
        assert name in last
    refined = model == "alrgan" or refine
    assert ("G/stage1/easy" in last) == bool(refined)
    assert ("G/stage1/style" in last) == (model == "alrgan" or refine == "alr,lvr")
    assert (run / "grids" / "0000004.png").stat().st_size > 1000
    assert (run / "grids" / "0000004_words0.png").exists()

    sample.main(["--run", str(run), "--text", "a red circle", "--out", str(tmp_path / "out")])
    assert list((tmp_path / "out").glob("*.png"))


def test_resume_is_bit_exact(tmp_path, encoders):
    shares = ("refine.alr.share=0.1", "refine.lvr.share=0.1", "run.log_every=1")
    whole = train_tiny("alrgan", tmp_path / "whole", encoders, 6, *shares)
    train_tiny("alrgan", tmp_path / "parts", encoders, 3, *shares)
    parts = train_tiny("alrgan", tmp_path / "parts", encoders, 6, *shares)
    assert differences(whole, parts) == []
    assert differences(stats_of(tmp_path / "whole"), stats_of(tmp_path / "parts")) == []


@pytest.mark.parametrize("model", ["attngan", "dmgan"])
def test_zero_weights_leave_the_host_unchanged_to_the_bit(model, tmp_path, encoders):
    host = train_tiny(model, tmp_path / "host", encoders, 4)
    zero = [f"refine.{term}.weight=0" for term in ("alr", "reconstruction", "lvr")]
    refined = train_tiny(model, tmp_path / "zero", encoders, 4, *zero, refine="alr,lvr")
    for network in ("generator", "discriminators", "average"):
        assert differences(host["networks"][network], refined["networks"][network]) == []
    assert stats_of(tmp_path / "host") == stats_of(tmp_path / "zero")

    active = train_tiny(model, tmp_path / "active", encoders, 4, refine="alr,lvr")
    assert differences(host["networks"]["generator"], active["networks"]["generator"])


def test_terms_wait_for_their_start(tmp_path, encoders):
    late = [f"refine.{term}.start=3" for term in ("alr", "reconstruction", "lvr")]
    train_tiny("alrgan", tmp_path, encoders, 4, *late, "run.log_every=1")
    logged = ["G/stage1/easy" in line for line in read_stats(tmp_path / "stats.jsonl")]
    assert logged == [False, False, False, True]


def test_inference_weights_hold_nothing_of_the_losses(tmp_path, encoders):
    host = train_tiny("attngan", tmp_path / "host", encoders, 1)
    refined = train_tiny("alrgan", tmp_path / "alr", encoders, 1)
    assert host["networks"]["average"].keys() == refined["networks"]["average"].keys()


def test_dcgan_form_and_fourth_stage_train(tmp_path, encoders):
    single = train_tiny("attngan", tmp_path / "one", encoders, 1, "model.single_image=true")
    assert not any("unconditional" in name for name in single["networks"]["discriminators"])
    train_tiny("attngan", tmp_path / "four", encoders, 1, "model.stages=4", "model.feature_dim=4")
    assert "D128/total" in read_stats(tmp_path / "four" / "stats.jsonl")[-1]


def test_dry_run_prints_the_configuration_and_writes_nothing(tmp_path, capsys):
    train.main(["dmgan", "--preset", "cub", "--run-dir", str(tmp_path / "run"), "--dry-run"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["model"]["feature_dim"] == 64 and printed["optim"]["batch_size"] == 10
    assert not (tmp_path / "run").exists()


def test_dry_run_prints_the_settings_of_the_encoders_it_would_take(tmp_path, encoders, capsys):
    arguments = ["attngan", "--preset", "cub", "--run-dir", str(tmp_path / "run"), "--dry-run"]
    train.main([*arguments, "--encoders", str(encoders)])
    printed = json.loads(capsys.readouterr().out)["encoder"]
    assert printed == to_dict(load_encoders(encoders).config)
    with pytest.raises(CheckpointError, match="nowhere"):
        train.main([*arguments, "--encoders", str(tmp_path / "nowhere")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "optim.g_rl=1"], "nearest is 'optim.g_lr'"),
        (["--set", "optim.g_lr=fast"], "optim.g_lr=fast: expected float"),
        (["--set", "model.stages=0"], "model.stages=0"),
        (["--preset", "cubs"], "nearest is 'cub'"),
        (["--set", "encoder.lr=1"], r"encoder\.lr=1: has no effect in train; .*baselines\.damsm"),
        (["--set", "model.name=dmgan"], "write `train dmgan`"),
        (["--set", "refine.alr.weight=2"], "has no effect without --refine alr"),
        (["--refine", "alr", "--set", "refine.mask=hard"], "without --refine alr,lvr"),
    ],
)
def test_bad_settings_are_named(arguments, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train.main(["attngan", "--run-dir", str(tmp_path / "run"), *arguments])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("host", "setting", "able"),
    [
        ("attngan", "loss.unconditional=0.5", "stackgan"),
        ("alrgan", "loss.colour=50", "stackgan"),
        ("dmgan", "loss.penalty=1", "dfgan"),
        ("mirrorgan", "optim.legacy_snapshot=2000", "stackgan"),
        ("attngan", "loss.caption=1", "mirrorgan"),
        ("dfgan", "loss.kl=1", "attngan, dmgan, alrgan, stackgan, mirrorgan"),
        ("stackgan", "loss.wrong=shift", "attngan, dmgan, alrgan, dfgan, mirrorgan"),
    ],
)
def test_what_only_other_hosts_read_is_refused(host, setting, able, tmp_path):
    given = ["--run-dir", str(tmp_path / "run"), "--dry-run", "--set", setting]
    with pytest.raises(ConfigError) as caught:
        train.main([host, "--preset", "demo", *given])
    assert str(caught.value) == f"{setting}: has no effect on {host}; {able} can use it"
    for other in able.split(", "):
        config = train.configure(train.parse([other, "--preset", "demo", *given]))
        key, text = setting.split("=")
        assert str(flat(config)[key]) in (text, f"{text}.0")


def test_another_configuration_is_refused_in_the_same_directory(tmp_path, encoders):
    train_tiny("attngan", tmp_path, encoders, 1)
    before = load_config(tmp_path / "config.json")
    with pytest.raises(ConfigError, match=r"optim\.g_lr: 0\.\d+ in the run, 0\.5 asked for"):
        train_tiny("attngan", tmp_path, encoders, 2, "optim.g_lr=0.5")
    assert load_config(tmp_path / "config.json") == before


def test_what_may_change_on_resume_changes(tmp_path, encoders):
    train_tiny("attngan", tmp_path, encoders, 1)
    state = train_tiny("attngan", tmp_path, encoders, 2, "run.keep=1", "data.root=elsewhere")
    assert state["progress"]["step"] == 2
    assert load_config(tmp_path / "config.json").data.root == "elsewhere"


def test_auto_arithmetic_is_decided_once_and_resumed(tmp_path, encoders):
    train_tiny("attngan", tmp_path, encoders, 1, "optim.amp=auto")
    amp = load_config(tmp_path / "config.json").optim.amp
    assert amp == resolved_amp("auto", torch.device("cpu")) != "auto"
    assert train_tiny("attngan", tmp_path, encoders, 2, "optim.amp=auto")["progress"]["step"] == 2


def test_missing_encoders_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        train.main(train_command("attngan", tmp_path / "run", tmp_path / "nowhere", 1))
    assert not (tmp_path / "run").exists()


def test_tensorboard_gets_every_term(tmp_path, encoders):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train_tiny("attngan", tmp_path, encoders, 2, "run.tensorboard=true")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    logged = read_stats(tmp_path / "stats.jsonl")[-1]
    assert set(events.Tags()["scalars"]) == set(logged) - {"step"}
    (event,) = events.Scalars("G/total")
    assert event.step == 2 and event.value == pytest.approx(logged["G/total"])


def test_a_new_run_needs_encoders(tmp_path):
    with pytest.raises(ConfigError, match="give --encoders DIR"):
        train.main(["attngan", "--preset", "demo", "--run-dir", str(tmp_path / "run")])


def test_refinement_without_stage_images_is_refused(tmp_path, encoders):
    with pytest.raises(ConfigError, match=r"model\.single_image=true"):
        train_tiny("alrgan", tmp_path / "run", encoders, 1, "model.single_image=true")
    assert not (tmp_path / "run").exists()


def test_another_vocabulary_is_refused(tmp_path, encoders):
    train_tiny("attngan", tmp_path, encoders, 1)
    path = checkpoints(tmp_path)[-1]
    state = load_torch(path)
    other = Vocabulary(["quite", "another"])
    torch.save({**state, "vocabulary": other.to_dict()}, path)
    with pytest.raises(VocabularyMismatchError, match="quite"):
        train_tiny("attngan", tmp_path, encoders, 2)


def test_a_loss_that_is_not_finite_stops_with_its_name(tmp_path, encoders, monkeypatch):
    train_tiny("attngan", tmp_path, encoders, 2)
    saved = checkpoints(tmp_path)
    usual = StackedGANObjective.discriminator_loss

    def broken(self, stage, step):
        loss = usual(self, stage, step)
        return PhaseLoss(loss.total * (torch.nan if stage == 0 else 1), loss.terms)

    monkeypatch.setattr(StackedGANObjective, "discriminator_loss", broken)
    with pytest.raises(NonFiniteError, match=r"step 3: .*D16/total.*last checkpoint is intact"):
        train_tiny("attngan", tmp_path, encoders, 4, "run.checkpoint_every=1")
    assert checkpoints(tmp_path) == saved
    monkeypatch.undo()
    assert train_tiny("attngan", tmp_path, encoders, 4)["progress"]["step"] == 4


def test_a_damaged_checkpoint_is_named(tmp_path, encoders):
    train_tiny("attngan", tmp_path, encoders, 1)
    (path,) = checkpoints(tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=path.name):
        train_tiny("attngan", tmp_path, encoders, 2)


def start_training(run: Path, encoders: Path) -> subprocess.Popen[str]:
    """`python -m baselines.train` in `run`, which goes on until it is told to stop."""
    command = [sys.executable, "-m", "baselines.train"]
    command += train_command("attngan", run, encoders, 5000)
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def stopped_after_a_step(process: subprocess.Popen[str], run: Path) -> int:
    """Send SIGTERM once `process` has logged a step; returns how many it made and saved."""
    stats = run / "stats.jsonl"
    deadline = time.monotonic() + 120
    while not (stats.exists() and stats.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return load_torch(checkpoints(run)[-1])["progress"]["step"]


def test_of_two_trainings_in_one_directory_one_goes_on_and_saves_at_sigterm(tmp_path, encoders):
    run = tmp_path / "run"
    both = [start_training(run, encoders) for _ in range(2)]
    try:
        deadline = time.monotonic() + 120
        while all(one.poll() is None for one in both) and time.monotonic() < deadline:
            time.sleep(0.1)
        refused, owner = sorted(both, key=lambda one: one.poll() is None)
        assert refused.wait(1) == 2 and owner.poll() is None
        (line,) = refused.stderr.read().splitlines()
        assert line.startswith(f"error: {run}: in use by process {owner.pid} on ")
        steps = stopped_after_a_step(owner, run)
        assert 0 < steps < 5000
    finally:
        for one in both:
            one.kill()
            one.communicate()
    alone = train_tiny("attngan", tmp_path / "alone", encoders, steps)
    assert differences(load_torch(checkpoints(run)[-1])["networks"], alone["networks"]) == []
    assert stats_of(run) == stats_of(tmp_path / "alone")
    assert train_tiny("attngan", run, encoders, steps + 2)["progress"]["step"] == steps + 2


def test_command_reports_errors_in_one_line(tmp_path):
    command = [sys.executable, "-m", "baselines.train", "attngan", "--run-dir", str(tmp_path / "x")]
    done = subprocess.run(
        [*command, "--set", "optim.g_rl=1"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.strip() == "error: unknown key 'optim.g_rl'; the nearest is 'optim.g_lr'"


def test_a_run_directory_is_complete_before_the_first_step(tmp_path: Path, encoders):
    train_tiny("attngan", tmp_path, encoders, 1)
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {
        "config.json", "vocabulary.json", "encoders.pt", "initial.safetensors",
        "generator.safetensors", "stats.jsonl",
    }  # fmt: skip


def test_evaluation_in_training_leaves_the_training_as_it_is(encoders, tmp_path):
    plain = train_tiny("attngan", tmp_path / "plain", encoders, 4)
    settings = ("run.evaluate_every=2", "run.evaluate=graded,fid", "run.best=graded/colour")
    measured = train_tiny("attngan", tmp_path / "measured", encoders, 4, *settings)
    assert differences(plain["networks"], measured["networks"]) == []
    assert (tmp_path / "measured" / "best.safetensors").exists()
    found = [line for line in stats_of(tmp_path / "measured") if "evaluation/fid/damsm" in line]
    assert [line["step"] for line in found] == [2, 4]
    assert all(0 <= line["evaluation/graded/place"] <= 1 for line in found)


def test_the_demo_trains_and_resumes_with_all_that_it_ships(encoders, tmp_path):
    """Bank, falling rates, the arithmetic of the machine, three stages, ALR on DAMSM's layout."""
    shipped = preset("alrgan", "demo")
    assert shipped.loss.bank and shipped.optim.decay and shipped.optim.amp == "auto"
    assert shipped.model.stages == 3 and shipped.refine.source == "damsm"
    small = (
        "data.train_images=32", "data.test_images=8", "model.feature_dim=8", "run.device=cpu",
        "model.discriminator_dim=8", "optim.batch_size=4", "run.log_every=1", "loss.bank=6",
        "run.grid_every=1000", "run.checkpoint_every=3", "refine.alr.start=1", "optim.images=24",
    )  # fmt: skip

    def run(directory):
        arguments = ["alrgan", "--preset", "demo", "--run-dir", str(directory)]
        arguments += ["--encoders", str(encoders)]
        for setting in small:
            arguments += ["--set", setting]
        train.main(arguments)
        return load_torch(checkpoints(directory)[-1])

    whole = run(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    checkpoints(tmp_path / "parts")[-1].unlink()  # as if it had been stopped half-way
    parts = run(tmp_path / "parts")
    assert differences(whole["networks"], parts["networks"]) == []
    assert stats_of(tmp_path / "whole") == stats_of(tmp_path / "parts")
    rates = [group["lr"] for group in whole["optimizers"]["G"]["param_groups"]]
    assert max(rates) < shipped.optim.g_lr
    assert {"bank", "alr", "balance"} <= whole["networks"].keys()
    assert any("G/damsm/alr" in line for line in stats_of(tmp_path / "whole"))
