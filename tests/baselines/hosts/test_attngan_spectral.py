"""AttnGAN with spectral norm in its discriminators: the control beside layout refinement."""

import dataclasses

import pytest
import torch
from torch import nn

from baselines import train
from baselines.hosts import HOSTS, build_discriminators
from tests.baselines.commands import stats_of, train_tiny

NAMES = ("cub", "coco", "scenes", "demo")


@pytest.mark.parametrize("host", ["attngan", "alrgan"])
@pytest.mark.parametrize("name", NAMES)
def test_the_preset_differs_in_the_norm_alone(host, name):
    presets = HOSTS[host].presets
    plain, spectral = presets[name], presets[f"{name}-sn"]
    assert spectral.model.discriminator_norm == "spectral" and not plain.model.discriminator_norm
    model = dataclasses.replace(spectral.model, discriminator_norm="")
    assert dataclasses.replace(spectral, model=model) == plain


def test_no_batch_norm_is_left_and_every_convolution_but_the_logits_is_normalised():
    config = HOSTS["attngan"].presets["cub-sn"]
    with torch.device("meta"):
        networks = build_discriminators(config)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in networks.modules())
    for network in networks:
        normalised = {
            name.removesuffix(".parametrizations.weight.original")
            for name, _ in network.named_parameters()
            if name.endswith(".original")
        }
        convolutions = {
            name for name, part in network.named_modules() if isinstance(part, nn.Conv2d)
        }
        assert convolutions - normalised == {"conditional.logit", "unconditional.logit"}


@pytest.mark.parametrize("refine", ["", "alr,lvr"])
def test_it_trains_by_name_with_and_without_refinement(refine, tmp_path, encoders, monkeypatch):
    parse = train.parse

    def with_preset(argv):
        argv = list(argv)
        argv[argv.index("--preset") + 1] = "demo-sn"
        return parse(argv)

    monkeypatch.setattr(train, "parse", with_preset)
    state = train_tiny("attngan", tmp_path, encoders, 2, refine=refine)
    assert any("parametrizations" in name for name in state["networks"]["discriminators"])
    assert ("G/stage1/alr" in stats_of(tmp_path)[-1]) == bool(refine)
