"""MirrorGAN's generator step against the transcription, and what the captioner does in it."""

import copy
from dataclasses import replace

import pytest
import torch

from baselines.config import LossConfig, RefineConfig, StreamConfig
from baselines.data.loader import training_loader
from baselines.data.scenes import Scenes
from baselines.hosts import HOSTS
from baselines.hosts.mirrorgan import objective as mirrorgan
from baselines.hosts.mirrorgan.captioner import build_captioner
from baselines.networks.contracts import GeneratorInputs, Text
from baselines.runs import load_encoders
from baselines.training.distributed import World
from baselines.training.loop import run_phase
from tests.baselines.hosts import mirrorgan_oracle as oracle
from tests.support.tiny_run import tiny_config

HOST = HOSTS["mirrorgan"]
STREAM = StreamConfig(trunk="small", input_size=32, train_trunk=True, embedding_dim=6, hidden_dim=7)
CONFIG = replace(tiny_config("mirrorgan"), loss=LossConfig(damsm=0, caption=10), stream=STREAM)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def batch(encoders):
    words = load_encoders(encoders).vocabulary
    loader = training_loader(
        Scenes("train", images=16, max_objects=2),
        words,
        size=32,
        max_words=18,
        batch_size=4,
        seed=0,
    )
    first = next(iter(loader))
    return replace(first, images=first.images.double())


@pytest.fixture
def captioner(encoders):
    torch.manual_seed(2)
    return build_captioner(STREAM, len(load_encoders(encoders).vocabulary))


def objective_of(encoders, captioner, config=CONFIG):
    loaded = load_encoders(encoders)
    torch.manual_seed(0)
    return mirrorgan.MirrorGANObjective(
        config,
        HOST.generator(config),
        HOST.discriminators(config),
        loaded.text.double(),
        loaded.image.double(),
        World(),
        captioner=captioner,
    )


def naive_total(state, step, discriminators, captioner):
    """The generator's whole loss from the original's description."""
    noise, text, eps = step.inputs
    images, _, mu, logvar = oracle.generator(
        state, noise, text.sentence, text.words, text.lengths, eps,
        legacy=False, training=True, halvings=2, stages=2, blocks=1,
    )  # fmt: skip
    total = -0.5 * (1 + logvar - mu**2 - logvar.exp()).mean()
    for image, judge in zip(images, discriminators, strict=True):
        seen = judge(image)
        for logits in (judge.unconditional(seen), judge.conditional(seen, text.sentence)):
            total = total - torch.log(1 / (1 + torch.exp(-logits))).mean()
    decoder = captioner.decoder
    names = HOST.original_names(decoder)
    words = {names[key]: value for key, value in decoder.state_dict().items()}
    feature = captioner.image(images[-1])
    return total + 10 * oracle.caption_loss(feature, step.batch.captions, step.batch.lengths, words)


def test_generator_loss_and_gradients_equal_the_transcription(encoders, captioner, batch):
    objective = objective_of(encoders, captioner)
    judges, generator = copy.deepcopy(objective.discriminators), objective.net
    names = HOST.original_names(generator)
    state = {names[k]: v.clone() for k, v in generator.state_dict().items()}
    leaves = {k: state[names[k]].requires_grad_() for k, _ in generator.named_parameters()}

    step = objective.begin(batch, 1)
    loss = objective.generator_loss(step)
    expected = naive_total(state, step, judges, captioner)
    torch.testing.assert_close(loss.total, expected, atol=1e-9, rtol=0)
    assert [term.name for term in loss.terms if term.weight is not None] == [
        "adversarial_16", "adversarial_32", "kl", "caption",
    ]  # fmt: skip
    parameters = dict(generator.named_parameters())
    ours = torch.autograd.grad(loss.total, list(parameters.values()))
    theirs = torch.autograd.grad(expected, [leaves[name] for name in parameters])
    for name, a, b in zip(parameters, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0, msg=name)


def test_the_captioner_is_frozen_and_stays_as_it_is(encoders, captioner, batch):
    objective = objective_of(encoders, captioner)
    before = {k: v.clone() for k, v in captioner.state_dict().items()}
    assert not any(p.requires_grad for p in captioner.parameters())
    assert "captioner" not in objective.networks and not captioner.image.training
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    step = objective.begin(batch, 1)
    for phase in objective.phases:
        run_phase(phase, objective.phases, [step], scaler, World())
    assert all(torch.equal(before[k], v) for k, v in captioner.state_dict().items())
    assert all(p.grad is None for p in captioner.parameters())


def test_without_its_loss_no_captioner_is_needed(encoders, batch):
    with pytest.raises(ValueError, match=r"loss\.caption=10\.0 needs a captioner"):
        objective_of(encoders, None)
    objective = objective_of(encoders, None, replace(CONFIG, loss=LossConfig(damsm=0)))
    names = [term.name for term in objective.host_terms(objective.begin(batch, 1))]
    assert names == ["adversarial_16", "adversarial_32", "kl"]


@pytest.mark.parametrize("decode", ["stage", "head"])
def test_decoding_the_features_themselves_gives_the_image_drawn(decode):
    """The next image, or through the head alone that of the grid: same condition, same words."""
    torch.manual_seed(1)
    config = replace(
        tiny_config("mirrorgan", stages=3, base_size=8), refine=RefineConfig(decode=decode)
    )
    generator = HOST.generator(config).eval()
    text = Text(torch.randn(3, 32, 5), torch.tensor([5, 2, 3]), torch.randn(3, 32))
    inputs = GeneratorInputs(torch.randn(3, 10), text, torch.randn(3, 12))
    with torch.no_grad():
        drawn = generator(inputs.noise, text.sentence, text.words, text.lengths, eps=inputs.eps)
        for number, stage in enumerate(HOST.stages(config, generator)):
            image = drawn.images[number + (decode == "stage")]
            assert image.shape[-1] == stage.image_size
            assert torch.equal(stage.decode(stage.features(drawn), inputs), image)
            layout = stage.source.layout(stage.features(drawn), text)
            torch.testing.assert_close(layout, stage.layout(drawn))


def test_gradients_of_ranks_with_different_numbers_of_words_are_those_of_all(
    captioner, batch, monkeypatch
):
    everyone, world = batch.lengths, World(0, 2)
    captioner.eval().requires_grad_(False)
    images = batch.images.clone().requires_grad_()
    whole = mirrorgan.global_caption_loss(captioner, images, batch, World())
    monkeypatch.setattr(mirrorgan, "gather", lambda lengths, world: everyone)
    shares = []
    for rows in (slice(0, 1), slice(1, 4)):
        part = replace(
            batch,
            captions=batch.captions[rows],
            lengths=batch.lengths[rows],
            lengths_cpu=batch.lengths_cpu[rows],
        )
        shares.append(mirrorgan.global_caption_loss(captioner, images[rows], part, world))
    averaged = torch.stack(shares).mean()
    torch.testing.assert_close(averaged, whole)
    for a, b in zip(*(torch.autograd.grad(x, images) for x in (averaged, whole)), strict=True):
        torch.testing.assert_close(a, b)
