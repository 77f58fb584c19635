"""Full-size networks against the originals' key lists and counted parameters."""

import pytest
import torch

from baselines.convert import to_original
from baselines.hosts.attngan.fusion import WordAttention
from baselines.hosts.dmgan.fusion import DynamicMemory
from baselines.networks.discriminators import Discriminator
from baselines.networks.encoders import ImageEncoder, TextEncoder
from baselines.networks.generator import StackedGenerator
from tests.baselines.networks.original import listed_keys
from tests.support.keys import read_keys

BIRD = {
    "attngan": {"fusion": WordAttention, "feature_dim": 32},
    "attndcgan": {
        "fusion": WordAttention,
        "feature_dim": 32,
        "residual_blocks": 0,
        "single_image": True,
    },
    "dmgan": {"fusion": DynamicMemory, "feature_dim": 64},
}
COCO = {
    "attngan": {"fusion": WordAttention, "feature_dim": 48, "residual_blocks": 3},
    "dmgan": {"fusion": DynamicMemory, "feature_dim": 64, "residual_blocks": 3},
}


def make(kind, **sizes):
    with torch.device("meta"):
        return kind(**sizes)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def shapes(module):
    return {key: tuple(value.shape) for key, value in to_original(module).items()}


def discriminator(model, size):
    return make(
        Discriminator,
        image_size=size,
        feature_dim=32 if model == "dmgan" else 64,
        norm="spectral" if model == "dmgan" else "batch",
        unconditional=model != "attndcgan",
    )


@pytest.mark.parametrize("model", BIRD)
def test_generator_and_text_encoder_have_the_listed_keys(model):
    listed = read_keys(model)
    assert shapes(make(StackedGenerator, **BIRD[model])) == listed["G"]
    assert shapes(make(TextEncoder, vocabulary_size=5450)) == listed["text"]


@pytest.mark.parametrize(
    ("model", "size"),
    [(m, s) for m in ("attngan", "dmgan") for s in (64, 128, 256)] + [("attndcgan", 256)],
)
def test_discriminator_has_the_listed_keys(model, size):
    assert shapes(discriminator(model, size)) == read_keys(model)[f"D{size}"]


def test_image_encoder_has_the_listed_keys():
    ours, listed = shapes(make(ImageEncoder)), read_keys("attngan")["image"]
    assert listed.items() <= ours.items()


@pytest.mark.parametrize(
    ("model", "sizes", "expected"),
    [
        ("bird attngan", BIRD["attngan"], (7_084_592, 6_444_928, 267_136, 864)),
        ("bird attndcgan", BIRD["attndcgan"], (6_638_960, 6_444_928, 45_184, 864)),
        ("bird dmgan", BIRD["dmgan"], (21_449_042, 19_156_736, 1_092_161, 1_728)),
        ("coco attngan", COCO["attngan"], (13_811_456, 12_017_472, 843_648, 1_296)),
        ("coco dmgan", COCO["dmgan"], (22_335_314, 19_156_736, 1_535_297, 1_728)),
    ],
)
def test_generator_has_as_many_parameters_as_the_original(model, sizes, expected):
    generator = make(StackedGenerator, **sizes)
    assert count(generator.conditioning) == 102_800
    parts = (generator, generator.initial, generator.stages[1], generator.heads[0])
    assert tuple(map(count, parts)) == expected


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("attngan", {64: 6_313_730, 128: 19_424_002, 256: 71_858_946}),
        ("dmgan", {64: 1_878_242, 128: 5_155_810, 256: 18_264_546}),
        ("attndcgan", {256: 71_850_753}),
    ],
)
def test_discriminator_has_as_many_parameters_as_the_original(model, expected):
    assert {size: count(discriminator(model, size)) for size in expected} == expected


def test_encoders_have_as_many_parameters_as_the_originals():
    image = make(ImageEncoder)
    assert count(image) == 22_506_720
    assert count(image.region_head) + count(image.code_head) == 721_152
    assert count(make(TextEncoder, vocabulary_size=5450)) == 2_075_320
    assert count(make(TextEncoder, vocabulary_size=27297)) == 8_629_420


@pytest.mark.parametrize("model", BIRD)
def test_the_keys_in_the_project_are_the_originals(model):
    assert read_keys(model) == listed_keys(f"keys_{model}_bird.txt")
