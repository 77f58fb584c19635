"""Checkpoints of AttnGAN, DM-GAN and MirrorGAN: recognising them, and our names -> theirs.

All call their networks `G_NET` or `G_DCGAN` and `D_NET64`, `D_NET128`, `D_NET256`; what differs is
the fusion in `NEXT_STAGE_G` and the norm of the discriminators.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from baselines.config import ModelConfig, to_dict
from baselines.networks.discriminators import Discriminator
from baselines.networks.generator import FIRST_GRID, StackedGenerator
from baselines.networks.originals import ConversionError, count, renamed

State = Mapping[str, Tensor]
SPECTRAL_KEY = "img_code_s16.0.module.weight_bar"
MEMORY_KEY = "h_net2.M_w.0.weight"
GATE_KEY = "h_net2.att.linear.weight"

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


def is_generator(state: State) -> bool:
    """Whether the keys are those of a `G_NET` or `G_DCGAN`."""
    return (
        "ca_net.fc.weight" in state
        and "h_net1.fc.0.weight" in state
        and "h_net2.jointConv.0.weight" not in state  # StackGAN++
    )


def is_discriminator(state: State) -> bool:
    """Whether the keys are those of a `D_NET` with the conditional head `COND_DNET`."""
    trunk = "img_code_s16.0.weight" in state or SPECTRAL_KEY in state
    return trunk and any(key.startswith("COND_DNET.") for key in state)


def condition_dim_of(state: State) -> int:
    """C of the conditioning augmentation `CA_NET`."""
    return state["ca_net.fc.bias"].shape[0] // 4


def sizes_of(state: State) -> dict[str, int]:
    """What the keys of any stacked `G_NET` tell of its text, its noise and its stages."""
    condition_dim = condition_dim_of(state)
    return {
        "embedding_dim": state["ca_net.fc.weight"].shape[1],
        "condition_dim": condition_dim,
        "noise_dim": state["h_net1.fc.0.weight"].shape[1] - condition_dim,
        "base_size": FIRST_GRID * 2 ** count(state, r"h_net1\.upsample(\d+)\."),
        "stages": count(state, r"h_net(\d+)\."),
        "residual_blocks": count(state, r"h_net2\.residual\.(\d+)\."),
    }


def generator_like(state: State, fusion: Callable[[int, int], nn.Module]) -> StackedGenerator:
    """The generator that a state_dict belongs to, without values."""
    single_image = "img_net.img.0.weight" in state
    head = "img_net.img.0.weight" if single_image else "img_net1.img.0.weight"
    return StackedGenerator(
        feature_dim=state[head].shape[1],
        fusion=fusion,
        single_image=single_image,
        **sizes_of(state),
    )


def discriminator_like(state: State) -> Discriminator:
    """The discriminator that a state_dict belongs to, without values."""
    spectral = SPECTRAL_KEY in state
    first = state[SPECTRAL_KEY if spectral else "img_code_s16.0.weight"]
    joint = "COND_DNET.jointConv.0." + ("module.weight_bar" if spectral else "weight")
    image_size = 64 * 2 ** count(state, r"img_code_s(32|64)\.")
    return Discriminator(
        image_size=image_size,
        feature_dim=first.shape[0],
        embedding_dim=state[joint].shape[1] - 8 * first.shape[0],
        norm="spectral" if spectral else "batch",
        unconditional="UNCOND_DNET.outlogits.0.weight" in state,
    )


def generator_names(generator: StackedGenerator, fusion: Mapping[str, str]) -> dict[str, str]:
    """The original name of every entry; `fusion` has the prefixes inside a fusion."""
    prefixes = {f"fusion.{ours}": theirs for ours, theirs in fusion.items()}
    return staged_names(generator, prefixes, single_image=generator.single_image)


def staged_names(
    generator: nn.Module, stage: Mapping[str, str], *, single_image: bool = False
) -> dict[str, str]:
    """The same for any generator of such parts; `stage` has the prefixes that stages add."""
    prefixes = {**stage, "residual.": "residual.", "upsample.": "upsample."}
    return {key: _generator_name(key, single_image, prefixes) for key in generator.state_dict()}


def discriminator_names(
    discriminator: Discriminator, heads: Mapping[str, str] = _HEADS
) -> dict[str, str]:
    """The original name of every entry; `heads` has the prefixes of the two heads.

    Raises:
        ConversionError: the originals have no discriminator of this size.
    """
    if discriminator.image_size not in _LATER_BLOCKS:
        raise ConversionError(
            f"the originals have discriminators for {list(_LATER_BLOCKS)} px, none for "
            f"{discriminator.image_size}"
        )
    state = discriminator.state_dict()
    return {key: _discriminator_name(key, discriminator, heads) for key in state}


def generator_description(generator: StackedGenerator, model: ModelConfig) -> dict[str, Any]:
    """What `Host.describe` says of a generator of the host that `model` names."""
    found = replace(
        model,
        feature_dim=generator.feature_dim,
        condition_dim=generator.condition_dim,
        noise_dim=generator.noise_dim,
        base_size=generator.base_size,
        stages=len(generator.stages) + 1,
        residual_blocks=generator.residual_blocks,
        single_image=generator.single_image,
        legacy_mask=generator.legacy_mask,
    )
    return {"kind": "generator", **to_dict(found)}


def discriminator_description(discriminator: Discriminator) -> dict[str, Any]:
    """What `Host.describe` says of a discriminator."""
    return {
        "kind": f"discriminator_{discriminator.image_size}",
        "feature_dim": discriminator.feature_dim,
        "norm": discriminator.norm,
        "unconditional": discriminator.unconditional is not None,
    }


def _generator_name(key: str, single_image: bool, prefixes: Mapping[str, str]) -> str:
    part, _, rest = key.partition(".")
    if part == "conditioning":
        return f"ca_net.{rest}"
    if part == "initial":
        return "h_net1." + re.sub(r"^upsample\.(\d+)", lambda m: f"upsample{int(m[1]) + 1}", rest)
    index, _, rest = rest.partition(".")
    if part == "heads":
        number = "" if single_image else str(int(index) + 1)
        return f"img_net{number}.img.{rest}"
    return f"h_net{int(index) + 2}." + renamed(rest, prefixes)


def _discriminator_name(key: str, module: Discriminator, heads: Mapping[str, str]) -> str:
    spectral = module.norm == "spectral"
    if not key.startswith("trunk."):
        name = renamed(key, heads)
        block, joint, rest = name.partition("jointConv.")
        return block + joint + _SPECTRAL.get(rest, rest) if spectral and joint else name
    index, rest = key.removeprefix("trunk.").split(".", 1)
    place = int(index)
    rest = _SPECTRAL.get(rest, rest) if spectral else rest
    if place >= 4:
        return f"{_LATER_BLOCKS[module.image_size][place - 4]}.{rest}"
    # img_code_s16 is one flat sequence of four blocks; the first has no batch norm.
    first = 2 * place if spectral else max(3 * place - 1, 0)
    layer, rest = rest.split(".", 1)
    return f"img_code_s16.{first + int(layer)}.{rest}"
