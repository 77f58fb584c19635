"""MirrorGAN's networks against an independent float64 transcription of what they compute."""

import pytest
import torch

from baselines import losses
from baselines.convert import ConversionError, from_original, to_original
from baselines.hosts import HOSTS
from baselines.hosts.mirrorgan.captioner import CaptionDecoder, Captioner, CaptionImageEncoder
from baselines.hosts.mirrorgan.fusion import GlobalLocalAttention
from baselines.networks.contracts import Text
from baselines.networks.generator import StackedGenerator
from tests.baselines.hosts import mirrorgan_oracle as oracle
from tests.support.keys import read_keys
from tests.support.tiny_run import tiny_config

BATCH, WORDS, EMBEDDING, V = 3, 5, 32, 11
LENGTHS = torch.tensor([3, 5, 1])
CAPTIONS = torch.tensor([[4, 7, 2, 0, 0], [1, 1, 10, 3, 9], [6, 0, 0, 0, 0]])
MIRRORGAN = HOSTS["mirrorgan"]


def draw(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unsettled(network):
    """Running statistics and scales that matter."""
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith("running_mean"):
                value.normal_(0, 0.1)
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
    return network


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    config = tiny_config("mirrorgan", stages=3, base_size=8, feature_dim=4)
    return unsettled(MIRRORGAN.generator(config).double())


@pytest.fixture(scope="module")
def captioner():
    torch.manual_seed(1)
    image = CaptionImageEncoder(embedding_dim=6, trunk="resnet26", input_size=64)
    return unsettled(Captioner(image, CaptionDecoder(V, embedding_dim=6, hidden_dim=7)).double())


@pytest.fixture(scope="module")
def inputs():
    words = draw(BATCH, EMBEDDING, WORDS, seed=1)
    for row, length in zip(words, LENGTHS, strict=True):
        row[:, length:] = 0
    return {
        "noise": draw(BATCH, 10, seed=2),
        "sentence": draw(BATCH, EMBEDDING, seed=3),
        "words": words,
        "lengths": LENGTHS,
        "eps": draw(BATCH, 12, seed=4),
    }


def drawn(generator, inputs, rows=slice(None)):
    with torch.no_grad():
        return generator(**{name: value[rows] for name, value in inputs.items()})


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("legacy", [True, False])
def test_generator_equals_the_transcription(generator, inputs, legacy, training):
    state = {key: value.clone() for key, value in to_names(generator).items()}
    generator.train(training).legacy_mask = legacy
    output = drawn(generator, inputs)
    images, maps, mu, logvar = oracle.generator(
        state,
        inputs["noise"],
        *(inputs[name] for name in ("sentence", "words", "lengths", "eps")),
        legacy=legacy,
        training=training,
        halvings=1,
        stages=3,
        blocks=1,
    )
    ours = (*output.images, *output.layouts, output.mu, output.logvar)
    for value, expected in zip(ours, (*images, *maps, mu, logvar), strict=True):
        torch.testing.assert_close(value, expected, atol=1e-10, rtol=0)


def to_names(network):
    """The state under the original's names, for generators smaller than the original's too."""
    names = MIRRORGAN.original_names(network)
    return {theirs: network.state_dict()[ours] for ours, theirs in names.items()}


def test_a_picture_does_not_depend_on_its_batch_or_its_padding(generator, inputs):
    generator.eval().legacy_mask = False
    together = drawn(generator, inputs)
    other = inputs | {"words": inputs["words"].clone()}
    for row, length in zip(other["words"], LENGTHS, strict=True):
        row[:, length:] = 1e3
    for ours, theirs in zip(together.images, drawn(generator, other).images, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    for row in range(BATCH):
        alone = drawn(generator, inputs, slice(row, row + 1))
        for ours, theirs in zip(alone.images, together.images, strict=True):
            torch.testing.assert_close(ours[0], theirs[row], atol=1e-12, rtol=0)


def test_a_stage_reads_the_condition_and_not_the_sentence(generator, inputs):
    generator.eval().legacy_mask = False
    h, fusion = drawn(generator, inputs).features[0], generator.stages[0].fusion
    text = Text(inputs["words"], LENGTHS, inputs["sentence"])
    with pytest.raises(ValueError, match=r"text\.condition"):
        fusion(h, text)
    with torch.no_grad():
        condition, *_ = generator.condition(inputs["sentence"], inputs["eps"])
        fused, _ = fusion(h, text._replace(condition=condition))
        same, _ = fusion(h, Text(*text[:2], torch.zeros(BATCH, 1), condition))
        other, _ = fusion(h, text._replace(condition=-condition))
    assert torch.equal(fused, same) and (fused - other).abs().max() > 1e-3


def test_the_gate_shares_every_region_among_the_channels():
    torch.manual_seed(0)
    fusion = GlobalLocalAttention(4, EMBEDDING, 6).double()
    features, condition = draw(2, 4, 3, 3, seed=5), draw(2, 6, seed=6)
    with torch.no_grad():
        # A join that lets only the sentence context through, divided by the condition: the shares.
        fusion.join.weight.zero_()
        fusion.join.weight[:4, 8:, 0, 0] = torch.eye(4)
        text = Text(draw(2, EMBEDDING, 3, seed=7), torch.tensor([3, 2]), draw(2, 1, seed=8))
        fused, layout = fusion(features, text._replace(condition=condition))
        shares = fused[:, :4] / fusion.project(condition)[:, :, None, None]
    torch.testing.assert_close(shares.sum(1), torch.ones(2, 3, 3, dtype=torch.float64))
    torch.testing.assert_close(layout, fusion.layout(features, text))


@pytest.mark.parametrize(("side", "aligned"), [(96, False), (32, True)])
def test_captioner_loss_and_gradient_equal_the_transcription(captioner, side, aligned):
    """Frozen and in evaluation mode, as in the GAN: into the image."""
    captioner.eval()
    captioner.image.aligned_corners = aligned
    cnn, rnn = to_names(captioner.image), to_original(captioner.decoder)
    images = draw(BATCH, 3, side, side, seed=9).tanh().requires_grad_()
    ours = losses.caption_loss(*captioner(images, CAPTIONS, LENGTHS))
    feature = oracle.image_feature(images, cnn, 64, aligned)
    theirs = oracle.caption_loss(feature, CAPTIONS, LENGTHS, rnn)
    torch.testing.assert_close(captioner.image(images), feature, atol=1e-10, rtol=0)
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)
    (gradient,), (expected,) = (torch.autograd.grad(loss, images) for loss in (ours, theirs))
    assert expected.abs().max() > 1e-6
    torch.testing.assert_close(gradient, expected, atol=1e-10, rtol=1e-8)
    captioner.image.aligned_corners = False


def test_decoder_gradients_and_the_order_of_words_equal_the_transcription(captioner):
    decoder = captioner.decoder
    features = draw(BATCH, 6, seed=10).requires_grad_()
    logits, targets = decoder(features, CAPTIONS, LENGTHS)
    each = oracle.word_losses(features, CAPTIONS, LENGTHS, to_original(decoder))
    # Longest caption first, one word of every caption still running at a time.
    order = [(1, 0), (0, 0), (2, 0), (1, 1), (0, 1), (1, 2), (0, 2), (1, 3), (1, 4)]
    assert targets.tolist() == [int(CAPTIONS[b, j]) for b, j in order]
    ours = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(ours, torch.stack([each[b][j] for b, j in order]))

    state = {k: v.clone().requires_grad_() for k, v in to_original(decoder).items()}
    theirs = oracle.caption_loss(features, CAPTIONS, LENGTHS, state)
    expected = torch.autograd.grad(theirs, [features, *state.values()])
    parameters = [value for _, value in decoder.named_parameters()]
    loss = losses.caption_loss(logits, targets)
    for a, b in zip(torch.autograd.grad(loss, [features, *parameters]), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=0)


def test_words_behind_a_captions_end_do_not_count(captioner):
    features = draw(BATCH, 6, seed=11)
    other = CAPTIONS.clone()
    for row, length in zip(other, LENGTHS, strict=True):
        row[length:] = 8
    first, second = (captioner.decoder(features, c, LENGTHS)[0] for c in (CAPTIONS, other))
    assert torch.equal(first, second)


def test_frozen_trunk_keeps_its_statistics_and_the_lstm_its_training_mode(captioner):
    captioner.train()
    before = {k: v.clone() for k, v in captioner.state_dict().items()}
    captioner(draw(2, 3, 64, 64, seed=12), CAPTIONS[:2], LENGTHS[:2])
    moved = {k for k, v in captioner.state_dict().items() if not torch.equal(before[k], v)}
    assert moved == {
        f"image.norm.{k}" for k in ("running_mean", "running_var", "num_batches_tracked")
    }
    captioner.load_state_dict(before)
    captioner.eval()
    assert captioner.decoder.lstm.training and not captioner.image.norm.training


def test_normalise_gives_the_trunk_what_it_was_trained_on():
    torch.manual_seed(3)
    plain = CaptionImageEncoder(trunk="resnet26", input_size=32).eval()
    other = CaptionImageEncoder(trunk="resnet26", input_size=32, normalise=True).eval()
    other.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 32, 32)
    mean, std = (
        torch.tensor(plain.trunk.net.default_cfg[k]).view(3, 1, 1) for k in ("mean", "std")
    )
    with torch.no_grad():
        torch.testing.assert_close(other(2 * images - 1), plain((images - mean) / std))


@pytest.mark.parametrize(
    ("logits", "targets"),
    [((2, 3, 4), (2, 3)), ((3, 4), (2,)), ((0, 4), (0,))],
)
def test_caption_loss_refuses_other_shapes(logits, targets):
    with pytest.raises(ValueError, match=r"logits must be \(N, V\)"):
        losses.caption_loss(torch.zeros(logits), torch.zeros(targets, dtype=torch.int64))


def test_bad_captions_and_widths_are_named(captioner):
    with pytest.raises(ValueError, match=r"captions must be \(B, T\)"):
        captioner.decoder(draw(3, 6, seed=0), CAPTIONS, LENGTHS[:2])
    with pytest.raises(ValueError, match="width 6 for a decoder of width 5"):
        Captioner(captioner.image, CaptionDecoder(V, embedding_dim=5))


def make(build, *arguments, **settings):
    with torch.device("meta"):
        return build(*arguments, **settings)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_full_size_networks_have_the_listed_keys_and_numbers():
    listed, cub = read_keys("mirrorgan"), MIRRORGAN.presets["cub"]
    generator, discriminators = make(MIRRORGAN.generator, cub), make(MIRRORGAN.discriminators, cub)
    networks = {"G": generator, "caption_cnn": make(CaptionImageEncoder)}
    networks["caption_rnn"] = make(CaptionDecoder, 5450)
    networks |= {f"D{d.image_size}": d for d in discriminators}
    for name, network in networks.items():
        shapes = {key: tuple(value.shape) for key, value in to_original(network).items()}
        assert shapes == listed[name], name
    assert {name: count(network) for name, network in networks.items()} == {
        "G": 7_105_392,
        "caption_cnn": 58_668_864,
        "caption_rnn": 5_768_010,
        "D64": 6_313_730,
        "D128": 19_424_002,
        "D256": 71_858_946,
    }
    heads = networks["caption_cnn"]
    assert count(heads.linear) + count(heads.norm) == 525_056
    assert count(generator.stages[0]) == 277_536


def test_presets_are_the_originals_where_there_are_any():
    cub = MIRRORGAN.presets["cub"]
    assert (cub.optim.batch_size, cub.optim.images) == (12, 650 * 8855)
    assert (cub.loss.caption, cub.loss.damsm, cub.loss.kl) == (10, 0, 1)
    assert (cub.loss.gamma1, cub.loss.gamma2, cub.loss.gamma3) == (4, 5, 10)
    model = cub.model
    assert (model.feature_dim, model.discriminator_dim, model.residual_blocks) == (32, 64, 2)
    assert (cub.optim.g_lr, cub.optim.d_lr, cub.optim.beta1, cub.optim.ema) == (
        2e-4,
        2e-4,
        0.5,
        0.999,
    )
    assert (cub.stream.batch_size, cub.stream.images, cub.stream.lr) == (128, 5 * 8855, 1e-3)
    assert "coco" not in MIRRORGAN.presets  # its repository has no configuration for it


def test_round_trip_keeps_every_number(captioner):
    torch.manual_seed(0)
    config = tiny_config("mirrorgan", stages=3, base_size=64, feature_dim=2)
    networks = (MIRRORGAN.generator(config), captioner.image, captioner.decoder)
    for network in networks:
        back = from_original(to_original(network))
        assert type(back) is type(network) and not back.training
        assert back.state_dict().keys() == network.state_dict().keys()
        for key, value in network.state_dict().items():
            assert torch.equal(back.state_dict()[key], value), key
        trained = {name for name, p in network.named_parameters() if p.requires_grad}
        assert {name for name, p in back.named_parameters() if p.requires_grad} == trained
    generator = from_original(to_original(networks[0]))
    assert isinstance(generator, StackedGenerator) and generator.legacy_mask
    assert isinstance(generator.stages[1].fusion, GlobalLocalAttention)
    sees = from_original(to_original(captioner.image))
    with torch.no_grad():  # the constants of the trunk are there as well
        sees.double()(draw(1, 3, 64, 64, seed=13))


def test_a_captioner_without_a_resnet_has_no_original_form():
    small = CaptionImageEncoder(trunk="small", input_size=32)
    with pytest.raises(ConversionError, match="sees with a ResNet, this one with small"):
        to_original(small)
    state = to_original(make(CaptionImageEncoder, trunk="resnet26"))
    state = {k: v for k, v in state.items() if not k.startswith("resnet.5.1.")}
    with pytest.raises(ConversionError, match=r"\(2, 1, 2, 2\) blocks per level"):
        from_original(state)
