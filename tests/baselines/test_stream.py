"""The captioner's pre-training, by its command."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from baselines import stream
from baselines.config import ConfigError, load_config, override
from baselines.data.loader import Batch
from baselines.data.scenes import Scenes
from baselines.data.vocabulary import Vocabulary, VocabularyMismatchError
from baselines.errors import UserError
from baselines.estimate import GIB, memory, require_memory
from baselines.hosts import HOSTS
from baselines.hosts.mirrorgan.captioner import (
    CaptionDecoder,
    Captioner,
    CaptionImageEncoder,
    build_captioner,
)
from baselines.hosts.mirrorgan.captioner_file import load_captioner, save_captioner
from baselines.hosts.mirrorgan.objective import StreamObjective
from baselines.runs import load_encoders
from baselines.training.checkpoint import CheckpointError, checkpoints, load_torch
from baselines.training.distributed import World
from baselines.training.loop import run_phase
from baselines.training.stats import read_stats
from tests.baselines.commands import differences
from tests.baselines.hosts import mirrorgan_oracle as oracle

TINY = (
    "data.train_images=32", "data.test_images=8", "stream.embedding_dim=16",
    "stream.hidden_dim=12", "stream.batch_size=8", "run.device=cpu", "run.log_every=2",
    "run.checkpoint_every=1000000", "stream.start=random", "stream.train_trunk=true",
)  # fmt: skip


def train_stream(run_dir: Path, images: int, *settings: str, options: tuple[str, ...] = ()) -> dict:
    arguments = ["--preset", "demo", "--run-dir", str(run_dir), *options]
    for setting in (*TINY, f"stream.images={images}", *settings):
        arguments += ["--set", setting]
    stream.main(arguments)
    return load_torch(checkpoints(run_dir)[-1])


def test_every_epoch_is_validated_and_best_and_last_are_kept(tmp_path):
    train_stream(tmp_path, 64)
    lines = read_stats(tmp_path / "stats.jsonl")
    measured = [line for line in lines if "validation/cross_entropy" in line]
    assert [line["step"] for line in measured] == [4, 8]
    assert all(0 <= line["validation/accuracy"] <= 1 for line in measured)
    assert {"STREAM/caption", "STREAM/total"} <= set(lines[0])
    best = load_torch(tmp_path / "captioner.pt")["facts"]
    scores = [line["validation/cross_entropy"] for line in measured]
    assert best["cross_entropy"] == min(scores)
    assert load_torch(tmp_path / "last.pt")["facts"]["step"] == 8
    words = Vocabulary.load(tmp_path / "vocabulary.json")
    captioner = load_captioner(tmp_path / "captioner.pt", words)
    assert not captioner.image.training and captioner.decoder.vocabulary_size == len(words)


def test_resume_is_bit_exact(tmp_path):
    # One validation epoch of 4 steps; stopping in its middle must not matter.
    whole = train_stream(tmp_path / "whole", 48)
    train_stream(tmp_path / "parts", 24)
    parts = train_stream(tmp_path / "parts", 48)
    assert differences(whole["networks"], parts["networks"]) == []
    assert differences(whole["optimizers"], parts["optimizers"]) == []


def test_the_captioner_learns_to_tell_images_apart():
    """Four colours with a caption each: what it says follows the image, not the language alone."""
    torch.manual_seed(0)
    config = stream.configure(stream.parse(["--preset", "demo", "--run-dir", "x"]))
    settings = replace(config.stream, embedding_dim=16, hidden_dim=16, lr=1e-2)
    objective = StreamObjective(
        replace(config, stream=settings), build_captioner(settings, 12), World()
    )
    images = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -1]])
    captions = torch.randint(2, 12, (4, 5))
    lengths, none = torch.tensor([5, 3, 4, 5]), torch.zeros(4, dtype=torch.int64)
    images = images[:, :, None, None].expand(4, 3, 32, 32)
    batch = Batch(images, captions, lengths, none, tuple("abcd"), none)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for number in range(40):
        step = objective.begin(batch, number)
        run_phase(objective.phases[0], objective.phases, [step], scaler, World())
    with torch.no_grad():
        right, wrong = (
            float(objective.loss(replace(batch, images=shown)).total)
            for shown in (images, images.flip(0))
        )
    assert right < 0.5 and wrong > right + 0.7  # knowing nothing: log 12 = 2.5


def test_validation_counts_every_word_of_every_caption_once():
    torch.manual_seed(0)
    source = Scenes("test", images=5, max_objects=2)
    words = Vocabulary.build(Scenes.vocabulary_captions())
    image = CaptionImageEncoder(embedding_dim=6, trunk="small", input_size=32)
    captioner = Captioner(image, CaptionDecoder(len(words), embedding_dim=6, hidden_dim=7))
    config = stream.configure(stream.parse(["--preset", "demo", "--run-dir", "x"]))
    config = replace(config, stream=replace(config.stream, batch_size=7))
    measured = stream.validate(captioner, source, words, config, torch.device("cpu"))

    captioner.eval().double()
    names = {"embedding": "embed", "lstm": "lstm", "linear": "linear"}
    state = {
        key.replace(key.split(".")[0], names[key.split(".")[0]]): value
        for key, value in captioner.decoder.state_dict().items()
    }
    every = []
    with torch.no_grad():
        for index in range(5):
            pixels = source.image(index, config.model.image_sizes[-1])[None].double()
            for caption in source.captions(index):
                ids = torch.tensor(words.encode(caption)[: config.data.max_words])
                feature = captioner.image(pixels)
                (losses,) = oracle.word_losses(feature, ids[None], [len(ids)], state)
                every += losses
    expected = float(torch.stack(every).mean())
    assert measured["cross_entropy"] == pytest.approx(expected, rel=1e-5)


def test_a_frozen_trunk_starts_from_a_file_and_stays(tmp_path):
    torch.manual_seed(5)
    weights = timm.create_model("resnet18").state_dict()
    torch.save(weights, tmp_path / "resnet18.pth")
    frozen = ("stream.trunk=resnet18", "stream.train_trunk=false", "stream.start=imagenet")
    options = ("--image-weights", str(tmp_path / "resnet18.pth"))
    state = train_stream(tmp_path / "run", 16, *frozen, options=options)
    state = state["networks"]["captioner"]
    for key in ("conv1.weight", "layer4.1.bn2.running_var", "layer2.0.downsample.0.weight"):
        assert torch.equal(state[f"image.trunk.net.{key}"], weights[key]), key
    with pytest.raises(UserError, match=r"resnet34: .* are missing"):
        train_stream(tmp_path / "x", 16, *frozen, "stream.trunk=resnet34", options=options)
    assert not (tmp_path / "x").exists()


def test_a_frozen_trunk_starts_from_the_encoders_and_goes_on_without_them(tmp_path, encoders):
    run, frozen = tmp_path / "run", ("stream.start=damsm", "stream.train_trunk=false")
    with pytest.raises(ConfigError, match=r"stream\.start=damsm: give --encoders DIR"):
        train_stream(run, 16, *frozen)
    given = ("--encoders", str(encoders))
    with pytest.raises(ConfigError, match=r"resnet18: --encoders see with small; set"):
        train_stream(run, 16, *frozen, "stream.trunk=resnet18", options=given)
    assert not run.exists()
    train_stream(run, 16, *frozen, options=given)
    state = train_stream(run, 24, *frozen)["networks"]["captioner"]
    for key, value in load_encoders(encoders).image.trunk.state_dict().items():
        assert torch.equal(state[f"image.trunk.{key}"], value), key


def test_words_are_those_of_the_encoders(tmp_path, encoders):
    words = load_encoders(encoders).vocabulary
    few = Vocabulary(words.words[2:20])  # beside <pad> and <unk>
    state = load_torch(encoders / "encoders.pt")
    state["text"]["embedding.weight"] = state["text"]["embedding.weight"][:20]
    torch.save({**state, "vocabulary": few.to_dict()}, tmp_path / "encoders.pt")
    run = tmp_path / "run"
    train_stream(run, 16, options=("--encoders", str(tmp_path)))
    assert Vocabulary.load(run / "vocabulary.json").words == few.words
    train_stream(run, 24)  # goes on with its own
    with pytest.raises(VocabularyMismatchError):
        train_stream(run, 32, options=("--encoders", str(encoders)))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("stream.images=0", r"stream\.images=0: set how many"),
        ("optim.batch_size=4", r"optim\.batch_size=4: has no effect in stream"),
        ("stream.lr=0", r"stream\.lr=0\.0: expected a number above 0"),
        ("stream.trunk=resnet999", "unknown image encoder trunk 'resnet999'"),
    ],
)
def test_bad_settings_are_named(tmp_path, setting, message):
    with pytest.raises(UserError, match=message):
        train_stream(tmp_path / "run", 16, setting)
    assert not (tmp_path / "run").exists()


def test_weights_that_would_not_be_read_are_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"--image-weights: has no effect with stream\.start=random"
    ):
        train_stream(tmp_path / "run", 16, options=("--image-weights", "x.pth"))


def test_another_configuration_is_refused_in_the_same_directory(tmp_path):
    train_stream(tmp_path, 16)
    with pytest.raises(ConfigError, match=r"stream\.lr: 0\.003 in the run, 0\.5 asked for"):
        train_stream(tmp_path, 32, "stream.lr=0.5")


def test_what_it_takes_is_estimated():
    for name, gib in (("cub", 24), ("scenes", 24), ("cub-small", 4), ("demo", 4)):
        config = HOSTS["mirrorgan"].presets[name]
        require_memory(config, "stream", gib * GIB, "cpu")
        silent = override(config, ["loss.caption=0"])
        assert memory(silent, "train") < memory(config, "train")
    for setting in ("stream.batch_size=256", "stream.input_size=448", "stream.hidden_dim=4096"):
        more = override(HOSTS["mirrorgan"].presets["cub"], [setting])
        for command in ("stream", "train") if "batch" not in setting else ("stream",):
            assert memory(more, command) > memory(HOSTS["mirrorgan"].presets["cub"], command)
    with pytest.raises(ConfigError, match=r"stream\.batch_size=10000000: training would take"):
        train_stream(Path("nowhere"), 16, "stream.batch_size=10000000")


def test_dry_run_prints_and_writes_nothing(tmp_path, capsys):
    run = tmp_path / "run"
    stream.main(["--preset", "cub", "--run-dir", str(run), "--dry-run"])
    output = capsys.readouterr()
    printed = json.loads(output.out)["stream"]
    assert printed["trunk"] == "resnet152.tv_in1k" and printed["batch_size"] == 128
    assert "steps: 346 on one process" in output.err
    assert not run.exists()


def test_files_of_something_else_are_named(tmp_path, encoders):
    words = load_encoders(encoders).vocabulary
    with pytest.raises(
        CheckpointError, match=r"not a file of a captioner, \['captioner', 'stream'"
    ):
        load_captioner(encoders / "encoders.pt", words)
    train_stream(tmp_path, 8)
    path = tmp_path / "captioner.pt"
    with pytest.raises(VocabularyMismatchError, match=r"captioner\.pt"):
        load_captioner(path, Vocabulary(["quite", "another"]))
    captioner = load_captioner(path, words)
    settings = replace(load_config(tmp_path / "config.json").stream, hidden_dim=13)
    save_captioner(captioner, words, settings, path)
    with pytest.raises(CheckpointError, match=r"captioner\.pt: does not fit its own settings"):
        load_captioner(path, words)
