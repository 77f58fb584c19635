"""DF-GAN as a host: settings, start, files, truncation, and every command."""

import json
import pickle

import pytest
import torch

from baselines import evaluate, sample, train
from baselines.config import ConfigError, override
from baselines.convert import ConversionError, convert, from_original, to_original
from baselines.errors import UserError
from baselines.hosts import HOSTS, build_discriminators, build_generator
from baselines.hosts.dfgan.discriminator import DFGANDiscriminator, MatchHead
from baselines.hosts.dfgan.generator import DFGANGenerator
from baselines.hosts.dfgan.model import stages
from baselines.networks.encoders import ImageEncoder, TextEncoder
from baselines.runs import load_run
from baselines.sampling.drawing import seeded_noise
from baselines.sampling.pipeline import load
from tests.baselines.commands import differences, stats_of, train_tiny
from tests.support.keys import read_keys
from tests.support.paths import require, shared

HOST = HOSTS["dfgan"]
SIZES = ("model.base_size=32", "model.stages=1")
REFINED = ("refine.normalization=rms", "refine.alr.share=0.1", "refine.lvr.share=0.1")


def published():
    """The networks of the release, without values."""
    with torch.device("meta"):
        return {
            "G": DFGANGenerator(),
            "D": DFGANDiscriminator(embedding_dim=None),
            "C": MatchHead(32, 256),
        }


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def shapes(module):
    return {key: tuple(value.shape) for key, value in to_original(module).items()}


def test_networks_have_the_originals_size():
    assert {name: count(net) for name, net in published().items()} == {
        "G": 9_744_131, "D": 6_619_206, "C": 295_936,
    }  # fmt: skip
    with torch.device("meta"):
        for preset in ("cub", "coco"):
            config = HOST.presets[preset]
            assert count(build_generator(config)) == 9_744_131
            assert count(build_discriminators(config)) == 6_619_206 + 295_936


@pytest.mark.parametrize("name", ["G", "D", "C"])
def test_networks_have_the_originals_keys(name):
    assert shapes(published()[name]) == read_keys("dfgan")[name]


def test_the_keys_in_the_project_are_the_originals():
    listed, keys = {}, read_keys("dfgan")
    for line in require(shared("keys_dfgan.txt")).read_text().splitlines():
        if line.startswith("== "):
            network = listed.setdefault(line[3], {})
        elif listed and line:
            key, shape = line.split()[:2]
            network[key] = tuple(int(side) for side in shape.split("x"))
    assert keys == listed


def test_both_networks_of_d_in_one():
    """The head's weights come last, as the original hands them to its optimiser."""
    with torch.device("meta"):
        whole = DFGANDiscriminator()
    assert list(shapes(whole)) == [*shapes(published()["D"]), *shapes(published()["C"])]


@pytest.mark.parametrize(
    ("name", "images", "words"), [("cub", 1300 * 8855, 18), ("coco", 300 * 82783, 18)]
)
def test_presets_are_the_originals(name, images, words):
    config = HOST.presets[name]
    model, loss, optim = config.model, config.loss, config.optim
    assert (model.feature_dim, model.discriminator_dim, model.noise_dim) == (32, 32, 100)
    assert model.image_sizes == (256,) and config.data.max_words == words
    assert (loss.damsm, loss.kl, loss.penalty) == (0.0, 0.0, 2.0)
    assert (optim.batch_size, optim.images) == (32, images)
    assert (optim.g_lr, optim.d_lr, optim.beta1, optim.beta2) == (1e-4, 4e-4, 0.0, 0.9)
    assert (optim.ema, optim.amp) == (0.0, "no")
    assert set(HOST.presets) == {"cub", "coco", "scenes", "cub-small", "demo"}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.stages=2", "DF-GAN has one stage; set the image's side by model.base_size"),
        ("model.base_size=16", "needs 32 px or more"),
        ("model.discriminator_norm=spectral", "no norm"),
    ],
)
def test_settings_that_mean_nothing_here_are_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        build_generator(override(HOST.presets["demo"], [setting]))


def test_the_other_reading_of_the_decoder_is_refused():
    config = override(HOST.presets["demo"], ["refine.terms=alr", "refine.decode=head"])
    with pytest.raises(ConfigError, match=r"refine\.decode=stage"):
        stages(config, build_generator(config))
    guided = override(config, ["refine.source=damsm"])  # nothing is decoded
    assert len(stages(guided, build_generator(guided))) == 1


@pytest.mark.parametrize("size", [16, 48, 96])
def test_impossible_sizes_are_named(size):
    for kind in (DFGANGenerator, DFGANDiscriminator):
        with pytest.raises(ValueError, match=f"32, 64, 128, ..., got {size}"):
            kind(image_size=size)


# The start


def small(**sizes):
    torch.manual_seed(0)
    return DFGANGenerator(
        **{"image_size": 32, "feature_dim": 2, "embedding_dim": 6, "noise_dim": 5} | sizes
    )


def given(batch=4, dtype=torch.float32):
    return (
        torch.randn(batch, 5, dtype=dtype), torch.randn(batch, 6, dtype=dtype),
        torch.randn(batch, 6, 3, dtype=dtype), torch.ones(batch, dtype=torch.int64),
    )  # fmt: skip


def test_at_the_start_the_sentence_makes_no_difference():
    generator = small()
    noise, sentence, words, lengths = given()
    first = generator(noise, sentence, words, lengths).images[0]
    assert torch.equal(first, generator(noise, sentence + 1, words, lengths).images[0])
    assert not torch.equal(first, generator(noise + 1, sentence, words, lengths).images[0])


def test_at_the_start_every_residual_of_d_is_off():
    critic = DFGANDiscriminator(image_size=32, feature_dim=2, embedding_dim=None)
    before = critic(torch.ones(1, 3, 32, 32))
    with torch.no_grad():
        for block in critic.blocks:
            block.residual[0].weight.add_(1)
    assert torch.equal(before, critic(torch.ones(1, 3, 32, 32)))


def test_images_do_not_depend_on_the_batch():
    generator = small().double()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    inputs = given(5, torch.float64)
    (together,) = generator(*inputs).images
    for row in range(5):
        alone = generator(*(value[row : row + 1] for value in inputs)).images[0][0]
        torch.testing.assert_close(alone, together[row])
    with pytest.raises(ValueError, match=r"noise must be \(5, 5\), got \(5, 6\)"):
        generator(inputs[1], *inputs[1:])


def test_an_image_of_another_size_is_named():
    critic = DFGANDiscriminator(image_size=32, feature_dim=2)
    with pytest.raises(ValueError, match=r"\(B, 3, 32, 32\) images, got \(1, 3, 64, 64\)"):
        critic(torch.zeros(1, 3, 64, 64))


# Files


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("name", ["G 32", "G 128", "D", "C", "D and C"])
def test_there_and_back(name, wrapped):
    torch.manual_seed(1)
    sizes = {"image_size": 64, "feature_dim": 2}
    ours = {
        "G 32": lambda: small(),
        "G 128": lambda: small(image_size=128),
        "D": lambda: DFGANDiscriminator(**sizes, embedding_dim=None),
        "C": lambda: MatchHead(2, 6),
        "D and C": lambda: DFGANDiscriminator(**sizes, embedding_dim=6),
    }[name]()
    state = to_original(ours)
    back = from_original({f"module.{k}": v for k, v in state.items()} if wrapped else state)
    assert type(back) is type(ours) and not back.training
    assert differences(dict(ours.state_dict()), dict(back.state_dict())) == []
    assert differences(state, to_original(back)) == []


@pytest.mark.parametrize(
    "keys",
    [
        ["fc.weight", "block0.c1.weight", "block0.gamma", "conv_img.1.weight"],
        ["conv_img.weight", "block0.conv_r.0.weight", "block0.gamma"],
        ["COND_DNET.joint_conv.0.weight"],
    ],
)
def test_the_older_release_is_refused_by_name(keys):
    with pytest.raises(ConversionError, match="release before April 2022"):
        from_original({f"module.{key}": torch.zeros(1) for key in keys})


def test_a_checkpoint_of_theirs_holds_three_networks(tmp_path):
    networks = {
        "netG": small(),
        "netD": DFGANDiscriminator(image_size=32, feature_dim=2, embedding_dim=None),
        "netC": MatchHead(2, 6),
    }
    model = {
        name: {f"module.{key}": value for key, value in to_original(network).items()}
        for name, network in networks.items()
    }
    file = tmp_path / "state_epoch_1220.pth"
    torch.save({"model": model, "optimizers": {"optimizer_G": {}}, "epoch": 1220}, file)
    convert([file], tmp_path / "out", None, "cub")
    names = {path.stem for path in (tmp_path / "out").glob("*.safetensors")}
    assert names == {"generator", "discriminator_32", "discriminator_head"}


def test_a_converted_set_is_a_run_directory(tmp_path):
    torch.manual_seed(0)
    words = {0: "<end>", 1: "a", 2: "bird"}
    captions = tmp_path / "captions_DAMSM.pickle"
    captions.write_bytes(
        pickle.dumps([[[1, 2]], [[2]], words, {w: i for i, w in words.items()}], protocol=2)
    )
    networks = {
        "text": TextEncoder(3, embedding_dim=6, token_dim=5),
        "image": ImageEncoder(embedding_dim=6),
        "netG": small(image_size=64),
    }
    files = [tmp_path / f"{name}.pth" for name in networks]
    for file, network in zip(files, networks.values(), strict=True):
        torch.save(to_original(network), file)
    convert(files, tmp_path / "run", captions, "cub")
    run = load_run(tmp_path / "run")
    assert run.config.model.name == "dfgan" and run.config.model.image_sizes == (64,)
    state = networks["netG"].state_dict()
    assert differences(dict(run.generator.state_dict()), dict(state)) == []
    pipeline = load(tmp_path / "run", device="cpu", truncation=0.88)
    assert pipeline("a bird")[0].size == (64, 64)


# Truncation


def test_truncated_noise_has_the_distribution_it_should():
    noise, eps = seeded_noise(200_000, 50_000, 0, truncation=0.88)
    noise = noise.double()
    assert eps.abs().max() > 2  # the conditioning's noise is never cut
    assert noise.abs().max() <= 1.76
    # Standard deviation of a standard normal cut off at 2, by the closed form.
    density = torch.exp(torch.tensor(-2.0)) / (2 * torch.pi) ** 0.5
    inside = torch.erf(torch.tensor(2.0) / 2**0.5)
    deviation = 0.88 * (1 - 4 * density / inside).sqrt()
    assert abs(noise.std() - deviation) < 0.004 and abs(noise.mean()) < 0.008
    # Redrawn, not clipped: no heap at the ends.
    assert ((noise.abs() > 1.75).double().mean()) < 0.005


def test_without_truncation_noise_is_plain():
    (plain, eps), (cut, same) = (seeded_noise(9, 4, 3, truncation=rate) for rate in (0.0, 0.5))
    assert torch.equal(eps, same)
    inside = plain.abs() <= 2
    assert torch.equal(cut[inside], 0.5 * plain[inside]) and cut.abs().max() <= 1


# Commands


def test_training_resumes_to_the_bit_and_draws_and_is_evaluated(tmp_path, encoders):
    tail = (*SIZES, "run.log_every=1", "run.grid_every=4")
    whole = train_tiny("dfgan", tmp_path / "whole", encoders, 4, *tail)
    train_tiny("dfgan", tmp_path / "parts", encoders, 2, *tail)
    parts = train_tiny("dfgan", tmp_path / "parts", encoders, 4, *tail)
    assert differences(whole, parts) == []
    assert stats_of(tmp_path / "whole") == stats_of(tmp_path / "parts")
    logged = stats_of(tmp_path / "whole")[-1]
    assert {"D/penalty", "D/wrong", "D/logit_fake", "G/adversarial"} <= set(logged)
    assert "G/kl" not in logged and "G/damsm_words" not in logged
    assert (tmp_path / "whole" / "grids" / "0000004.png").exists()

    run, out = str(tmp_path / "whole"), tmp_path / "pictures"
    arguments = ["--run", run, "--text", "a red star", "--device", "cpu", "--singles"]
    for name, truncation in (("plain", []), ("cut", ["--truncation", "0.5"])):
        sample.main([*arguments, "--out", str(out / name), *truncation])
    plain, cut = (next((out / name).glob("*.png")).read_bytes() for name in ("plain", "cut"))
    assert plain != cut
    with pytest.raises(SystemExit):
        sample.main([*arguments, "--truncation", "-1"])
    evaluate.main(["--run", run, "--images", "12", "--device", "cpu", "--truncation", "0.88"])
    written = json.loads((tmp_path / "whole" / "evaluation.json").read_text())["evaluations"][-1]
    assert written["protocol"]["truncation"] == 0.88 and "fid/damsm" in written["metrics"]
    with pytest.raises(UserError, match=r"truncation is -1\.0"):
        evaluate.main(["--run", run, "--images", "12", "--device", "cpu", "--truncation", "-1"])


@pytest.fixture(scope="module")
def host(tmp_path_factory, encoders):
    """The last checkpoint of a run without refinement."""
    return train_tiny("dfgan", tmp_path_factory.mktemp("host"), encoders, 2, *SIZES)


@pytest.mark.parametrize("source", ["module", "damsm"])
def test_refinement_of_zero_weight_is_the_host_to_the_bit(source, host, tmp_path, encoders):
    settings = (*SIZES, *REFINED, f"refine.source={source}")
    zero = [f"refine.{term}.weight=0" for term in ("alr", "reconstruction", "lvr")]
    idle = train_tiny("dfgan", tmp_path / "zero", encoders, 2, *settings, *zero, refine="alr,lvr")
    active = train_tiny("dfgan", tmp_path / "on", encoders, 2, *settings, refine="alr,lvr")
    for name in ("generator", "discriminators", "average"):
        assert differences(host["networks"][name], idle["networks"][name]) == []
    assert differences(host["networks"]["generator"], active["networks"]["generator"])
    assert host["networks"]["average"].keys() == active["networks"]["average"].keys()
    logged = stats_of(tmp_path / "on")[-1]
    names = ("stage1/alr", "stage1/reconstruction", "stage1/lvr")
    expected = names if source == "module" else ("damsm/alr", "damsm/lvr")
    assert all(f"G/{name}" in logged for name in expected)


def test_averaging_is_an_option_and_off_as_published(tmp_path, encoders):
    settings = (*SIZES, "optim.ema=0", "loss.damsm=1")
    state = train_tiny("dfgan", tmp_path / "off", encoders, 2, *settings)
    live, average = (state["networks"][name] for name in ("generator", "average"))
    assert differences(live, average) == []
    assert "G/damsm_words" in stats_of(tmp_path / "off")[-1]
    state = train_tiny("dfgan", tmp_path / "on", encoders, 2, *SIZES)
    assert differences(state["networks"]["generator"], state["networks"]["average"])


def test_refinement_takes_the_layouts_that_damsm_sees(tmp_path):
    arguments = ["dfgan", "--preset", "coco", "--refine", "alr,lvr", "--run-dir", str(tmp_path)]
    assert train.configure(train.parse(arguments)).refine.source == "damsm"
