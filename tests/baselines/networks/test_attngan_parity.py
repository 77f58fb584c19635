"""AttnGAN against tensors that the original networks and losses computed in float64."""

import pytest
import torch

from baselines import losses
from baselines.conversion.recognise import original_names
from baselines.convert import from_original
from tests.baselines.networks.original import after_training, golden

TOLERANCE = 1e-6
DAMSM = {"gamma1": 4.0, "gamma2": 5.0}


def close(ours, theirs, tolerance=TOLERANCE):
    assert ours.shape == theirs.shape
    error = (ours.double() - theirs.double()).abs().max().item()
    assert error <= tolerance, error


@pytest.fixture(scope="module")
def text():
    state = golden()["text"]["state"]
    inputs = golden()["in"]
    with torch.inference_mode():
        return from_original(state)(inputs["captions"], inputs["lengths"])


def run(generator, text, inputs=None, rows=slice(None)):
    inputs = inputs or golden()["in"]
    with torch.no_grad():
        return generator(
            inputs["z"][rows],
            text.sentence[rows],
            text.words[rows],
            inputs["lengths"][rows],
            eps=inputs["eps"][rows],
        )


def assert_output(output, expected):
    for ours, theirs in zip(output.images, expected["images"], strict=True):
        close(ours, theirs)
    close(output.layouts[0], expected["attention64"])
    close(output.layouts[1][..., ::4, ::4], expected["attention128_stride4"])
    close(output.mu, expected["mu"])
    close(output.logvar, expected["logvar"])


def test_text_encoder(text):
    close(text.words, golden()["text"]["words"], 1e-12)
    close(text.sentence, golden()["text"]["sent"], 1e-12)


def test_generator_in_training_mode_with_the_originals_mask(text):
    g = golden()["G"]
    generator = from_original(g["state_initial"]).train()
    assert generator.legacy_mask
    assert_output(run(generator, text), g["train"])


def test_generator_in_evaluation_mode_with_both_masks(text):
    g = golden()["G"]
    generator = from_original(after_training(g)).eval()
    assert_output(run(generator, text), g["eval"])
    generator.legacy_mask = False
    assert not generator.legacy_mask
    correct = run(generator, text)
    for ours, theirs in zip(correct.images, g["eval_correct_mask"]["images"], strict=True):
        close(ours, theirs)


def test_legacy_mask_depends_on_the_batch_and_the_correct_one_does_not(text):
    generator = from_original(after_training(golden()["G"])).eval()
    together = {}
    for legacy in (True, False):
        generator.legacy_mask = legacy
        together[legacy] = run(generator, text)
    alone = [run(generator, text, rows=slice(i, i + 1)) for i in range(3)]
    for i, single in enumerate(alone):
        for ours, theirs in zip(single.images, together[False].images, strict=True):
            close(ours[0], theirs[i], 1e-12)
    assert (together[True].images[2] - together[False].images[2]).abs().max() > 1e-5


def test_image_order_in_the_batch_does_not_matter(text):
    generator = from_original(after_training(golden()["G"])).eval()
    generator.legacy_mask = False
    order = torch.tensor([2, 0, 1])
    straight, shuffled = run(generator, text), run(generator, text, rows=order)
    close(shuffled.images[2], straight.images[2][order], 1e-12)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_discriminator_loss_and_gradients(size, text):
    g, inputs = golden(), golden()["in"]
    expected = g["D"][f"D{size}"]
    discriminator = from_original(expected["state"]).train()
    real = inputs[f"real{size}"].double()
    fake = g["G"]["train"]["images"][(64, 128, 256).index(size)].double()
    loss = losses.discriminator_loss(discriminator, real, fake, text.sentence.clone())
    loss.backward()
    close(loss, expected["loss"])
    names = original_names(discriminator)
    gradients = {names[name]: p.grad for name, p in discriminator.named_parameters()}
    assert gradients.keys() == expected["grads"].keys()
    for name, gradient in gradients.items():
        close(gradient, expected["grads"][name])


@pytest.mark.parametrize("size", [64, 128, 256])
def test_discriminator_outputs(size, text):
    expected = golden()["D"][f"D{size}"]
    real = golden()["in"][f"real{size}"].double()
    discriminator = from_original(expected["state"]).train()
    with torch.no_grad():
        features = discriminator(real)
        alone = discriminator.unconditional(features).sigmoid()
        pair = discriminator.conditional(features, text.sentence).sigmoid()
    close(features, expected["features_real"], 1e-12)
    close(alone, expected["uncond_real"], 1e-12)
    close(pair, expected["cond_real"], 1e-12)


def test_damsm_losses(text):
    g, inputs = golden(), golden()["in"]
    damsm = g["damsm"]
    words = losses.words_loss(
        damsm["regions"],
        text.words,
        inputs["lengths"],
        inputs["class_ids"],
        gamma3=10.0,
        **DAMSM,
    )
    sentence = losses.sentence_loss(damsm["code"], text.sentence, inputs["class_ids"], gamma3=10.0)
    for ours, name in zip((*words, *sentence), ("w0", "w1", "s0", "s1"), strict=True):
        close(ours, damsm[name], 1e-9)
    maps = losses.word_attention(damsm["regions"], text.words, inputs["lengths"], gamma1=4.0)
    for ours, theirs, length in zip(maps, damsm["maps"], inputs["lengths"], strict=True):
        close(ours[:length], theirs, 1e-10)


def test_kl_loss():
    train = golden()["G"]["train"]
    close(losses.kl_loss(train["mu"], train["logvar"]), golden()["kl"], 1e-12)
