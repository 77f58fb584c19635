"""MirrorGAN by its commands: train, go on, draw, evaluate, with and without layout refinement."""

import json

import pytest
import torch

from baselines import evaluate, sample, stream, train
from baselines.config import ConfigError, load_config
from baselines.conversion import convert as work
from baselines.convert import ConversionError, to_original
from baselines.data.originals import save_captions_pickle
from baselines.data.vocabulary import Vocabulary, VocabularyMismatchError
from baselines.hosts.mirrorgan.captioner import CaptionDecoder, CaptionImageEncoder
from baselines.hosts.mirrorgan.captioner_file import load_captioner
from baselines.hosts.mirrorgan.fusion import GlobalLocalAttention
from baselines.networks.encoders import ImageEncoder, TextEncoder
from baselines.runs import load_run
from baselines.training.checkpoint import CheckpointError, checkpoints, load_torch
from baselines.training.stats import read_stats
from tests.baselines.commands import differences, stats_of, train_command
from tests.baselines.hosts.test_mirrorgan import MIRRORGAN
from tests.support.tiny_run import tiny_config


def train_captioner(run_dir, encoders, *settings):
    arguments = ["--preset", "demo", "--run-dir", str(run_dir), "--encoders", str(encoders)]
    shared = ("stream.images=16", "stream.batch_size=8", "data.train_images=64", "run.device=cpu")
    for setting in (*shared, "data.test_images=12", "data.max_objects=2", *settings):
        arguments += ["--set", setting]
    stream.main(arguments)
    return run_dir


@pytest.fixture(scope="session")
def captioner(tmp_path_factory, encoders):
    run_dir = tmp_path_factory.mktemp("captioner")
    return train_captioner(run_dir, encoders, "stream.hidden_dim=24")


def train_mirrorgan(run, encoders, steps, *settings, captioner=None, refine=""):
    arguments = train_command("mirrorgan", run, encoders, steps, *settings, refine=refine)
    if captioner is not None:
        arguments += ["--captioner", str(captioner)]
    train.main(arguments)
    return load_torch(checkpoints(run)[-1])


@pytest.mark.parametrize("refine", ["", "alr,lvr"])
def test_it_trains_draws_and_is_evaluated(refine, tmp_path, encoders, captioner, capsys):
    run = tmp_path / "run"
    train_mirrorgan(run, encoders, 4, "run.grid_every=4", captioner=captioner, refine=refine)
    last = read_stats(run / "stats.jsonl")[-1]
    assert {"D16/wrong", "G/adversarial_32", "G/caption", "G/kl"} <= last.keys()
    assert not any("damsm" in name for name in last)
    assert ("G/stage1/style" in last) == bool(refine)
    assert (run / "grids" / "0000004.png").stat().st_size > 1000
    assert (run / "grids" / "0000004_words0.png").exists()
    # The settings are those of the captioner, not of the preset.
    assert load_config(run / "config.json").stream.hidden_dim == 24

    out = tmp_path / "out"
    sample.main(["--run", str(run), "--text", "a red circle", "--out", str(out), "--overlays"])
    assert list(out.glob("*.png"))
    evaluate.main(
        ["--run", str(run), "--images", "12", "--metrics", "r_precision", "--device", "cpu"]
    )
    assert "r_precision" in (run / "evaluation.json").read_text()


def test_going_on_is_bit_exact_and_needs_no_captioner(tmp_path, encoders, captioner):
    refine = "alr,lvr"
    whole = train_mirrorgan(tmp_path / "whole", encoders, 4, captioner=captioner, refine=refine)
    train_mirrorgan(tmp_path / "parts", encoders, 2, captioner=captioner, refine=refine)
    parts = train_mirrorgan(tmp_path / "parts", encoders, 4, refine=refine)
    assert differences(whole, parts) == []
    assert stats_of(tmp_path / "whole") == stats_of(tmp_path / "parts")


def test_zero_weights_leave_the_host_unchanged_to_the_bit(tmp_path, encoders, captioner):
    host = train_mirrorgan(tmp_path / "host", encoders, 3, captioner=captioner)
    zero = [f"refine.{term}.weight=0" for term in ("alr", "reconstruction", "lvr")]
    refined = train_mirrorgan(
        tmp_path / "zero", encoders, 3, *zero, captioner=captioner, refine="alr,lvr"
    )
    for network in ("generator", "discriminators", "average"):
        assert differences(host["networks"][network], refined["networks"][network]) == []
    assert stats_of(tmp_path / "host") == stats_of(tmp_path / "zero")
    active = train_mirrorgan(tmp_path / "on", encoders, 3, captioner=captioner, refine="alr,lvr")
    assert differences(host["networks"]["generator"], active["networks"]["generator"])


def test_a_new_run_needs_a_captioner_unless_its_loss_is_off(tmp_path, encoders):
    run = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"give --captioner DIR, .*python -m baselines\.stream"):
        train_mirrorgan(run, encoders, 1)
    with pytest.raises(CheckpointError, match=r"nowhere"):
        train_mirrorgan(run, encoders, 1, captioner=tmp_path / "nowhere")
    assert not run.exists()
    train_mirrorgan(run, encoders, 1, "loss.caption=0")
    assert "G/caption" not in read_stats(run / "stats.jsonl")[-1]
    assert not (run / "captioner.pt").exists()


def test_a_captioner_that_is_not_read_is_refused(tmp_path, encoders, captioner):
    option = ["--captioner", str(captioner)]
    with pytest.raises(ConfigError, match="--captioner: has no effect"):
        train.main(train_command("attngan", tmp_path, encoders, 1) + option)
    with pytest.raises(ConfigError, match="--captioner: has no effect"):
        train_mirrorgan(tmp_path, encoders, 1, "loss.caption=0", captioner=captioner)


def test_a_run_keeps_its_captioner(tmp_path, encoders, captioner):
    run = tmp_path / "run"
    train_mirrorgan(run, encoders, 1, captioner=captioner)
    train_mirrorgan(run, encoders, 2, captioner=captioner)  # the same one may be named again
    other = train_captioner(tmp_path / "other", encoders, "stream.hidden_dim=24", "run.seed=1")
    with pytest.raises(ConfigError, match=r"holds a run with another captioner than .*other"):
        train_mirrorgan(run, encoders, 3, captioner=other)


def test_a_captioner_of_other_words_is_refused(tmp_path, encoders, captioner):
    state = load_torch(captioner / "captioner.pt")
    words = Vocabulary.from_dict(state["vocabulary"]).words[2:]  # behind <pad> and <unk>
    other = Vocabulary([*words[:-1], "quite"])
    torch.save({**state, "vocabulary": other.to_dict()}, tmp_path / "captioner.pt")
    with pytest.raises(VocabularyMismatchError, match="quite"):
        train_mirrorgan(tmp_path / "run", encoders, 1, captioner=tmp_path)
    assert not (tmp_path / "run").exists()


def test_help_and_dry_run_tell_of_the_captioner(tmp_path, captioner, capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    assert "run directory of baselines.stream" in " ".join(capsys.readouterr().out.split())
    command = ["mirrorgan", "--preset", "demo", "--run-dir", str(tmp_path / "run"), "--dry-run"]
    for given, width in (([], 128), (["--captioner", str(captioner)], 24)):
        train.main([*command, *given])
        printed = json.loads(capsys.readouterr().out)
        assert printed["stream"]["hidden_dim"] == width and printed["loss"]["caption"] == 10


def converted_parts(words):
    """Networks of the original's kind, small, by file name."""
    torch.manual_seed(0)
    config = tiny_config("mirrorgan", stages=3, base_size=64, feature_dim=2)
    return {
        "netG.pth": MIRRORGAN.generator(config),
        "text_encoder.pth": TextEncoder(words, embedding_dim=32, token_dim=5),
        "image_encoder.pth": ImageEncoder(embedding_dim=32),
        "cnn_encoder.ckpt": CaptionImageEncoder(embedding_dim=6, trunk="resnet26"),
        "rnn_decoder.ckpt": CaptionDecoder(words, embedding_dim=6, hidden_dim=7),
    }


def test_the_originals_files_become_a_run_and_a_captioner(tmp_path, monkeypatch):
    # A child process for each of ten files would take longer than all the rest.
    monkeypatch.setattr(work, "read_foreign", lambda path: torch.load(path, weights_only=True))
    vocabulary = Vocabulary(["a", "bird", "red"], unknown=False)
    save_captions_pickle(tmp_path / "captions.pickle", vocabulary, [], [])
    parts = converted_parts(len(vocabulary))
    for name, network in parts.items():
        torch.save(to_original(network), tmp_path / name)
    files = [tmp_path / name for name in parts]
    out = tmp_path / "out"
    lines = work.convert(files, out, tmp_path / "captions.pickle", "cub")
    assert f"{out / 'captioner.pt'}: for --captioner" in lines
    assert sorted(path.name for path in out.iterdir()) == [
        "captioner.pt", "config.json", "encoders.pt", "generator.safetensors", "vocabulary.json",
    ]  # fmt: skip
    run = load_run(out)
    assert run.config.model.name == "mirrorgan" and run.generator.legacy_mask
    assert isinstance(run.generator.stages[1].fusion, GlobalLocalAttention)
    captioner = load_captioner(out / "captioner.pt", run.encoders.vocabulary)
    for ours, name in (
        (captioner.image, "cnn_encoder.ckpt"),
        (captioner.decoder, "rnn_decoder.ckpt"),
    ):
        for key, value in parts[name].state_dict().items():
            assert torch.equal(ours.state_dict()[key], value), key

    work.convert(files[3:4], tmp_path / "alone", None, "cub")
    described = json.loads((tmp_path / "alone" / "caption_image_encoder.json").read_text())
    assert described["trunk"] == "resnet26" and described["embedding_dim"] == 6
    torch.save(to_original(CaptionDecoder(9, embedding_dim=6)), files[4])
    with pytest.raises(ConversionError, match=r"has 4 words, the captioner was trained with 9"):
        work.convert(files[3:], tmp_path / "x", tmp_path / "captions.pickle", "cub")
    torch.save(to_original(CaptionDecoder(4, embedding_dim=5)), files[4])
    with pytest.raises(ConversionError, match=r"width 6 for a decoder of width 5"):
        work.convert(files[3:], tmp_path / "x", tmp_path / "captions.pickle", "cub")
