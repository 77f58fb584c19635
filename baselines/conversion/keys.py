"""Our parameter names -> the originals', for every kind of network."""

from __future__ import annotations

import re

from torch import nn

from baselines.errors import UserError
from baselines.networks.discriminators import Discriminator
from baselines.networks.encoders import ImageEncoder, TextEncoder
from baselines.networks.generator import StackedGenerator
from baselines.networks.trunks import INCEPTION


class ConversionError(UserError):
    """What is given is no network of the originals, or has no form among them."""


# A 1x1 convolution over words, which the originals write as a 2-d one.
FLATTENED = "att.conv_context.weight"

_STAGE = {
    "fusion.alr.word_projection.": "att.conv_context.",
    "fusion.word_gate.": "A.",
    "fusion.image_gate.": "B.",
    "fusion.write_words.": "M_w.",
    "fusion.write_image.": "M_r.",
    "fusion.key.": "key.",
    "fusion.value.": "value.",
    "fusion.response_gate.": "response_gate.0.",
    "residual.": "residual.",
    "upsample.": "upsample.",
}
_ENCODERS = {
    "embedding.": "encoder.",
    "rnn.": "rnn.",
    "trunk.net.": "",
    "region_head.": "emb_features.",
    "code_head.": "emb_cnn_code.",
}
_HEADS = {
    "conditional.joint.": "COND_DNET.jointConv.",
    "conditional.logit.": "COND_DNET.outlogits.0.",
    "unconditional.logit.": "UNCOND_DNET.outlogits.0.",
}
# What follows the four blocks of img_code_s16, by image size.
_LATER_BLOCKS = {
    64: (),
    128: ("img_code_s32", "img_code_s32_1"),
    256: ("img_code_s32", "img_code_s64", "img_code_s64_1", "img_code_s64_2"),
}
_SPECTRAL = {
    "0.bias": "0.module.bias",
    "0.parametrizations.weight.original": "0.module.weight_bar",
    "0.parametrizations.weight.0._u": "0.module.weight_u",
    "0.parametrizations.weight.0._v": "0.module.weight_v",
}


def original_names(module: nn.Module) -> dict[str, str]:
    """The original name of every entry of the module's state_dict.

    Raises:
        ConversionError: the originals have no network of this kind or size.
    """
    keys = module.state_dict().keys()
    if isinstance(module, StackedGenerator):
        return {key: _generator_name(key, module.single_image) for key in keys}
    if isinstance(module, Discriminator):
        if module.image_size not in _LATER_BLOCKS:
            raise ConversionError(
                f"the originals have discriminators for {list(_LATER_BLOCKS)} px, none for "
                f"{module.image_size}"
            )
        return {key: _discriminator_name(key, module) for key in keys}
    if isinstance(module, ImageEncoder) and module.trunk_name != INCEPTION:
        raise ConversionError(
            f"the originals' image encoder is {INCEPTION}, this one is {module.trunk_name}"
        )
    if isinstance(module, (TextEncoder, ImageEncoder)):
        return {key: _renamed(key, _ENCODERS) for key in keys}
    raise ConversionError(f"the originals have no counterpart of {type(module).__name__}")


def _renamed(key: str, prefixes: dict[str, str]) -> str:
    for ours, theirs in prefixes.items():
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    raise ConversionError(f"the originals have no counterpart of {key}")


def _generator_name(key: str, single_image: bool) -> str:
    part, _, rest = key.partition(".")
    if part == "conditioning":
        return f"ca_net.{rest}"
    if part == "initial":
        return "h_net1." + re.sub(r"^upsample\.(\d+)", lambda m: f"upsample{int(m[1]) + 1}", rest)
    index, _, rest = rest.partition(".")
    if part == "heads":
        number = "" if single_image else int(index) + 1
        return f"img_net{number}.img.{rest}"
    return f"h_net{int(index) + 2}." + _renamed(rest, _STAGE)


def _discriminator_name(key: str, module: Discriminator) -> str:
    spectral = module.norm == "spectral"
    if not key.startswith("trunk."):
        name = _renamed(key, _HEADS)
        block, joint, rest = name.partition("jointConv.")
        return block + joint + _SPECTRAL.get(rest, rest) if spectral and joint else name
    index, rest = key.removeprefix("trunk.").split(".", 1)
    number = int(index)
    rest = _SPECTRAL.get(rest, rest) if spectral else rest
    if number >= 4:
        return f"{_LATER_BLOCKS[module.image_size][number - 4]}.{rest}"
    # img_code_s16 is one flat sequence of four blocks; the first has no batch norm.
    first = 2 * number if spectral else max(3 * number - 1, 0)
    layer, rest = rest.split(".", 1)
    return f"img_code_s16.{first + int(layer)}.{rest}"
