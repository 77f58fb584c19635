"""StackGAN++'s released networks: `G_NET` with `jointConv`, and its `D_NET`s."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeGuard

from torch import Tensor, nn

from baselines.config import to_dict
from baselines.hosts.stacked_original import (
    discriminator_description,
    discriminator_names,
    sizes_of,
    staged_names,
)
from baselines.hosts.stackgan.generator import StackGANGenerator
from baselines.hosts.stackgan.presets import MODEL
from baselines.networks.discriminators import Discriminator
from baselines.networks.originals import ConversionError, count

State = Mapping[str, Tensor]

HEADS = {
    "conditional.joint.": "jointConv.",
    "conditional.logit.": "logits.0.",
    "unconditional.logit.": "uncond_logits.0.",
}


def read_original(state: State) -> nn.Module | None:
    """The network that `state` belongs to, without values; None if it is not StackGAN++'s.

    Raises:
        ConversionError: it is the unconditional variant, which draws without captions.
    """
    if "h_net2.jointConv.0.weight" in state:
        return _generator_like(state)
    if "img_code_s16.0.weight" in state and "uncond_logits.0.weight" in state:
        return _discriminator_like(state)
    return None


def _generator_like(state: State) -> StackGANGenerator:
    if "ca_net.fc.bias" not in state:
        raise ConversionError(
            "looks like StackGAN++'s unconditional variant (no ca_net.fc.bias), which draws "
            "without captions; convert a conditional one"
        )
    return StackGANGenerator(feature_dim=state["img_net1.img.0.weight"].shape[1], **sizes_of(state))


def _discriminator_like(state: State) -> Discriminator:
    feature_dim = state["img_code_s16.0.weight"].shape[0]
    return Discriminator(
        image_size=64 * 2 ** count(state, r"img_code_s(32|64)\."),
        feature_dim=feature_dim,
        embedding_dim=state["jointConv.0.weight"].shape[1] - 8 * feature_dim,
        sentence_first=True,
    )


def original_names(module: nn.Module) -> dict[str, str] | None:
    """The original's name of every entry of the state_dict; None if it has no such network.

    Raises:
        ConversionError: the network is StackGAN++'s, of a size that the original has not.
    """
    if isinstance(module, StackGANGenerator):
        if module.base_size != 64 or len(module.image_sizes) > 3:
            raise ConversionError(
                "the original draws 64 px and at most two doublings of it, this generator draws "
                f"{', '.join(map(str, module.image_sizes))} px"
            )
        return staged_names(module, {"joint.": "jointConv."})
    return discriminator_names(module, HEADS) if _is_discriminator(module) else None


def describe(module: nn.Module) -> dict[str, Any] | None:
    """Kind and sizes, see `Host.describe`."""
    if isinstance(module, StackGANGenerator):
        model = replace(
            MODEL,
            feature_dim=module.feature_dim,
            condition_dim=module.condition_dim,
            noise_dim=module.noise_dim,
            base_size=module.base_size,
            stages=len(module.image_sizes),
            residual_blocks=module.residual_blocks,
        )
        return {"kind": "generator", **to_dict(model)}
    return discriminator_description(module) if _is_discriminator(module) else None


def _is_discriminator(module: nn.Module) -> TypeGuard[Discriminator]:
    return isinstance(module, Discriminator) and module.sentence_first and module.norm == "batch"
