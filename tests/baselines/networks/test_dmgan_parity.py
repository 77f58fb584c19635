"""DM-GAN against an independent float64 transcription of its specification."""

import pytest
import torch

from baselines import losses
from baselines.conversion.recognise import original_names
from baselines.convert import from_original, to_original
from baselines.hosts.dmgan.fusion import DynamicMemory
from baselines.networks.contracts import Text
from baselines.networks.discriminators import Discriminator
from baselines.networks.generator import StackedGenerator
from tests.baselines.networks import dmgan_oracle

LENGTHS = torch.tensor([5, 3, 1])
BATCH, WORDS, EMBEDDING = 3, 5, 12


def draw(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    made = StackedGenerator(
        feature_dim=4,
        fusion=DynamicMemory,
        embedding_dim=EMBEDDING,
        condition_dim=6,
        noise_dim=7,
        base_size=16,
    ).double()
    for name, buffer in made.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return made


@pytest.fixture(scope="module")
def inputs():
    words = draw(BATCH, EMBEDDING, WORDS, seed=1)
    for row, length in zip(words, LENGTHS, strict=True):
        row[:, length:] = 0
    return {
        "noise": draw(BATCH, 7, seed=2),
        "sentence": draw(BATCH, EMBEDDING, seed=3),
        "words": words,
        "eps": draw(BATCH, 6, seed=4),
    }


def original_state(generator):
    return {
        theirs: generator.state_dict()[ours] for ours, theirs in original_names(generator).items()
    }


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("legacy", [True, False])
def test_generator_equals_the_transcription(generator, inputs, legacy, training):
    state = {key: value.clone() for key, value in original_state(generator).items()}
    generator.train(training).legacy_mask = legacy
    with torch.no_grad():
        output = generator(
            inputs["noise"], inputs["sentence"], inputs["words"], LENGTHS, eps=inputs["eps"]
        )
        images, maps, mu, logvar = dmgan_oracle.generator(
            state,
            inputs["noise"],
            inputs["sentence"],
            inputs["words"],
            LENGTHS,
            inputs["eps"],
            legacy=legacy,
            training=training,
            halvings=2,
        )
    for ours, theirs in zip((*output.images, *output.layouts), (*images, *maps), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)
    torch.testing.assert_close(output.mu, mu, atol=1e-12, rtol=0)
    torch.testing.assert_close(output.logvar, logvar, atol=1e-12, rtol=0)


def test_gradients_of_the_memory_equal_the_transcription():
    torch.manual_seed(1)
    fusion = DynamicMemory(4, EMBEDDING).double()
    features, words = draw(BATCH, 4, 3, 3, seed=5), draw(BATCH, EMBEDDING, WORDS, seed=6)
    features.requires_grad_()
    weights = draw(BATCH, 8, 3, 3, seed=7)
    fused, _ = fusion(features, Text(words, LENGTHS, words[:, :, 0]))
    ours = torch.autograd.grad((fused * weights).sum(), [features, *fusion.parameters()])
    names = {
        "word_gate": "m.A",
        "image_gate": "m.B",
        "write_words": "m.M_w",
        "write_image": "m.M_r",
        "response_gate": "m.response_gate.0",
    }
    state = {}
    for name, value in fusion.named_parameters():
        part, rest = name.split(".", 1)
        state[f"{names.get(part, f'm.{part}')}.{rest}"] = value
    response, _ = dmgan_oracle.memory(features, words, LENGTHS, state, "m", legacy=False)
    theirs = torch.autograd.grad(
        (torch.cat((response, response), 1) * weights).sum(), [features, *fusion.parameters()]
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=0)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_discriminator_step_equals_the_transcription(size):
    torch.manual_seed(size)
    ours = Discriminator(image_size=size, feature_dim=2, embedding_dim=EMBEDDING, norm="spectral")
    ours.double()
    # Rough vectors, as an untrained original has: converged ones would hide a wrong order.
    for name, buffer in ours.named_buffers():
        if name.endswith(("_u", "_v")):
            buffer.copy_(torch.nn.functional.normalize(torch.randn_like(buffer), dim=0))
    oracle = dmgan_oracle.Discriminator(to_original(ours), size)
    real, fake = draw(BATCH, 3, size, size, seed=8), draw(BATCH, 3, size, size, seed=9)
    sentence = draw(BATCH, EMBEDDING, seed=10)
    for _ in range(2):  # the second step starts from the vectors that the first one left
        loss = losses.discriminator_loss(ours, real, fake, sentence)
        expected = oracle.loss(real, fake, sentence)
        torch.testing.assert_close(loss, expected, atol=1e-11, rtol=0)
    loss.backward()
    expected.backward()
    names = original_names(ours)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(
            parameter.grad, oracle.state[names[name]].grad, atol=1e-10, rtol=0
        )
    for key, value in to_original(ours).items():
        torch.testing.assert_close(value, oracle.state[key].detach(), atol=1e-11, rtol=0)


def test_evaluation_leaves_the_spectral_vectors_alone():
    network = Discriminator(image_size=16, feature_dim=2, embedding_dim=4, norm="spectral").eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    network.conditional(network(torch.randn(2, 3, 16, 16)), torch.randn(2, 4))
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d) and "logit" not in name:
            largest = torch.linalg.matrix_norm(module.weight.flatten(1), ord=2).item()
            assert largest == pytest.approx(1, abs=0.02)


def test_the_memory_layout_is_a_distribution_over_real_words(generator, inputs):
    fusion = generator.stages[0].fusion
    fusion.legacy_mask = False
    features = draw(BATCH, 4, 4, 6, seed=11)
    text = Text(inputs["words"], LENGTHS, inputs["sentence"])
    layout = fusion.layout(features, text)
    torch.testing.assert_close(layout.sum(1), torch.ones_like(layout[:, 0]))
    for row, length in zip(layout, LENGTHS, strict=True):
        assert (row[length:] == 0).all()
    torch.testing.assert_close(layout, fusion(features, text)[1])


def test_round_trip_keeps_every_number(generator):
    back = from_original(original_state(generator))
    assert isinstance(back, StackedGenerator) and back.legacy_mask
    for key, value in generator.state_dict().items():
        assert torch.equal(back.state_dict()[key], value)
