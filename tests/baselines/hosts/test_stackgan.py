"""StackGAN++ as a host: settings, files, wrong images, and every command."""

import pytest
import torch

from baselines import evaluate, sample, train
from baselines.cli import training_batches
from baselines.config import ConfigError, override
from baselines.convert import ConversionError, convert, from_original, to_original
from baselines.data.loader import TrainingView, training_loader
from baselines.data.scenes import Scenes
from baselines.data.vocabulary import Vocabulary
from baselines.hosts import HOSTS, build_discriminators, build_generator
from baselines.hosts.stackgan.generator import StackGANGenerator
from baselines.networks.discriminators import Discriminator
from baselines.runs import load_run
from baselines.training.checkpoint import checkpoints, load_torch
from baselines.training.distributed import World
from tests.baselines.commands import (
    differences,
    stats_of,
    train_command,
    train_on_two_ranks,
    train_tiny,
)
from tests.baselines.networks.original import listed_keys
from tests.support.keys import read_keys

HOST = HOSTS["stackgan"]
SIZES = ("model.base_size=8", "model.stages=3")
REFINED = ("refine.normalization=rms", "refine.alr.share=0.1", "refine.lvr.share=0.1")


def published(**sizes):
    with torch.device("meta"):
        return StackGANGenerator(feature_dim=64, embedding_dim=1024, **sizes)


def published_discriminator(size):
    with torch.device("meta"):
        return Discriminator(
            image_size=size, feature_dim=64, embedding_dim=128, sentence_first=True
        )


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def shapes(module):
    return {key: tuple(value.shape) for key, value in to_original(module).items()}


def test_networks_have_the_originals_size():
    generator = published()
    assert count(generator) == 21_239_696
    parts = (generator.conditioning, generator.initial, *generator.stages, *generator.heads)
    assert [count(part) for part in parts] == [
        524_800, 20_074_240, 480_384, 157_248, 1_728, 864, 432,
    ]  # fmt: skip
    sizes = {size: count(published_discriminator(size)) for size in (64, 128, 256)}
    assert sizes == {64: 5_723_906, 128: 18_834_178, 256: 71_269_122}
    with torch.device("meta"):
        config = HOST.presets["cub"]
        assert count(build_generator(config)) == 20_846_480
        assert [count(net) for net in build_discriminators(config)] == list(sizes.values())


def test_networks_have_the_originals_keys():
    keys = read_keys("stackgan")
    assert shapes(published()) == keys["G"]
    for size in (64, 128, 256):
        assert shapes(published_discriminator(size)) == keys[f"D{size}"]


def test_the_keys_in_the_project_are_the_originals():
    assert read_keys("stackgan") == listed_keys("keys_stackgan.txt")


def test_presets_are_the_originals():
    config = HOST.presets["cub"]
    model, loss, optim = config.model, config.loss, config.optim
    assert (model.feature_dim, model.discriminator_dim, model.residual_blocks) == (64, 64, 2)
    assert (model.condition_dim, model.noise_dim, model.image_sizes) == (128, 100, (64, 128, 256))
    assert (loss.unconditional, loss.colour, loss.kl, loss.damsm) == (1.0, 0.0, 2.0, 0.0)
    assert (optim.batch_size, optim.images) == (24, 600 * 8855)
    assert (optim.g_lr, optim.d_lr, optim.beta1, optim.beta2) == (2e-4, 2e-4, 0.5, 0.999)
    assert set(HOST.presets) == {"cub", "scenes", "cub-small", "demo"}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.single_image=true", "paints and judges every stage"),
        ("model.feature_dim=6", "a multiple of 4"),
    ],
)
def test_sizes_it_cannot_have_are_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        build_generator(override(HOST.presets["demo"], [setting]))


# Files


def small(**sizes):
    torch.manual_seed(0)
    sizes = {"feature_dim": 4, "embedding_dim": 6, "condition_dim": 3, "noise_dim": 5} | sizes
    return StackGANGenerator(**sizes)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("size", [None, 64, 128, 256])
def test_there_and_back(size, wrapped):
    torch.manual_seed(1)
    ours = small(residual_blocks=1) if size is None else Discriminator(
        image_size=size, feature_dim=2, embedding_dim=3, sentence_first=True
    )  # fmt: skip
    state = to_original(ours)
    given = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    if wrapped:
        given = {f"module.{key}": value for key, value in given.items()}
    back = from_original(given)
    assert type(back) is type(ours) and not back.training
    assert differences(dict(ours.state_dict()), dict(back.state_dict())) == []
    assert differences(state, to_original(back)) == []


def test_what_is_no_stackgan_of_theirs_is_refused():
    with pytest.raises(ConversionError, match="draws 16, 32 px"):
        to_original(small(base_size=16, stages=2))
    state = to_original(small())
    state = {key: value for key, value in state.items() if not key.startswith("ca_net")}
    with pytest.raises(ConversionError, match="unconditional variant"):
        from_original(state)
    spectral = Discriminator(
        image_size=64, feature_dim=2, embedding_dim=3, sentence_first=True, norm="spectral"
    )
    with pytest.raises(ConversionError, match="no counterpart"):
        to_original(spectral)


def test_files_are_converted_one_by_one(tmp_path):
    for name, module in (("netG_210000", small()), ("netD0", published_like(64))):
        torch.save(to_original(module), tmp_path / f"{name}.pth")
    files = sorted(tmp_path.glob("*.pth"))
    convert(files, tmp_path / "out", None, "cub")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "generator.json", "generator.safetensors",
        "discriminator_64.json", "discriminator_64.safetensors",
    }  # fmt: skip
    assert '"name": "stackgan"' in (tmp_path / "out" / "generator.json").read_text()


def published_like(size):
    return Discriminator(image_size=size, feature_dim=2, embedding_dim=3, sentence_first=True)


# One image per caption, whatever shares its batch


def test_images_do_not_depend_on_the_batch():
    generator = small(base_size=8).double().eval()
    draw = [torch.randn(5, width, dtype=torch.float64) for width in (5, 6, 3)]
    words, lengths = torch.randn(5, 6, 4, dtype=torch.float64), torch.tensor([4, 1, 2, 3, 4])

    def images(rows):
        noise, sentence, eps = (value[rows] for value in draw)
        return generator(noise, sentence, words[rows], lengths[rows], eps=eps).images

    together, order = images(slice(None)), torch.tensor([3, 0, 4, 2, 1])
    for stage, image in enumerate(together):
        torch.testing.assert_close(images(order)[stage], image[order])
        for row in range(5):
            torch.testing.assert_close(images(slice(row, row + 1))[stage][0], image[row])
    with pytest.raises(ValueError, match=r"noise must be \(5, 5\), got \(5, 4\)"):
        generator(draw[0][:, :4], draw[1], words, lengths)


def test_without_given_noise_the_condition_is_drawn():
    generator = small(base_size=8).eval()
    noise, sentence = torch.randn(2, 5), torch.randn(2, 6)
    given = (noise, sentence, torch.zeros(2, 6, 1), torch.ones(2))
    first, second = generator(*given), generator(*given)
    assert not torch.equal(first.images[-1], second.images[-1])
    mean = generator(*given, eps=torch.zeros(2, 3))
    assert torch.equal(mean.mu, first.mu)


# Wrong images

WORDS = Vocabulary.build(Scenes.vocabulary_captions())


def batches(number, *, batch_size=4, images=40, wrong_images=True, **options):
    loader = training_loader(
        Scenes("train", images=images, max_objects=1), WORDS, size=16, max_words=8,
        batch_size=batch_size, seed=5, wrong_images=wrong_images, **options,
    )  # fmt: skip
    stream = iter(loader)
    return [next(stream) for _ in range(number)]


def test_wrong_images_change_nothing_else():
    for with_, without in zip(batches(5), batches(5, wrong_images=False), strict=True):
        assert without.wrong_images is None
        assert with_.keys == without.keys
        assert torch.equal(with_.images, without.images)
        assert torch.equal(with_.captions, without.captions)


def test_wrong_images_follow_from_seed_and_position_alone():
    whole = [batch.wrong_images for batch in batches(6)]
    resumed = [batch.wrong_images for batch in batches(3, start_batch=3)]
    assert all(torch.equal(a, b) for a, b in zip(whole[3:], resumed, strict=True))
    worked = [batch.wrong_images for batch in batches(6, workers=2)]
    assert all(torch.equal(a, b) for a, b in zip(whole, worked, strict=True))
    ranks = [batches(6, batch_size=2, rank=rank, world=2) for rank in range(2)]
    for number, images in enumerate(whole):
        for rank in range(2):
            assert torch.equal(ranks[rank][number].wrong_images, images[rank::2])


def test_wrong_images_are_of_another_class_and_come_from_everywhere():
    source = Scenes("train", images=12, max_objects=1)
    images = [source.pixels(index, 16) for index in range(12)]
    view = TrainingView(source, WORDS, size=16, max_words=8, seed=1, wrong_images=True)
    drawn = set()
    for position in range(150):
        item = view[position % 12, position]
        other = next(i for i in range(12) if torch.equal(images[i], item.wrong_image))
        assert source.class_id(other) != item.class_id
        drawn.add(other)
    assert drawn == set(range(12))


def test_a_source_of_one_class_still_gives_some_image():
    source = Scenes("train", images=1)
    view = TrainingView(source, WORDS, size=16, max_words=8, seed=1, wrong_images=True)
    assert torch.equal(view[0, 0].wrong_image, source.pixels(0, 16))


def test_only_hosts_that_ask_get_wrong_images():
    assert [name for name, host in HOSTS.items() if host.wrong_images] == ["stackgan"]
    config = override(HOST.presets["demo"], ["data.train_images=8"])
    given = training_batches(
        config, Scenes("train", images=8), WORDS, World(), size=32, batch_size=2, wrong_images=True
    )
    batch = next(iter(given(0)))
    assert batch.to("cpu").wrong_images.shape == (2, 3, 32, 32)


# Commands


def test_training_resumes_to_the_bit_and_draws_and_is_evaluated(tmp_path, encoders):
    tail = (*SIZES, "run.log_every=1", "run.grid_every=4", "loss.colour=2.0")
    whole = train_tiny("stackgan", tmp_path / "whole", encoders, 4, *tail)
    train_tiny("stackgan", tmp_path / "parts", encoders, 2, *tail)
    parts = train_tiny("stackgan", tmp_path / "parts", encoders, 4, *tail)
    assert differences(whole, parts) == []
    assert stats_of(tmp_path / "whole") == stats_of(tmp_path / "parts")
    logged = stats_of(tmp_path / "whole")[-1]
    assert {"D8/wrong_unconditional", "D32/logit_wrong", "G/colour_32", "G/colour_16"} <= set(
        logged
    )
    assert "G/kl" in logged and "G/damsm_words" not in logged
    assert (tmp_path / "whole" / "grids" / "0000004.png").exists()

    run, out = str(tmp_path / "whole"), tmp_path / "pictures"
    sample.main(["--run", run, "--out", str(out), "--device", "cpu", "--all-stages"])
    assert list(out.glob("*_32px.png")) and not list(out.glob("*_layout.png"))
    with pytest.raises(SystemExit):
        sample.main(["--run", run, "--text", "a red star", "--overlays", "--device", "cpu"])
    evaluate.main(["--run", run, "--images", "12", "--device", "cpu"])
    written = (tmp_path / "whole" / "evaluation.json").read_text()
    assert "r_precision" in written and "NaN" not in written
    assert isinstance(load_run(run).generator, StackGANGenerator)


@pytest.fixture(scope="module")
def host(tmp_path_factory, encoders):
    """The last checkpoint of a run without refinement."""
    return train_tiny("stackgan", tmp_path_factory.mktemp("host"), encoders, 2, *SIZES)


@pytest.mark.parametrize("source", ["module", "damsm"])
def test_refinement_of_zero_weight_is_the_host_to_the_bit(source, host, tmp_path, encoders):
    settings = (*SIZES, *REFINED, f"refine.source={source}")
    zero = [f"refine.{term}.weight=0" for term in ("alr", "reconstruction", "lvr")]
    idle = train_tiny(
        "stackgan", tmp_path / "zero", encoders, 2, *settings, *zero, refine="alr,lvr"
    )
    active = train_tiny("stackgan", tmp_path / "on", encoders, 2, *settings, refine="alr,lvr")
    for name in ("generator", "discriminators", "average"):
        assert differences(host["networks"][name], idle["networks"][name]) == []
    assert differences(host["networks"]["generator"], active["networks"]["generator"])
    assert host["networks"]["average"].keys() == active["networks"]["average"].keys()
    assert ("layout_modules" in active["networks"]) == (source == "module")
    logged = stats_of(tmp_path / "on")[-1]
    names = ("stage1/alr", "stage2/lvr", "stage1/reconstruction")
    expected = names if source == "module" else ("damsm/alr", "damsm/lvr")
    assert all(f"G/{name}" in logged for name in expected)
    evaluate.main(
        ["--run", str(tmp_path / "on"), "--images", "12", "--metrics", "pointing,agreement",
         "--device", "cpu"]
    )  # fmt: skip


def test_refinement_takes_the_layouts_that_damsm_sees(tmp_path):
    def configured(*arguments):
        parsed = train.parse(["stackgan", "--run-dir", str(tmp_path), *arguments])
        return train.configure(parsed).refine

    assert configured("--preset", "cub", "--refine", "alr,lvr").source == "damsm"
    asked = configured("--preset", "cub", "--refine", "alr", "--set", "refine.source=module")
    assert (asked.source, asked.terms) == ("module", "alr")
    arguments = ["attngan", "--preset", "cub", "--refine", "alr", "--run-dir", str(tmp_path)]
    assert train.configure(train.parse(arguments)).refine.source == "module"


def test_legacy_snapshots_and_damsm_are_options(tmp_path, encoders):
    settings = ("optim.legacy_snapshot=2", "loss.damsm=1", "loss.bank=8")
    state = train_tiny("stackgan", tmp_path / "two", encoders, 2, *settings)
    live, average = state["networks"]["generator"], state["networks"]["average"]
    buffers = {name for name in live if "running" in name or "num_batches" in name}
    assert all(torch.equal(live[name], average[name]) for name in live.keys() - buffers)
    assert any(not torch.equal(live[name], average[name]) for name in buffers)
    assert {"G/damsm_words", "G/damsm_sentence"} <= set(stats_of(tmp_path / "two")[-1])
    state = train_tiny("stackgan", tmp_path / "one", encoders, 1, *settings)
    assert differences(state["networks"]["generator"], state["networks"]["average"])


def test_torchrun_trains_and_one_process_goes_on(tmp_path, encoders):
    run = tmp_path / "run"
    settings = ("refine.source=damsm", "refine.alr.share=0.1", "model.stages=3")
    arguments = train_command("stackgan", run, encoders, 4, *settings, refine="alr")
    train_on_two_ranks(arguments)
    assert load_torch(checkpoints(run)[-1])["progress"] == {"step": 2, "images": 16}
    # One process goes on with the whole batch that two have shared.
    state = train_tiny("stackgan", run, encoders, 6, *settings, refine="alr")
    assert state["progress"] == {"step": 3, "images": 24}
